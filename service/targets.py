"""Targets: what `mcdropout inspect` is pointed at, a bundle's folder or a function that makes a network."""

import importlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from service.bundle import MANIFEST, Bundle
from service.engine.inputs import Inputs
from service.registry import engine_arguments


@dataclass(frozen=True)
class Target:
    """A network to look at, and how to make an engine of it.

    Attributes:
        name: what it is called.
        module: the network.
        example_inputs: as `Engine.from_module` takes them.
        options: its other arguments.
    """

    name: str
    module: nn.Module
    example_inputs: Inputs
    options: dict[str, Any] = field(default_factory=dict)


class TargetError(Exception):
    """A target cannot be used; the message says what would be accepted."""


def load_target(text: str) -> Target:
    """The network that a folder holds, or that `module:function` returns.

    The function takes nothing and returns the network and its example inputs, and, if need be, a dict of further
    arguments of `Engine.from_module` (`task`, `outputs`, ...).

    Raises:
        TargetError: there is no such thing, or it returns something else.
        BundleError: the bundle is wrong.
    """
    if Path(text).is_dir():
        bundle = Bundle(Path(text))
        return Target(bundle.manifest.name, *engine_arguments(bundle))
    module_name, colon, function = text.partition(":")
    if not colon:
        raise TargetError(
            f"{text!r} is no folder with a {MANIFEST}; a bundle's folder, or module:function, is accepted"
        )
    sys.path.insert(0, str(Path.cwd()))
    try:
        made = getattr(importlib.import_module(module_name), function)()
    except Exception as error:  # the user's own code can raise anything
        raise TargetError(f"{text!r} cannot be called: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    if not isinstance(made, tuple) or len(made) not in (2, 3) or not isinstance(made[0], nn.Module):
        raise TargetError(
            f"{text!r} returns {type(made).__name__}; (network, example_inputs) is accepted, or (network, "
            "example_inputs, options)"
        )
    return Target(text, *made)
