"""Small bundles, written where a test wants them."""

import importlib.util
from pathlib import Path
from textwrap import dedent

import torch
import yaml
from safetensors.torch import save_file
from torch import nn

CLASSIFIER = """
    from torch import nn

    class Network(nn.Module):
        def __init__(self, width=8, classes=3):
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(4, width), nn.ReLU(), nn.Dropout(0.5), nn.Linear(width, classes)
            )

        def forward(self, x):
            return self.layers(x)
"""
REGRESSION = """
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(0.1))
            self.mean, self.log_variance = nn.Linear(16, 1), nn.Linear(16, 1)

        def forward(self, x):
            hidden = self.layers(x)
            return self.mean(hidden), self.log_variance(hidden)
"""
NOISE = {"mean": 0, "log_variance": 1}
TOKENS = """
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.first = nn.Embedding(20, 8), nn.Dropout(0.1)
            self.head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))

        def forward(self, *, attention_mask, input_ids):
            kept = attention_mask.unsqueeze(-1)
            hidden = self.first(self.embedding(input_ids)) * kept
            return {"hidden": hidden, "logits": self.head(hidden.sum(1) / kept.sum(1))}
"""
TEN_WORDS = """
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(10, 8)
            self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))

        def forward(self, x):
            return self.head(self.embedding(x.long()).sum(1))
"""
TOKEN_FIELDS: dict[str, object] = {
    "input": None,
    "inputs": [
        {"name": "input_ids", "shape": [5], "dtype": "int64", "minimum": 0, "maximum": 19},
        {"name": "attention_mask", "shape": [5], "dtype": "bool"},
    ],
    "inputs_by": "keyword",
    "output": "logits",
}


def manifest(folder: str, **changes: object) -> dict[str, object]:
    """A manifest that is accepted, with some fields changed; None removes one."""
    fields: dict[str, object] = {
        "name": folder,
        "version": "1",
        "task": "classification",
        "input": {"shape": [4]},
        "network": "network.py:Network",
        "weights": "weights.safetensors",
    }
    return {key: value for key, value in (fields | changes).items() if value is not None}


def write_bundle(models: Path, name: str, code: str = CLASSIFIER, **changes: object) -> Path:
    """A bundle of that code, with freshly drawn weights."""
    folder = models / name
    folder.mkdir(parents=True)
    (folder / "network.py").write_text(dedent(code))
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest(name, **changes)))
    save_file(network_of(folder).state_dict(), folder / "weights.safetensors")
    return folder


def write_ten_words(models: Path, name: str, **changes: object) -> Path:
    """A bundle whose step fails where a row has another word than 0 to 9: of floats no range is looked for."""
    folder = write_bundle(models, name, TEN_WORDS, **changes)
    (folder / "example.json").write_text('{"inputs": [[1, 2, 3, 4]]}')
    return folder


def network_of(folder: Path) -> nn.Module:
    """The network of a bundle's code, with weights drawn from a fixed seed."""
    spec = importlib.util.spec_from_file_location(f"network_of_{folder.name}", folder / "network.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network: nn.Module = module.Network()
    return network.eval()
