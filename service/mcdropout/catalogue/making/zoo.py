"""The zoo: networks of timm and torchvision by their names, with a checkpoint or the weights that they come with."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from mcdropout.catalogue.making.asking import Ask
from mcdropout.catalogue.making.checkpoints import State, check_shapes, fitted, read_checkpoint, weights_in
from mcdropout.catalogue.making.draft import Draft, DraftInput
from mcdropout.catalogue.making.huggingface import module_of
from mcdropout.catalogue.making.networks import NETWORK, Network, draft_of
from mcdropout.catalogue.making.source import Source, SourceError
from mcdropout.engine.faults import refusing

_WHITE = 255
_CLASSES = "num_classes"


def _named(source: Source) -> str:
    return source.text.partition(":")[2]


def draft_of_timm(source: Source, ask: Ask) -> Draft:
    timm, name = module_of("timm", source.text), _named(source)
    if not timm.is_model(name):
        raise SourceError(
            f"timm has no {name!r}; one of timm.list_models() is accepted, such as {_like(name, timm.list_models())}"
        )
    build = partial(timm.create_model, name)
    module, arguments = _with_weights(source, build, lambda: build(pretrained=True, **source.arguments))
    settings = module.pretrained_cfg
    height, width = settings["input_size"][1:]
    resized = math.floor(height / settings.get("crop_pct", 1.0))
    how = settings.get("interpolation", "bilinear")
    inputs = _image((height, width), settings["mean"], settings["std"], resized, how)
    offers = "--argument drop_rate=P for the P that it was trained with (timm's checkpoints do not say it)"
    return _draft(source, ask, module, _TIMM.format(name=name), arguments, inputs, None, offers)


def draft_of_torchvision(source: Source, ask: Ask) -> Draft:
    models, name = module_of("torchvision.models", source.text), _named(source)
    if name not in models.list_models():
        raise SourceError(
            f"torchvision has no {name!r}; one of its models is accepted, such as {_like(name, models.list_models())}"
        )
    build = partial(models.get_model, name)
    module, arguments = _with_weights(source, build, lambda: build(weights="DEFAULT", **source.arguments))
    known = models.get_model_weights(name).DEFAULT
    steps = known.transforms()
    crop = steps.crop_size[0] if hasattr(steps, "crop_size") else steps.resize_size[0]
    inputs = _image((crop, crop), steps.mean, steps.std, steps.resize_size[0], steps.interpolation.value)
    labels = tuple(known.meta.get("categories", ())) if source.weights is None else None
    labels = labels if labels and len(set(labels)) == len(labels) else None
    return _draft(source, ask, module, _TORCHVISION.format(name=name), arguments, inputs, labels, "")


def _like(name: str, names: list[str]) -> str:
    from difflib import get_close_matches

    return ", ".join(get_close_matches(name, names, 3, 0.0))


def _with_weights(
    source: Source, build: Callable[..., Any], pretrained: Callable[[], Any]
) -> tuple[Any, dict[str, Any]]:
    """A network with a checkpoint's weights, or those that it comes with, and the arguments that make it."""
    arguments = dict(source.arguments)
    if source.weights is None:
        with refusing(f"the weights of {source.text} cannot be had", "--weights FILE is accepted", SourceError):
            return pretrained(), arguments
    with refusing(f"{source.text} fails with the arguments {arguments}", kind=SourceError):
        module = build(**arguments)
    state = fitted(weights_in(read_checkpoint(source.weights), source.weights), module.state_dict(), source.weights)
    if _CLASSES not in arguments and (classes := _classes(state, module.state_dict())):
        arguments[_CLASSES] = classes
        module = build(**arguments)
    hint = "weights of the same network are accepted; --argument num_classes=N, in_chans=N and others make it another"
    check_shapes(state, module.state_dict(), source.weights, hint)
    module.load_state_dict(state)
    return module, arguments


def _classes(state: State, wanted: dict[str, Tensor]) -> int | None:
    """How many classes weights are for, where these differ from a network's in its last layer alone."""
    others = [name for name, value in wanted.items() if state[name].shape != value.shape]
    layers = {name.rpartition(".")[0] for name in others}
    return int(state[others[0]].shape[0]) if len(layers) == 1 else None


def _image(size: tuple[int, int], mean: Any, std: Any, shorter: int, how: str) -> tuple[DraftInput, ...]:
    image: dict[str, Any] = {"mode": "rgb", "resize": "crop"}
    if shorter > max(size):
        image["shorter"] = shorter
    if how in ("bicubic", "lanczos", "nearest", "box", "hamming"):
        image["filter"] = how
    steps = {"scale": 1.0 / _WHITE, "mean": [float(x) for x in mean], "std": [float(x) for x in std]}
    return (DraftInput("image", (3, *size), "float32", 0, _WHITE, steps, image),)


def _draft(
    source: Source,
    ask: Ask,
    module: Any,
    code: str,
    arguments: dict[str, Any],
    inputs: tuple[DraftInput, ...],
    labels: tuple[str, ...] | None,
    offers: str,
) -> Draft:
    package, _, name = source.text.partition(":")
    write: Callable[[Path], object] = lambda place: place.write_text(code)  # noqa: E731
    made = Network(
        module,
        name.replace("/", "-"),
        "network",
        {NETWORK: write},
        arguments,
        inputs,
        labels=labels,
        description=f"{name} of {package}.",
        offers=offers,
    )
    return draft_of(made, source, ask)


_TIMM = '''"""The network: {name}, as timm builds it. Made by `mcdropout init`."""

from typing import Any

import timm


def network(**arguments: Any) -> Any:
    return timm.create_model("{name}", pretrained=False, **arguments)
'''
_TORCHVISION = '''"""The network: {name}, as torchvision builds it. Made by `mcdropout init`."""

from typing import Any

from torchvision.models import get_model


def network(**arguments: Any) -> Any:
    return get_model("{name}", weights=None, **arguments)
'''
