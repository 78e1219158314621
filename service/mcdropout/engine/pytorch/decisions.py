"""Decisions: numbers that a network draws once a pass and goes by, as one that leaves out layers at random does.

Passes whose numbers decide alike can be one batch. Where some are found to differ while they are run, those that agree
are run anew. The questions in which they differed are remembered: later passes are sorted by their answers beforehand.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mcdropout.engine.arrays import Array
from mcdropout.engine.kinds import BERNOULLI, NEARLY_ONE, NORMAL, UNIFORM
from mcdropout.engine.pytorch.drawn import Drawn, Numbers, PartedError, Question, UndecidedError
from mcdropout.engine.pytorch.network import Network
from mcdropout.engine.sites import Site

Masks = Sequence[Tensor]
"""For each site, the mask of one pass, as `Network.run` takes it."""

_MOST_QUESTIONS = 256
_LEAST, _MOST = {UNIFORM: 0.0, NORMAL: -6.0, BERNOULLI: 0.0}, {UNIFORM: NEARLY_ONE, NORMAL: 6.0, BERNOULLI: 1.0}


def extreme_draws(sites: Sequence[Site], each: Sequence[list[Array]]) -> list[list[Array]]:
    """Masks of passes in which one of the numbers that rows share after another is as small and as large as any.

    Whatever hardly ever happens for them happens in one. There are two for each such site, as far as there are passes.

    Args:
        sites: whose masks.
        each: those of so many passes, which give the others.
    """
    shared = [index for index, site in enumerate(sites) if site.scope == "pass"]
    ends = [(index, end) for index in shared for end in (_LEAST, _MOST)]
    found: list[list[Array]] = []
    for masks, (index, end) in zip(each, ends, strict=False):
        found.append([*masks[:index], np.full_like(masks[index], end[sites[index].kind]), *masks[index + 1 :]])
    return found


class Decisions:
    """Runs passes of a network, those that decide alike in one batch.

    Attributes:
        most_pairs: how many pairs one batch takes at most.
    """

    def __init__(self, network: Network, most_pairs: int) -> None:
        self.most_pairs = most_pairs
        self._network = network
        self._shared = [index for index, site in enumerate(network.sites) if site.scope == "pass"]
        self._questions: list[Question] = []

    @staticmethod
    def may_be(network: Network) -> bool:
        """Whether rows may share nothing but numbers that a network decides by."""
        shared = [site for site in network.sites if site.scope == "pass"]
        return bool(shared) and not network.alone and all(site.raw for site in shared)

    def run(self, inputs: Sequence[Tensor], masks: Sequence[Masks]) -> list[tuple[Tensor, ...]]:
        """The outputs `[rows, ...]` of each pass.

        Args:
            inputs: `[rows, ...]` each.
            masks: those of each pass.
        """
        rows = len(inputs[0])
        most = max(1, self.most_pairs // rows)
        numbers = [torch.stack([each[index] for each in masks]) for index in self._shared]
        found: dict[int, tuple[Tensor, ...]] = {}
        waiting = [part for alike in self._sorted(numbers) for part in _cut(alike, most)]
        while waiting:
            part = waiting.pop()
            try:
                outputs = self._run(inputs, [masks[number] for number in part.tolist()], [x[part] for x in numbers])
            except PartedError as parted:
                alike = self._sorted([x[part] for x in numbers])  # by what was found out since they were
                if len(alike) == 1:
                    alike = _by_answers(parted.answers)
                    self._questions = [*self._questions, parted.question][:_MOST_QUESTIONS]
                waiting += [part[some] for some in alike]
            except UndecidedError:
                waiting += _cut(part, 1)
            else:
                of_each = zip(*(out.reshape(rows, len(part), *out.shape[1:]).unbind(1) for out in outputs), strict=True)
                found.update(zip(part.tolist(), of_each, strict=True))
        return [found[number] for number in range(len(masks))]

    def _sorted(self, numbers: Numbers) -> list[Tensor]:
        """The passes that give the same answers to all questions that are known."""
        if not self._questions:
            return [torch.arange(len(numbers[0]))]
        answers = [question(numbers).reshape(len(numbers[0]), -1).double() for question in self._questions]
        return _by_answers(torch.cat(answers, dim=1))

    def _run(self, inputs: Sequence[Tensor], masks: Sequence[Masks], numbers: Numbers) -> tuple[Tensor, ...]:
        """The outputs `[rows * passes, ...]` of passes that decide alike, in one batch."""
        if len(masks) == 1:
            return self._network.run(inputs, masks[0])
        each: list[Tensor] = []
        for index, site in enumerate(self._network.sites):
            if site.scope == "row":
                each.append(torch.stack([mask[index] for mask in masks], dim=1).flatten(0, 1))
            else:
                place = self._shared.index(index)
                each.append(Drawn.of(numbers[place], lambda known, place=place: known[place]))  # type: ignore[misc]
        return self._network.run([x.repeat_interleave(len(masks), 0) for x in inputs], each)


def _by_answers(answers: Tensor) -> list[Tensor]:
    """Which passes give the same answers `[passes, ...]`, of each that are given."""
    _, which = torch.unique(answers.reshape(len(answers), -1), dim=0, return_inverse=True)
    return [torch.nonzero(which == number).flatten() for number in range(int(which.max()) + 1)]


def _cut(passes: Tensor, most: int) -> list[Tensor]:
    """Passes in parts of so many at most."""
    return [passes[start : start + most] for start in range(0, len(passes), most)]
