"""Random calls: one that was seen, the order of those of a network, and what stands for what they draw."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.kinds import KINDS


class ModuleStack(NamedTuple):
    """The modules of a network that are running.

    Attributes:
        paths: theirs, outermost first.
        inputs: what the innermost was called with.
    """

    paths: tuple[str, ...] = ()
    inputs: tuple[Any, ...] = ()


CallKey = tuple[str, int]
"""What tells a call from the others of a pass: its module's path, and its number there."""

Form = tuple[str, float | None, int]
"""What is the same each time that a random call is made: its kind, its p, and the number of its dimensions."""


@dataclass(frozen=True)
class Call:
    """A random call that was seen.

    Attributes:
        stack: the modules that it is made in.
        number: which of its module's random calls in this pass.
        kind, p: as a `Site` has them.
        active: whether it would draw.
        mask_shape: the shape of what it draws.
        data: the tensor that it drops from; None where it only draws.
        injected: whether it is none of the network's own, but added by the selection.
        generator: what it would draw from; PyTorch's own, that all share, where it is None.
        always: whether it was made in every pass that was seen, whatever numbers the network drew.
    """

    stack: ModuleStack
    number: int
    kind: str
    p: float | None
    active: bool
    mask_shape: tuple[int, ...]
    data: Tensor | None = None
    injected: bool = False
    generator: torch.Generator | None = None
    always: bool = True

    @property
    def path(self) -> str:
        """The module that makes the call."""
        return self.stack.paths[-1] if self.stack.paths else ""

    @property
    def key(self) -> CallKey:
        """What tells it from the other calls of a pass."""
        return self.path, self.number

    @property
    def form(self) -> Form:
        """What is the same each time it is made."""
        return self.kind, self.p, len(self.mask_shape)

    @property
    def known(self) -> "Known":
        """What is known of it in other passes."""
        return Known(self.form, tuple(self.mask_shape), self.always)

    @property
    def raw(self) -> bool:
        """Whether it draws numbers for the network's own code, which a mask must always give it."""
        return KINDS[self.kind].raw


class Known(NamedTuple):
    """What is known of a random call: its form, the shape that it drew in, with None in dimensions that have as many
    entries as there are rows, and whether it was made in every pass."""

    form: Form
    shape: tuple[int | None, ...]
    always: bool = True

    def alike(self, shape: Sequence[int]) -> int:
        """How much of a shape is as it was: a dimension of rows may be any, and so counts for less."""
        pairs = zip(shape, self.shape, strict=False)
        return sum(1 if own is None else 2 * (type(size) is int and size == own) for size, own in pairs)

    def of_rows(self, fewer: Sequence[int], more: Sequence[int]) -> "Known":
        """The same, by the shapes that it drew in for fewer rows and for more."""
        sizes = zip(fewer, more, strict=False)
        return self._replace(shape=tuple(size if size == other else None for size, other in sizes))


MOST_CALLS = 10_000
"""So many random calls of one module in a pass are without end."""


class EndlessCallsError(UnsupportedModelError):
    """A module makes random calls without end."""


class Order:
    """The random calls of each module in the order in which they are made, of which a pass may leave some out.

    Where a layer is left out at random, and its dropout with it, the calls behind it stay what they are. Those that
    have one form are told apart by their shapes.
    """

    def __init__(self, calls: Mapping[tuple[str, int], Known]) -> None:
        """From what is known of each call, by its key."""
        self._numbers: dict[str, list[int]] = {}
        for path, number in sorted(calls):
            self._numbers.setdefault(path, []).append(number)
        self._calls = calls

    def number(self, path: str, first: int, form: Form, shape: Sequence[int]) -> int:
        """Which call of a module it is that has this form, not before `first`; `first` itself where there is none.

        Of several up to one that is never left out, that whose shape is most like this.
        """
        known = self._calls.get((path, first))
        if known is not None and known.always and known.form == form:  # almost always
            return first
        numbers = self._numbers.get(path, [])
        found, most = first, -1
        for number in numbers[bisect_left(numbers, first) :]:
            known = self._calls[path, number]
            if known.form != form:
                continue
            if (alike := known.alike(shape)) > most:
                found, most = number, alike
            if known.always:
                break
        return found

    @property
    def are_alike_for_one_row(self) -> bool:
        """Whether of some that a pass may leave out no shape tells for one row whether each row has its own numbers."""
        shapes: dict[tuple[str, Form, tuple[int, ...]], set[tuple[int | None, ...]]] = {}
        sometimes = {path for (path, _), known in self._calls.items() if not known.always}
        for (path, _), known in self._calls.items():
            if path in sometimes:
                alone = tuple(1 if size is None else size for size in known.shape)
                shapes.setdefault((path, known.form, alone), set()).add(known.shape)
        return any(len(seen) > 1 for seen in shapes.values())

    def numbered(self, calls: Iterable[Call]) -> tuple[Call, ...]:
        """Calls of one pass, with their numbers in this order."""
        following: Counter[str] = Counter()
        found: list[Call] = []
        for call in calls:
            number = self.number(call.path, following[call.path], call.form, call.mask_shape)
            following[call.path] = number + 1
            found.append(replace(call, number=number))
        return tuple(found)


def joined(passes: Sequence[Sequence[Call]]) -> dict[tuple[str, int], Call]:
    """All calls of some passes of the same rows by their keys, with numbers that tell the order in which they are made
    in each."""
    modules: dict[str, list[Call]] = {}
    same: dict[int, Call] = {}  # the call that stands for another, by its identity
    made: Counter[int] = Counter()  # in how many passes
    for calls in passes:
        following: Counter[str] = Counter()
        for call in calls:
            known, first = modules.setdefault(call.path, []), following[call.path]
            place = next((i for i in range(first, len(known)) if _are_same(known[i], call)), None)
            if place is None:
                place = first
                known.insert(place, call)
            same[id(call)] = known[place]
            made[id(known[place])] += 1
            following[call.path] = place + 1
    numbers = {id(call): number for known in modules.values() for number, call in enumerate(known)}
    found: dict[tuple[str, int], Call] = {}
    for call in (call for calls in passes for call in calls):
        first_seen = same[id(call)]
        number = numbers[id(first_seen)]
        always = made[id(first_seen)] == len(passes)
        found.setdefault((call.path, number), replace(first_seen, number=number, always=always))
    return found


def _are_same(call: Call, other: Call) -> bool:
    return call.form == other.form and tuple(call.mask_shape) == tuple(other.mask_shape)


Mask = Tensor | tuple[Tensor, Tensor] | None
"""What stands for a draw, in the shape of the call: factors; factors and summands; the numbers themselves; or None for
nothing dropped."""


def fits(mask: Mask, shape: Sequence[int]) -> bool:
    """Whether a mask has the shape of a call, as far as the sizes are numbers."""
    if mask is None:
        return True
    found = (mask[0] if isinstance(mask, tuple) else mask).shape
    if len(found) != len(shape):
        return False
    for size, wanted in zip(found, shape, strict=True):
        if type(size) is int and type(wanted) is int and size != wanted:
            return False
    return True


def begun(mask: Mask, shape: Sequence[int]) -> Mask:
    """The beginning of a mask, as large as a call that takes no more in any dimension; else the mask itself.

    A row that is run alone may take less than the examples did: fewer steps, or those alone that are not padding.
    """
    if mask is None:
        return None
    if isinstance(mask, tuple):
        factor, summand = (begun(part, shape) for part in mask)
        assert isinstance(factor, Tensor)
        assert isinstance(summand, Tensor)
        return factor, summand
    if len(mask.shape) != len(shape) or not all(
        isinstance(size, int) and size <= have for size, have in zip(shape, mask.shape, strict=True)
    ):
        return mask
    return mask[tuple(slice(0, size) for size in shape)]
