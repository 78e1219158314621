"""Seeding: random calls whose generator the network's own code has set, so that what they draw repeats.

No mask stands for such a call: it draws the same in each pass, or what another call of the pass has drawn.
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mcdropout.engine.pytorch.random_call import Call

Key = tuple[str, int]

_FIRST = 0x6D630000  # a network's own code hardly takes it as a seed; below 2**32, for the older generators of NumPy
_APART = 2**20


def first_seed(number: int) -> int:
    """The seed that all generators have at the beginning of a pass that was given a number."""
    return _FIRST + number * _APART


@dataclass(frozen=True)
class Set:
    """A generator that a random call found set by the network.

    Attributes:
        generator: which; None is PyTorch's own.
        seed: what it was seeded with; None where an earlier call of the pass had drawn from there.
    """

    generator: torch.Generator | None
    seed: int | None

    def repeats(self, earlier: "Set") -> bool:
        """Whether the same call of an earlier pass drew the same; a generator that lasts may have gone on meanwhile."""
        made_anew = self.generator is None or self.generator is not earlier.generator
        return self.seed == earlier.seed and made_anew


class Seeding:
    """Sees which random calls of one pass find their generator set.

    The seed of a generator says where it is: it has one of ours before the pass, and another after each random call.
    A call that finds neither comes after code that seeded the generator, or put it back.

    Attributes:
        found: what was found so, by the keys of the calls.
    """

    def __init__(self, number: int, own: Iterable[Any]) -> None:
        """From the number of the pass, and the generators that the network holds, which have `first_seed` of it."""
        shared = torch.default_generator
        own = {id(each): each for each in own if isinstance(each, torch.Generator)}
        self._ours: Mapping[int, torch.Generator] = {id(shared): shared, **own}
        self._expected = dict.fromkeys(self._ours, first_seed(number))
        self._following = itertools.count(first_seed(number) + 1)
        self._used: set[int] = set()
        self._last: Key | None = None
        self.found: dict[Key, Set] = {}

    def met(self, call: Call) -> None:
        """A random call was made."""
        generator = call.generator or torch.default_generator
        number, seed = id(generator), generator.initial_seed()
        if seed != self._expected.get(number):
            of_all = None if number in self._ours else generator
            self.found[call.key] = Set(of_all, None if seed in self._used else seed)
        if number in self._ours:  # another may be the user's, and is left as it is
            self._used.add(seed)
            self._expected[number] = next(self._following)
            generator.manual_seed(self._expected[number])
            self._last = call.key

    def ended(self) -> None:
        """The pass is over; where a generator was put back behind the last call, the next pass repeats it."""
        for number, generator in self._ours.items():
            seed = generator.initial_seed()
            if self._last is not None and seed != self._expected[number] and seed in self._used:
                self.found[self._last] = Set(None, None)


def repeated(first: Mapping[Key, Set], another: Mapping[Key, Set]) -> tuple[Key, Set] | None:
    """The first call that drew the same in two passes, or drew again what another had drawn in both."""
    return next(((key, each) for key, each in another.items() if key in first and each.repeats(first[key])), None)
