"""Canvases: handwritten figures laid out at random places, none touching another, and which pixels are whose."""

import struct
import urllib.request
import zipfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import mnist
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SIZE = 48  # pixels, of both sides
INK = 128  # from this grey on, of 255, a pixel belongs to its figure

OMNIGLOT = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/images_background_small1.zip"


class Canvases(NamedTuple):
    """Images `[n, 1, size, size]` in 0..1; maps `[n, size, size]`, 0 where there is no ink and the figure's class plus
    1 where there is; and counts `[n, classes]`, how many figures of each class a canvas holds."""

    images: Tensor
    maps: Tensor
    counts: Tensor


class Figures(NamedTuple):
    """Images cut to their ink, uint8, each of its own size, and their classes."""

    images: list[np.ndarray]
    classes: np.ndarray


def cut_to_ink(images: np.ndarray, classes: np.ndarray) -> Figures:
    """Figures of images `[n, height, width]`, uint8, and classes `[n]`."""
    cut = []
    for image in images:
        rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
        cut.append(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    return Figures(cut, classes)


def compose(figures: Figures, count: int, seed: int, fewest: int = 0, most: int = 3) -> Canvases:
    """`count` canvases, each of `fewest` to `most` figures drawn anew, as many of each number as of another.

    A figure for which 50 places were tried, and taken, is left out.
    """
    random = np.random.default_rng(seed)
    images = np.zeros((count, SIZE, SIZE), np.uint8)
    maps = np.zeros((count, SIZE, SIZE), np.int64)
    counts = np.zeros((count, 10), np.int64)
    for canvas, (image, owner) in enumerate(zip(images, maps, strict=True)):
        for figure in random.integers(len(figures.images), size=random.integers(fewest, most + 1)):
            ink, number = figures.images[figure], figures.classes[figure]
            height, width = ink.shape
            for top, left in random.integers(0, (SIZE - height + 1, SIZE - width + 1), size=(50, 2)):
                if not image[max(top - 1, 0) : top + height + 1, max(left - 1, 0) : left + width + 1].any():
                    image[top : top + height, left : left + width] = ink
                    owner[top : top + height, left : left + width] = (ink >= INK) * (number + 1)
                    counts[canvas, number] += 1
                    break
    return Canvases(torch.from_numpy(images.astype(np.float32) / 255)[:, None], *map(torch.from_numpy, (maps, counts)))


def digits(folder: Path | None) -> tuple[Figures, Figures]:
    """MNIST's digits, cut to their ink, to train with and to test with; fetched where no folder is given."""
    folder = folder or mnist.fetched()
    train, test = (cut_to_ink(*mnist.load(folder, split)) for split in ("train", "test"))
    return train, test


def omniglot(path: Path | None) -> Figures:
    """Characters of five alphabets, in the size and the thickness of MNIST's digits: what a digit model never saw.

    B. Lake, R. Salakhutdinov, J. Tenenbaum, "Human-level concept learning through probabilistic program induction",
    Science 2015. From their archive; fetched where no path is given. Their class is 0.
    """
    if path is None:
        path = Path.home() / ".cache" / "mcdropout" / "omniglot" / "images_background_small1.zip"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".part")
            urllib.request.urlretrieve(OMNIGLOT, partial)
            partial.rename(path)
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png") and not name.startswith("__"))
        characters = [_resized(_read_bitmap(archive.read(name))) for name in names]
    return Figures(characters, np.zeros(len(characters), np.int64))


def _resized(ink: np.ndarray) -> np.ndarray:
    """A figure as MNIST has its own: 20 pixels long, strokes of some two pixels, grey at their edges."""
    (figure,) = cut_to_ink(ink[None], np.zeros(1)).images
    strokes = F.max_pool2d(F.pad(torch.from_numpy(figure.astype(np.float32))[None, None], (2,) * 4), 5, 1, padding=2)
    height, width = strokes.shape[2:]
    scale = 20 / max(height, width)
    small = F.interpolate(strokes, (max(1, round(height * scale)), max(1, round(width * scale))), mode="area")
    (resized,) = cut_to_ink((small[0] * 255).round().to(torch.uint8).numpy(), np.zeros(1)).images
    return resized


def _read_bitmap(content: bytes) -> np.ndarray:
    """The ink `[height, width]`, 0 or 1, of a PNG of one bit a pixel, unfiltered, black on white: as Omniglot's are."""
    stream, chunks = BytesIO(content[8:]), {b"IDAT": b""}
    while header := stream.read(8):
        length, kind = struct.unpack(">I4s", header)
        chunks[kind] = chunks.get(kind, b"") + stream.read(length)
        stream.read(4)  # the checksum
    width, height, *form = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    if form != [1, 0, 0, 0, 0] or lines[:, 0].any():
        raise ValueError(f"a PNG of the form {form}, filtered by {set(lines[:, 0])}; 1, 0, 0, 0, 0 and 0 are accepted")
    return 1 - np.unpackbits(lines[:, 1:], axis=1)[:, :width]
