"""Selection: which of the sites that were found are on, and with which p."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Protocol, TypeVar

from mcdropout.engine.errors import InvalidInputError
from mcdropout.engine.kinds import ATTENTION, CHANNEL, ELEMENT
from mcdropout.engine.reading import is_number
from mcdropout.engine.sites import SiteOff, site_name

ADDED_KINDS = (ELEMENT, CHANNEL)
"""What dropout that is added may drop."""
CHANNELS_OF = 3
"""So many dimensions has what has channels, at least: rows, channels, places."""
_MOST_NAMED = 20  # places for added dropout, in a message


class RandomCall(Protocol):
    """What is chosen from: calls or nodes that draw. A frozen dataclass, with these among its fields or properties.

    Attributes:
        number, kind, p: as a `Site` has them (`call` is the number).
        active: whether it would draw as it is.
        path: of the module that it belongs to.
        key: path and number.
        raw: whether it draws numbers for the network's own code.
        injected: whether the selection has added it.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def number(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def p(self) -> float | None: ...
    @property
    def active(self) -> bool: ...
    @property
    def path(self) -> str: ...
    @property
    def key(self) -> tuple[str, int]: ...
    @property
    def raw(self) -> bool: ...
    @property
    def injected(self) -> bool: ...


C = TypeVar("C", bound=RandomCall)


@dataclass(frozen=True)
class Selection:
    """Which sites to switch on, by patterns of module paths as in a shell (`encoder.*`); the network's own is "".

    The first three are about the network's own dropout; what is added is on, with the p that it is added with.

    Attributes:
        include: a site is on only if its path matches one of these.
        exclude: and none of these.
        p: a probability to use instead of the network's own, for each pattern; the first that matches counts.
        add: dropout for a network that was trained without it, or whose file was written without it: for each pattern
            a probability between 0 and 1. What a module returns, one tensor, or a node of an ONNX graph gives first,
            has its elements dropped, each time that it is called, or its channels (`{"p": 0.2, "kind": "channel"}`)
            where it is `[rows, channels, ...]`. The patterns are of module paths; of an ONNX graph, of the names of
            nodes or values. Of those that match a place the first counts. The uncertainty of a network that was trained
            without it has to be calibrated before it is believed.
    """

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    p: Mapping[str, float] | None = None
    add: Mapping[str, float | Mapping[str, Any]] | None = None

    @property
    def added(self) -> dict[str, tuple[float, str]]:
        """`add` as the probability and the kind for each pattern.

        Raises:
            InvalidInputError: it is something else.
        """
        add = self.add or {}
        if not isinstance(add, Mapping) or any(not isinstance(pattern, str) for pattern in add):
            raise InvalidInputError(
                f"add of the selection is {add!r}; patterns of module paths, with a probability for each, are accepted"
            )
        return {pattern: _p_and_kind(pattern, what) for pattern, what in add.items()}

    @property
    def patterns(self) -> tuple[str, ...]:
        """All patterns for the network's own dropout but that which stands for everything."""
        return tuple(x for x in (*self.include, *self.exclude, *(self.p or {})) if x != "*")

    def takes(self, path: str) -> bool:
        """Whether the sites of the module at `path` are to be on."""
        return _matches(self.include, path) and not _matches(self.exclude, path)

    def probability(self, path: str, own: float | None) -> float | None:
        """The probability of a site whose own is `own`."""
        return next((p for pattern, p in (self.p or {}).items() if matches(pattern, path)), own)


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern means a name: itself, whatever is in it (`block[0]`), or what it stands for in a shell."""
    return name == pattern or fnmatchcase(name, pattern)


def named_like(pattern: str, names: Iterable[str]) -> str:
    """The names that come nearest to a pattern, all of them where they are few, and the verb that belongs to them."""
    every = sorted(names)
    if len(every) <= _MOST_NAMED:
        return f"{every} are"
    return f"{get_close_matches(pattern, every, _MOST_NAMED, 0.0)} and {len(every) - _MOST_NAMED} others are"


def _p_and_kind(pattern: str, what: object) -> tuple[float, str]:
    """What `add` says for a pattern."""
    given = what if isinstance(what, Mapping) else {"p": what}
    p, kind = given.get("p"), given.get("kind", ELEMENT)
    if not is_number(p) or not 0.0 < p < 1.0:
        raise InvalidInputError(
            f"the selection adds dropout to {pattern!r} with the p {p!r}; a number between 0 and 1 is accepted"
        )
    if kind not in ADDED_KINDS or given.keys() - {"p", "kind"}:
        raise InvalidInputError(
            f"the selection adds {what!r} to {pattern!r}; a p, and a kind of {' or '.join(ADDED_KINDS)}, are accepted"
        )
    return float(p), kind


def _matches(patterns: tuple[str, ...], path: str) -> bool:
    return any(matches(pattern, path) for pattern in patterns)


def select(
    selection: Selection, calls: Sequence[C], *, asleep: Collection[str] = (), drawing: Collection[str] = ()
) -> tuple[list[C], list[SiteOff]]:
    """The calls to switch on, in order, with the probability that they are to have, and those that stay off.

    What was added is on as it is.

    Args:
        selection: what is wanted.
        calls: the random calls of train mode.
        asleep: the modules that were in eval mode all the same, so that their dropout was not active.
        drawing: paths of modules that draw what no mask can stand for, which may be excluded too.

    Raises:
        InvalidInputError: the selection names what does not exist, or a p that cannot be used.
    """
    _check_patterns(selection, {call.path for call in calls if not call.injected} | set(drawing))
    on: list[C] = []
    off: list[SiteOff] = []
    for call in calls:
        if call.injected:
            on.append(call)
            continue
        given = selection.probability(call.path, None)
        if given is not None and call.raw and selection.takes(call.path):
            raise InvalidInputError(
                f"p of {site_name(*call.key)} is set to {given:g}, but the network's own code makes its dropout of "
                f"{call.kind} numbers; a p is accepted for the dropout calls of PyTorch"
            )
        chosen = call if given is None or call.raw else replace(call, p=given)
        drops = call.active or (call.path in asleep and bool(call.p))
        if not selection.takes(call.path):
            reason = "the selection leaves it out" if drops else None
        elif chosen.p == 0.0:
            reason = "its p is 0" if given is None else "the selection sets its p to 0"
        else:
            reason = None if drops or given else "its own code switches it off"
        if reason is None and (drops or given):
            on.append(chosen)
        elif reason is not None and (drops or call.kind != ATTENTION):  # attention without dropout is no site
            off.append(site_off(chosen, reason))
    return on, off


def _check_patterns(selection: Selection, paths: set[str]) -> None:
    whose = " of the network's own" if selection.add else ""
    for pattern in selection.patterns:
        if not any(matches(pattern, path) for path in paths):
            raise InvalidInputError(
                f"the selection names {pattern!r}, which matches the path of no site{whose}; the paths are "
                f"{sorted(paths)}"
            )
    for pattern, p in (selection.p or {}).items():
        if not is_number(p) or not 0.0 <= p <= 1.0:
            raise InvalidInputError(f"the selection sets p of {pattern!r} to {p!r}; a number from 0 to 1 is accepted")


def site_off(call: RandomCall, reason: str) -> SiteOff:
    """A call that stays off."""
    return SiteOff(call.path, call.number, call.kind, call.p, reason)
