"""Lightning: a checkpoint of its Trainer, which holds weights and hyper-parameters, with the class they belong to.

Lightning itself is not needed, unless that class is one of its modules.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from mcdropout.catalogue.making.asking import Ask
from mcdropout.catalogue.making.checkpoints import StandIn, check_shapes, fitted, read_checkpoint, weights_in
from mcdropout.catalogue.making.draft import Draft
from mcdropout.catalogue.making.functions import called, code_of, importing, unpacked
from mcdropout.catalogue.making.networks import Network, draft_of
from mcdropout.catalogue.making.source import Source, SourceError

_HYPER_PARAMETERS = "hyper_parameters"


def draft(source: Source, ask: Ask) -> Draft:
    path = source.path
    if source.module is None:
        raise SourceError(
            f"{path} holds weights, and not what they belong to; --module module:Class, or path/to/file.py:Class, "
            "says so"
        )
    checkpoint = read_checkpoint(path)
    state = weights_in(checkpoint, path)
    with importing(source.module) as (function, module):
        arguments = _arguments(checkpoint, function, source)
        network, examples = unpacked(called(function, source.module, arguments), source.module)
        wanted = network.state_dict()
        found = fitted(state, wanted, path)
        check_shapes(found, wanted, path, "--argument NAME=VALUE gives what makes the network an argument")
        network.load_state_dict(found)
        made = Network(
            network,
            path.stem,
            *code_of(source.module, module, is_tuple=examples is not None),
            arguments,
            examples=examples,
            description=f"{source.module}, trained by Lightning.",
        )
        return draft_of(made, source, ask)


def _arguments(checkpoint: Any, function: Callable[..., Any], source: Source) -> dict[str, Any]:
    """The hyper-parameters that a class takes, and what its user gives besides."""
    saved = checkpoint.get(_HYPER_PARAMETERS) if isinstance(checkpoint, Mapping) else None
    known = {str(name): _plain(value) for name, value in (saved or {}).items()}
    kinds = inspect.signature(function).parameters.values()
    takes_any = any(each.kind is each.VAR_KEYWORD for each in kinds)
    names = {each.name for each in kinds}
    usable = {name: value for name, value in known.items() if value is not _UNKNOWN and (takes_any or name in names)}
    return {**usable, **source.arguments}


_UNKNOWN = object()


def _plain(value: Any) -> Any:
    """A value as YAML has it, or _UNKNOWN."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, StandIn):
        return _UNKNOWN
    if isinstance(value, list | tuple | set):
        inner = [_plain(each) for each in value]
        return _UNKNOWN if any(each is _UNKNOWN for each in inner) else inner
    if isinstance(value, Mapping):
        named = {str(name): _plain(each) for name, each in value.items()}
        return _UNKNOWN if any(each is _UNKNOWN for each in named.values()) else named
    return _UNKNOWN
