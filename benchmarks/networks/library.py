"""Where networks come from: a room for each library, left out where it is not installed."""

import importlib
import sys
from pathlib import Path

import torch

from benchmarks.networks.case import Case

ROOMS = {
    "handwritten": "handwritten",
    "timm": "timm_images",
    "torchvision": "torchvision_images",
    "smp": "segmentation",
    "transformers": "texts",
    "transformers, images and sound": "images_and_sound",
    "peft": "adapters",
}
"""By the library's name, the module here that has its networks in `CASES`."""

_DECLARED: list[torch.library.Library] = []


def cases(folder: Path | None) -> tuple[list[Case], dict[str, str]]:
    """All networks, and why those of a library are missing.

    Args:
        folder: where libraries that are not installed are.
    """
    if folder is not None:
        sys.path.append(str(folder.resolve()))
    declare_operators()
    found: list[Case] = []
    absent: dict[str, str] = {}
    for library, room in ROOMS.items():
        try:
            found += importlib.import_module(f"benchmarks.networks.{room}").CASES
        except ImportError as error:
            absent[library] = str(error)
    return found, absent


def declare_operators() -> None:
    """Where torchvision's C++ part does not load, declare what the rest of it expects of that part."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:  # "operator torchvision::nms does not exist"
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DECLARED.append(library)
    except ImportError:
        pass  # its room says so
