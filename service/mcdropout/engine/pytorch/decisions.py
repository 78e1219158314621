"""Decisions: numbers that a network draws once a pass and goes by, as one that leaves out layers at random does.

Passes whose numbers decide alike can be one batch. Of some that are found to differ while they are run, most are
answered, and the others run anew. The questions in which they differed while the network was prepared are known: passes
are sorted by their answers beforehand. No others are remembered, so that no answer depends on what was asked before.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mcdropout.engine.arrays import Array
from mcdropout.engine.kinds import BERNOULLI, NEARLY_ONE, NORMAL, UNIFORM
from mcdropout.engine.pytorch.drawn import Numbers, Question, Run
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
        questions: by whose answers passes are sorted.
        learning: whether questions in which passes are found to differ are remembered.
    """

    def __init__(
        self, network: Network, most_pairs: int, questions: Sequence[Question] = (), *, learning: bool = False
    ) -> None:
        self.most_pairs, self.questions, self.learning = most_pairs, tuple(questions), learning
        self._network = network
        self._shared = [index for index, site in enumerate(network.sites) if site.scope == "pass"]

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
        numbers = self._numbers(masks)
        found: dict[int, tuple[Tensor, ...]] = {}
        waiting = [part for alike in _by_answers(self.questions, numbers) for part in _cut(alike, most)]
        while waiting:
            part = waiting.pop()
            own = [masks[number] for number in part.tolist()]
            run = Run(len(part))
            if len(part) == 1:
                outputs = self._network.run(inputs, own[0])
            else:
                try:
                    outputs = self._run_as_one(inputs, own, [x[part] for x in numbers], run)
                except Exception:  # what goes wrong each by itself too is raised then
                    run.spoiled = True
                if run.spoiled:
                    waiting += _cut(part, 1)
                    continue
                waiting += self._left_out(part[~run.followed], numbers, run)
            of_each = zip(*(out.reshape(rows, len(part), *out.shape[1:]).unbind(1) for out in outputs), strict=True)
            answered = zip(part.tolist(), run.followed.tolist(), of_each, strict=True)
            found.update({number: each for number, followed, each in answered if followed})
        return [found[number] for number in range(len(masks))]

    def _left_out(self, part: Tensor, numbers: Numbers, run: Run) -> list[Tensor]:
        """Passes that a run did not follow to its end, in parts of those that are to be run together."""
        if not len(part) or run.undecided:
            return _cut(part, 1)
        own = [x[part] for x in numbers]
        if self.learning:
            self.questions = (*self.questions, *run.questions)[:_MOST_QUESTIONS]
        return [part[alike] for alike in _by_answers(run.questions, own)]

    def is_for_nothing_else(self, inputs: Sequence[Tensor], masks: Sequence[Masks]) -> bool:
        """Whether a network does no more with what these passes draw than to decide by it; arguments as for `run`."""
        run = Run(len(masks))
        self._run_as_one(inputs, masks, self._numbers(masks), run)
        return not (run.undecided or run.spoiled or run.kept)

    def _run_as_one(
        self, inputs: Sequence[Tensor], masks: Sequence[Masks], numbers: Numbers, run: Run
    ) -> tuple[Tensor, ...]:
        """The outputs `[rows * passes, ...]` of passes in one batch, right for those that `run` follows.

        Args:
            inputs: `[rows, ...]` each.
            masks: those of each pass.
            numbers: of them, those that rows share, for all passes.
            run: what is drawn in it.
        """
        each: list[Tensor] = []
        for index, site in enumerate(self._network.sites):
            if site.scope == "row":
                each.append(torch.stack([mask[index] for mask in masks], dim=1).flatten(0, 1))
            else:
                place = self._shared.index(index)
                each.append(run.drawn(numbers[place], partial(_one_of, place)))
        outputs = self._network.run([x.repeat_interleave(len(masks), 0) for x in inputs], each)
        run.end()
        return outputs

    def _numbers(self, masks: Sequence[Masks]) -> Numbers:
        return [torch.stack([each[index] for each in masks]) for index in self._shared]


def _one_of(place: int, numbers: Numbers) -> Tensor:
    return numbers[place]


def _by_answers(questions: Sequence[Question], numbers: Numbers) -> list[Tensor]:
    """Which passes give the same answers to all of some questions."""
    passes = len(numbers[0])
    if not questions:
        return [torch.arange(passes)]
    answers = [question(numbers).reshape(passes, -1).double().cpu() for question in questions]
    _, which = torch.unique(torch.cat(answers, dim=1), dim=0, return_inverse=True)
    return [torch.nonzero(which == number).flatten() for number in range(int(which.max()) + 1)]


def _cut(passes: Tensor, most: int) -> list[Tensor]:
    """Passes in parts of so many at most."""
    return [passes[start : start + most] for start in range(0, len(passes), most)]
