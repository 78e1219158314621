"""The MNIST digits as bodies of requests."""

from pathlib import Path

import numpy as np
import orjson

from benchmarks.bundles import mnist_module


def digits(folder: Path, count: int) -> np.ndarray:
    """The first test digits, `[count, 1, 28, 28]`, as clients send them: 0 to 255."""
    images, _ = mnist_module().load(folder, "test")
    return np.asarray(images[:count, None])


def one_each(images: np.ndarray) -> list[bytes]:
    """A body for each digit."""
    return [orjson.dumps({"inputs": image.tolist()}) for image in images]


def together(images: np.ndarray) -> bytes:
    """One body for all digits."""
    return orjson.dumps({"inputs": images.tolist()})
