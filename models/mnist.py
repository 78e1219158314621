"""The MNIST digits, read from the four standard IDX files, and what every MNIST bundle trains with.

Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", http://yann.lecun.com/exdb/mnist/.
"""

import argparse
import gzip
import hashlib
import json
import math
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

MIRROR = "https://storage.googleapis.com/cvdf-datasets/mnist/"
FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def _read_idx(path: Path, md5: str) -> np.ndarray:
    content = gzip.decompress(path.read_bytes())
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise ValueError(f"{path}: the MD5 of its content is {found}, not MNIST's {md5}; fetch it again")
    dimensions = content[3]
    shape = np.frombuffer(content, ">i4", dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def download(folder: Path) -> None:
    """Fetch the files that `folder` lacks from the public mirror."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        path = folder / f"{name}.gz"
        if not path.exists():
            partial = path.with_suffix(".part")
            urllib.request.urlretrieve(MIRROR + path.name, partial)
            partial.rename(path)


def load(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images `[n, 28, 28]` and labels `[n]`, uint8, of `split`, "train" or "test"; raises where a file is damaged."""
    prefix = {"train": "train", "test": "t10k"}[split]
    names = f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
    images, labels = (_read_idx(folder / f"{name}.gz", FILES[name]) for name in names)
    return images, labels


def parse_arguments(description: str | None, folder: Path, epochs: int) -> argparse.Namespace:
    """The options of every MNIST bundle's `train.py`, whose folder is `folder` and whose default is `epochs`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data-dir", type=Path, help="folder of the four MNIST IDX files, gzipped")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=folder, help="folder for weights.safetensors and results.json")
    return parser.parse_args()


class Data(NamedTuple):
    """Images `[n, 1, 28, 28]` in 0..1 and labels `[n]`, to train with and to test with."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def fetched() -> Path:
    """The folder of MNIST's files where nobody names one, with those that it lacked."""
    folder = Path.home() / ".cache" / "mcdropout" / "mnist"
    download(folder)
    return folder


def load_data(data_dir: Path | None) -> Data:
    """MNIST from a folder; fetched where none is given."""
    folder = data_dir or fetched()
    tensors: list[Tensor] = []
    for split in ("train", "test"):
        images, labels = load(folder, split)
        tensors.append(torch.from_numpy(images.astype(np.float32) / 255).unsqueeze(1))
        tensors.append(torch.from_numpy(labels.astype(np.int64)))
    return Data(*tensors)


def shift_by_a_pixel(images: Tensor) -> Tensor:
    """Each image moved by -1, 0 or 1 pixel in each direction."""
    count, _, height, width = images.shape
    padded = F.pad(images, (1, 1, 1, 1))[:, 0]
    down, right = torch.randint(0, 3, (2, count, 1))
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def random_affine(images: Tensor) -> Tensor:
    """Each image turned by up to 12 degrees, scaled by 0.88 to 1.12, sheared by 0.1, and shifted by up to 2 pixels."""
    count = len(images)

    def uniform(limit: float) -> Tensor:
        return (torch.rand(count) * 2 - 1) * limit

    angle, scale, shear = uniform(math.radians(12)), 1 + uniform(0.12), uniform(0.1)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    shift = 2 * 2 / images.shape[-1]
    matrix = torch.stack(
        [
            torch.stack([cos, -sin + shear, uniform(shift)], 1),
            torch.stack([sin, cos, uniform(shift)], 1),
        ],
        1,
    )
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


@torch.inference_mode()
def evaluate(network: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Error (a share, 0..1) and mean negative log-likelihood (nats) of the deterministic network."""
    network.eval()
    logits = torch.cat([network(batch) for batch in images.split(1000)])
    wrong = (logits.argmax(1) != labels).float().mean().item()
    return wrong, F.cross_entropy(logits, labels).item()


def fit(
    network: nn.Module,
    data: Data,
    *,
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[float], float],
    epochs: int,
    batch_size: int,
    title: str,
    augment: Callable[[Tensor], Tensor] = lambda batch: batch,
    after_step: Callable[[], None] = lambda: None,
) -> list[dict[str, float]]:
    """Train with cross-entropy and return the convergence curve, one entry an epoch.

    `schedule` maps the share of training done (0..1) to a factor on the learning rate. The test set is only looked
    at to draw the curve: the network that counts is the one after the last epoch, whatever the curve did before.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    images, labels, test_images, test_labels = data
    steps = epochs * (len(images) // batch_size)
    curve: list[dict[str, float]] = []
    progress = tqdm(total=steps, desc=title, unit="step", mininterval=1.0)
    for epoch in range(1, epochs + 1):
        network.train()
        total = 0.0
        for batch in _batches(len(images), batch_size):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * schedule(progress.n / steps)
            loss = F.cross_entropy(network(augment(images[batch])), labels[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            after_step()
            total += loss.item() * batch_size
            progress.update()
        error, nll = evaluate(network, test_images, test_labels)
        seen = len(images) // batch_size * batch_size
        curve.append({"epoch": epoch, "train_loss": total / seen, "test_error": error, "test_nll": nll})
        progress.set_postfix(loss=f"{total / seen:.4f}", error=f"{error:.2%}")
    progress.close()
    return [{name: round(value, 6) for name, value in entry.items()} for entry in curve]


def _batches(count: int, size: int) -> Iterator[Tensor]:
    yield from torch.randperm(count)[: count // size * size].split(size)


def save_weights(folder: Path, network: nn.Module) -> None:
    """Write `weights.safetensors` into the bundle's folder."""
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    path = folder / "weights.safetensors"
    save_file(weights, path)
    path.chmod(0o644)  # it is written for its owner alone, and a server may run as somebody else


def save_results(folder: Path, results: dict[str, Any], started: float) -> None:
    """Write `results.json` into the bundle's folder, with the versions and the time that it took (seconds)."""
    results = {**results, "torch": torch.__version__, "seconds": round(time.time() - started)}
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
