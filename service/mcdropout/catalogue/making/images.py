"""Images: what a vision model of Hugging Face takes, by its image processor."""

import json
from pathlib import Path
from typing import Any

from mcdropout.catalogue.making.draft import DraftInput
from mcdropout.catalogue.making.source import Source, SourceError

_PROCESSOR = "preprocessor_config.json"
_WHITE = 255
_BILINEAR = 2
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # as Pillow numbers them
_INPUT = "pixel_values"


def taken(source: Source, network: Any) -> Any:
    """Inputs, sizes, files, hook and example of a model of images."""
    folder = source.path
    if source.sizes:
        raise SourceError(
            f"--sizes is given for {folder}, a model of images; it is accepted for texts, as tokens=1:128"
        )
    settings = _settings(folder)
    config = network.config
    channels = getattr(config, "num_channels", 3)
    if channels not in (1, 3):
        raise SourceError(f"{folder} takes images of {channels} channels; 1 and 3 are accepted")
    height, width, resized = _size(settings, config, folder)
    how = _FILTERS.get(settings.get("resample", _BILINEAR), "bilinear")
    if resized["resize"] != "none" and how != "bilinear":
        resized["filter"] = how
    given = DraftInput(
        _INPUT,
        (channels, height, width),
        "float32",
        0,
        _WHITE,
        steps_of(settings, channels),
        {"mode": "rgb" if channels == 3 else "grey", **resized},
    )
    return (given,), {}, {}, None, None


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / _PROCESSOR
    if not path.is_file():
        raise SourceError(
            f"{folder} has no {_PROCESSOR}, which says how an image becomes numbers; what "
            "image_processor.save_pretrained(folder) writes is accepted"
        )
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise SourceError(f"{path} cannot be read as JSON: {error}") from error
    return dict(found)


def _size(settings: dict[str, Any], config: Any, folder: Path) -> tuple[int, int, dict[str, Any]]:
    """Height, width, and how images are brought to them."""
    size, crop = _pair(settings.get("size")), _pair(settings.get("crop_size"))
    resizes = settings.get("do_resize", True)
    if settings.get("do_center_crop") and crop is not None:
        shortest = (settings.get("size") or {}).get("shortest_edge")
        more = {"shorter": int(shortest)} if shortest and shortest > max(crop) else {}
        return *crop, {"resize": "crop", **more} if resizes else {"resize": "none"}
    if resizes and size is not None:
        return *size, {"resize": "stretch"}
    side = getattr(config, "image_size", None)
    found = (side, side) if isinstance(side, int) else tuple(side) if side else size
    if found is None or len(found) != 2:
        raise SourceError(f"{folder / _PROCESSOR} says no height and width; `size` with these is accepted")
    return int(found[0]), int(found[1]), {"resize": "crop" if resizes else "none"}


def _pair(size: Any) -> tuple[int, int] | None:
    if isinstance(size, int):
        return size, size
    if isinstance(size, dict) and {"height", "width"} <= set(size):
        return int(size["height"]), int(size["width"])
    if isinstance(size, dict) and "shortest_edge" in size:
        return int(size["shortest_edge"]), int(size["shortest_edge"])
    return None


def steps_of(settings: dict[str, Any], channels: int) -> dict[str, Any]:
    """What is done to pixels of 0 to 255, as `preprocessing` has it."""
    steps: dict[str, Any] = {}
    if settings.get("do_rescale", True):
        steps["scale"] = float(settings.get("rescale_factor", 1.0 / _WHITE))
    if settings.get("do_normalize", True):
        for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
            value = settings.get(theirs)
            if value is not None:
                steps[ours] = [float(x) for x in value] if isinstance(value, list) else float(value)
                if isinstance(value, list) and len(value) != channels:
                    raise SourceError(
                        f"{theirs} has {len(value)} numbers; one for each of the {channels} channels is accepted"
                    )
    return steps
