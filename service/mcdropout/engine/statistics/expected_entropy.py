"""Expected entropy `mean H[p_n]`, what is uncertain in the data themselves: Houlsby et al. 2011, "Bayesian active
learning for classification and preference learning".
"""

from dataclasses import replace

import numpy as np

from mcdropout.engine.statistics.bernoulli_block import BernoulliBlock
from mcdropout.engine.statistics.block import Floats, Rows
from mcdropout.engine.statistics.class_block import ClassBlock
from mcdropout.engine.statistics.field import Field


class EntropySum:
    """The sum of the entropies of the passes so far, `[rows, ...]`."""

    def __init__(self) -> None:
        self.total: Floats = np.zeros(())

    def update(self, block: ClassBlock) -> None:
        """Take in the entropies of the next passes."""
        self.total = self.total + block.entropy

    def take(self, rows: Rows) -> "EntropySum":
        """The same of some rows."""
        taken = EntropySum()
        taken.total = self.total[rows]
        return taken


class LabelEntropySum:
    """The same of labels that are there or not, each for itself: `[rows, ...]`."""

    def __init__(self) -> None:
        self.total: Floats = np.zeros(())

    def update(self, block: BernoulliBlock) -> None:
        """Take in the entropy of each label in each pass."""
        self.total = self.total + block.entropy

    def take(self, rows: Rows) -> "LabelEntropySum":
        """The same of some rows."""
        taken = LabelEntropySum()
        taken.total = self.total[rows]
        return taken


EXPECTED_ENTROPY = Field(
    "expected_entropy",
    "Mean entropy of a pass, in nats: aleatoric uncertainty.",
    "[rows, ...]",
    lambda summary: summary.state(EntropySum).total / summary.passes,
    unit="nats",
    state=EntropySum,
)
LABEL_EXPECTED_ENTROPY = replace(
    EXPECTED_ENTROPY,
    of_passes=lambda summary: summary.state(LabelEntropySum).total / summary.passes,
    state=LabelEntropySum,
)
