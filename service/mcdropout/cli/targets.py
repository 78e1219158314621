"""Targets: what `mcdropout inspect` is pointed at, a bundle's folder or a function that makes a network."""

import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mcdropout.catalogue.bundle import Bundle
from mcdropout.catalogue.model import model_of
from mcdropout.catalogue.network import subject_of
from mcdropout.cli.folders import why_no_bundle
from mcdropout.engine import Engine
from mcdropout.engine.reading import Reading, in_entries
from mcdropout.engine.runtimes import Target
from mcdropout.engine.subject import Subject


@dataclass(frozen=True)
class Pointed:
    """A network to look at.

    Attributes:
        name: what it is called.
        understand: finds out what in it is random.
        reading: what its outputs mean.
        target: where to run it.
        confirm: raises where the bundle that it comes from does not fit what it answers.
    """

    name: str
    understand: Callable[[], Subject]
    reading: Reading
    target: Target
    confirm: Callable[[Engine], object] = id


class TargetError(Exception):
    """A target cannot be used; the message says what would be accepted."""


def load_target(text: str) -> Pointed:
    """The network that a folder holds, or that `module:function`, or `path/to/file.py:function`, returns.

    The function takes nothing and returns the network and its example inputs, and, if need be, a dict of further
    arguments of `Engine.from_module` (`task`, `output`, ...).

    Raises:
        TargetError: there is no such thing, or it returns something else.
        BundleError: the bundle is wrong.
    """
    if Path(text).is_dir():
        if reason := why_no_bundle(text):
            raise TargetError(reason)
        bundle = Bundle(Path(text))
        reading, confirm = bundle.manifest.reading, partial(model_of, bundle)
        return Pointed(bundle.manifest.name, partial(subject_of, bundle), reading, Target(), confirm)
    place, colon, function = text.rpartition(":")
    if not colon:
        raise TargetError(f"{why_no_bundle(text)}. Without a bundle, module:function is accepted")
    path = Path(place)
    is_file = path.suffix == ".py"
    sys.path.insert(0, str(path.resolve().parent if is_file else Path.cwd()))
    try:
        made = getattr(importlib.import_module(path.stem if is_file else place), function)()
    except (Exception, SystemExit) as error:  # the user's own code can raise anything
        raise TargetError(f"{text!r} cannot be called: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    return _pointed(text, made)


def _pointed(text: str, made: Any) -> Pointed:
    from torch import nn

    from mcdropout.engine.pytorch.module import understand

    if not isinstance(made, tuple) or len(made) not in (2, 3) or not isinstance(made[0], nn.Module):
        raise TargetError(
            f"{text!r} returns {type(made).__name__}; (network, example_inputs) is accepted, or (network, "
            "example_inputs, options)"
        )
    module, example_inputs, options = (*made, {})[:3]
    if not isinstance(options, dict):
        raise TargetError(f"{text!r} returns options in a {type(options).__name__}; a dict is accepted")
    known: dict[str, dict[str, Any]] = {}
    for what, names in (
        ("understand", [name for name in [*inspect.signature(understand).parameters][2:] if name != "reading"]),
        ("reading", [*inspect.signature(Reading).parameters]),
        ("target", ["device", "runtime"]),
    ):
        known[what] = {name: value for name, value in options.items() if name in names}
    if unknown := [name for name in options if not any(name in names for names in known.values())]:
        raise TargetError(f"{text!r} returns the options {unknown}; arguments of Engine.from_module are accepted")
    noise = in_entries(known["understand"].get("output"))[1]
    reading = Reading(**{"task": "classification", "noise": noise, **known["reading"]})
    understanding = partial(understand, module, example_inputs, reading=reading, **known["understand"])
    return Pointed(text, understanding, reading, Target(**known["target"]))
