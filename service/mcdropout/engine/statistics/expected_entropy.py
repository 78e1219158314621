"""Expected entropy `mean H[p_n]`, what is uncertain in the data themselves: Houlsby et al. 2011, "Bayesian active
learning for classification and preference learning".
"""

import numpy as np

from mcdropout.engine.statistics.block import Floats, Rows
from mcdropout.engine.statistics.class_block import CLASS_AXIS, ClassBlock
from mcdropout.engine.statistics.field import Field


class EntropySum:
    """The sum of the entropies of the passes so far, `[rows, ...]`."""

    def __init__(self) -> None:
        self.total: Floats = np.zeros(())

    def update(self, block: ClassBlock) -> None:
        """Take in `H[p] = -sum p log p` of each pass, where `log p = score - log total`."""
        with np.errstate(invalid="ignore"):
            entropies = block.log_total - (block.scores * block.samples).sum(axis=CLASS_AXIS)
        if np.isnan(entropies).any():  # 0 log 0 is 0
            scores = np.where(block.samples > 0.0, block.scores, 0.0)
            entropies = block.log_total - (scores * block.samples).sum(axis=CLASS_AXIS)
        self.total = self.total + entropies.sum(axis=1)

    def take(self, rows: Rows) -> "EntropySum":
        """The same of some rows."""
        taken = EntropySum()
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
