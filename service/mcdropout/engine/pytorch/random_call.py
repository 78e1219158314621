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

    @property
    def path(self) -> str:
        """The module that makes the call."""
        return self.stack.paths[-1] if self.stack.paths else ""

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from the other calls of a pass."""
        return self.path, self.number

    @property
    def form(self) -> Form:
        """What is the same each time it is made."""
        return self.kind, self.p, len(self.mask_shape)

    @property
    def raw(self) -> bool:
        """Whether it draws numbers for the network's own code, which a mask must always give it."""
        return KINDS[self.kind].raw


MOST_CALLS = 10_000
"""So many random calls of one module in a pass are without end."""


class EndlessCallsError(UnsupportedModelError):
    """A module makes random calls without end."""


class Order:
    """The random calls of each module in the order in which they are made, of which a pass may leave some out.

    Where a layer is left out at random, and its dropout with it, the calls behind it stay what they are.
    """

    def __init__(self, forms: Mapping[tuple[str, int], Form]) -> None:
        """From the form of each call, by its key."""
        self._numbers: dict[str, list[int]] = {}
        for path, number in sorted(forms):
            self._numbers.setdefault(path, []).append(number)
        self._forms = forms

    def number(self, path: str, first: int, form: Form) -> int:
        """Which call of a module it is that has this form, not before `first`; `first` itself where there is none."""
        if self._forms.get((path, first)) == form:  # almost always
            return first
        numbers = self._numbers.get(path, [])
        later = numbers[bisect_left(numbers, first) :]
        return next((number for number in later if self._forms[path, number] == form), first)

    def numbered(self, calls: Iterable[Call]) -> tuple[Call, ...]:
        """Calls of one pass, with their numbers in this order."""
        following: Counter[str] = Counter()
        found: list[Call] = []
        for call in calls:
            number = self.number(call.path, following[call.path], call.form)
            following[call.path] = number + 1
            found.append(replace(call, number=number))
        return tuple(found)


def joined(passes: Sequence[Sequence[Call]]) -> dict[tuple[str, int], Call]:
    """All calls of some passes by their keys, with numbers that tell the order in which they are made in each."""
    modules: dict[str, list[Call]] = {}
    same: dict[int, Call] = {}  # the call that stands for another, by its identity
    for calls in passes:
        following: Counter[str] = Counter()
        for call in calls:
            known, first = modules.setdefault(call.path, []), following[call.path]
            place = next((i for i in range(first, len(known)) if known[i].form == call.form), None)
            if place is None:
                place = first
                known.insert(place, call)
            same[id(call)] = known[place]
            following[call.path] = place + 1
    numbers = {id(call): number for known in modules.values() for number, call in enumerate(known)}
    found: dict[tuple[str, int], Call] = {}
    for call in (call for calls in passes for call in calls):
        first_seen = same[id(call)]
        number = numbers[id(first_seen)]
        found.setdefault((call.path, number), replace(first_seen, number=number))
    return found


Mask = Tensor | tuple[Tensor, Tensor] | None
"""What stands for a draw, in the shape of the call: factors; factors and summands; the numbers themselves; or None for
nothing dropped."""
