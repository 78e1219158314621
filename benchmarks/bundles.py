"""The networks and the rows that are measured: those of `models/`."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

REPOSITORY = Path(__file__).resolve().parents[1]
MODELS = REPOSITORY / "models"


def load_network(name: str) -> tuple[nn.Module, str | None]:
    """The network of `models/<name>` in eval mode, and a warning where it has no trained weights."""
    torch.manual_seed(0)
    network: nn.Module = _module(MODELS / name / "network.py").Network()
    weights = MODELS / name / "weights.safetensors"
    if not weights.exists():
        return network.eval(), f"{name}: random weights ({weights.relative_to(REPOSITORY)} is missing)"
    network.load_state_dict(load_file(weights))
    return network.eval(), None


def load_rows(data_dir: Path, count: int) -> tuple[Tensor, str | None]:
    """The first `count` test digits `[count, 1, 28, 28]` in 0..1, and a warning where they are random instead."""
    try:
        images, _ = mnist_module().load(data_dir, "test")
    except (OSError, ImportError) as error:
        generator = torch.Generator().manual_seed(0)
        return torch.rand(count, 1, 28, 28, generator=generator), f"random rows (no MNIST digits: {error})"
    return torch.from_numpy(images[:count].astype(np.float32) / 255).unsqueeze(1), None


def mnist_module() -> ModuleType:
    """`models/mnist.py`; raises ImportError where what training needs is not installed."""
    return _module(MODELS / "mnist.py")


def _module(path: Path) -> ModuleType:
    name = "_".join(path.relative_to(MODELS).with_suffix("").parts).replace("-", "_")
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
