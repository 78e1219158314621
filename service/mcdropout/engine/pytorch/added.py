"""Added dropout: what the selection puts behind modules of a network, which was not trained with it.

A hook on a private copy drops from what a module returns. `RandomCalls` sees that as it sees the network's own dropout,
and gives it a mask; where nobody looks, nothing is dropped.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary
from torch.utils._pytree import tree_flatten, tree_unflatten

from mcdropout.engine.errors import InvalidInputError, UnsupportedModelError
from mcdropout.engine.kinds import CHANNEL
from mcdropout.engine.pytorch.calls import RandomCalls, apply_mask, handles
from mcdropout.engine.pytorch.private.copies import Copy
from mcdropout.engine.selection import CHANNELS_OF, matches, named_like
from mcdropout.engine.sites import SiteOff, site_name

_MOST_NAMED = 20  # modules, in a message


@dataclass(frozen=True)
class Added:
    """Dropout behind a module: its probability, what it drops, and the pattern that has put it there."""

    p: float
    kind: str
    pattern: str


def added_to(copied: Copy, add: Mapping[str, tuple[float, str]]) -> dict[str, Added]:
    """What is added behind which modules, by their paths.

    Args:
        copied: the network.
        add: for each pattern of module paths the probability and the kind; the first that matches counts.

    Raises:
        InvalidInputError: a pattern matches no module.
    """
    paths = {id(part): path for path, part in copied.parts.items()}
    names = {path: path for path in copied.parts}
    names |= {name: paths[id(part)] for name, part in copied.module.named_modules(remove_duplicate=False)}
    found: dict[str, Added] = {}
    for pattern, (p, kind) in add.items():
        matched = [path for name, path in names.items() if matches(pattern, name)]
        if not matched:
            raise InvalidInputError(
                f"the selection adds dropout to {pattern!r}, which matches no module; {named_like(pattern, names)} "
                "accepted"
            )
        for path in matched:
            found.setdefault(path, Added(p, kind, pattern))
    return found


def not_called(added: Mapping[str, Added], called: Iterable[str]) -> list[SiteOff]:
    """The dropout that is behind modules that are not called, as sites that are off.

    Args:
        added: what `added_to` has returned.
        called: the paths of those of the modules that are called.

    Raises:
        UnsupportedModelError: none of the modules that a pattern matches is called.
    """
    missing = {path: each for path, each in added.items() if path not in set(called)}
    for pattern in dict.fromkeys(each.pattern for each in missing.values()):
        matched = [path for path, each in added.items() if each.pattern == pattern]
        if all(path in missing for path in matched):
            raise UnsupportedModelError(
                f"the selection adds dropout to {pattern!r}, but nothing that it matches "
                f"({', '.join(map(_module, matched[:_MOST_NAMED]))}) is called, and returns one tensor, in train mode "
                "as in eval mode; a module that does is accepted (of a torch.export archive, those that drop)"
            )
    return [SiteOff(path, 0, each.kind, each.p, "its module is not called", True) for path, each in missing.items()]


def put_behind(module: nn.Module, path: str, added: Added) -> None:
    """Drop from what a module of a private copy returns; hooks that it has already run before."""
    module.register_forward_hook(partial(_drop, path, added))


def _drop(path: str, added: Added, module: nn.Module, _inputs: Any, returned: Any) -> Any:
    fewest = CHANNELS_OF if added.kind == CHANNEL else 0
    entries, structure = tree_flatten(returned)
    tensors = [(place, entry) for place, entry in enumerate(entries) if isinstance(entry, Tensor)]
    for place, x in tensors:
        if len(tensors) == 1 and x.is_floating_point() and x.dim() >= fewest:
            entries[place] = added_dropout(x, added.p, added.kind)
            return tree_unflatten(entries, structure)
    if module.training:  # some return more in train mode, which is not what serves
        return returned
    kinds = [f"{str(x.dtype).removeprefix('torch.')} of shape {list(x.shape)}" for _, x in tensors]
    what = " and ".join(kinds) or f"{type(returned).__name__} and no tensor"
    raise UnsupportedModelError(
        f"the selection adds dropout to {_module(path)} ({type(module).__name__}), which returns {what}; a module that "
        f"returns one tensor of floating-point numbers{', [rows, channels, ...],' if fewest else ''} is accepted"
    )


def _module(path: str) -> str:
    return site_name(path, 0)


def added_dropout(x: Tensor, p: float, kind: str) -> Tensor:
    """`x`, from which the mode that sees the call drops what the kind says."""
    if has_torch_function_unary(x):
        taken: Callable[..., Tensor] = handle_torch_function
        return taken(added_dropout, (x,), x, p, kind)
    return x


@handles(added_dropout)
def _added_dropout(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    x, p, kind = args
    shape = (*x.shape[:2], *[1] * (x.dim() - 2)) if kind == CHANNEL else x.shape
    return apply_mask(x, mode.ask(kind, p, True, shape, x, injected=True))
