"""Variation ratio, the share of passes that vote against the most: Gal 2016, "Uncertainty in deep learning" (thesis),
section 3.3.1.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mcdropout.engine.statistics.bernoulli_block import BernoulliBlock
from mcdropout.engine.statistics.block import Floats, Rows
from mcdropout.engine.statistics.class_block import ClassBlock
from mcdropout.engine.statistics.field import Field, Summary


class Votes:
    """How many of the passes so far found each class the most probable, `[rows, classes, ...]`."""

    def __init__(self) -> None:
        self.counts: npt.NDArray[np.int64] = np.zeros((), np.int64)

    def update(self, block: ClassBlock) -> None:
        """Take in the votes of the next passes."""
        self.counts = self.counts + block.votes

    def take(self, rows: Rows) -> "Votes":
        """The same of some rows."""
        taken = Votes()
        taken.counts = self.counts[rows]
        return taken


def _share_against_the_most(summary: Summary) -> Floats:
    share: Floats = (summary.passes - summary.state(Votes).counts.max(axis=1)) / summary.passes
    return share


VARIATION_RATIO = Field(
    "variation_ratio",
    "Share of passes whose most probable class is not the most frequent one.",
    "[rows, ...]",
    _share_against_the_most,
    state=Votes,
)


class LabelVotes:
    """How many of the passes so far found each label at or above the threshold, `[rows, ...]`."""

    def __init__(self) -> None:
        self.counts: npt.NDArray[np.int64] = np.zeros((), np.int64)

    def update(self, block: BernoulliBlock) -> None:
        """Take in the votes of the next passes."""
        self.counts = self.counts + block.votes

    def take(self, rows: Rows) -> "LabelVotes":
        """The same of some rows."""
        taken = LabelVotes()
        taken.counts = self.counts[rows]
        return taken


def _share_of_the_fewer(summary: Summary) -> Floats:
    counts = summary.state(LabelVotes).counts
    share: Floats = np.minimum(counts, summary.passes - counts) / summary.passes
    return share


LABEL_VARIATION_RATIO = replace(
    VARIATION_RATIO,
    description="Share of passes that lie on the other side of the threshold than most.",
    of_passes=_share_of_the_fewer,
    state=LabelVotes,
)
