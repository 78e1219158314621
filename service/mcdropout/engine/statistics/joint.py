"""What passes say of several labels together: the entropy of the joint prediction, which passes make dependent.

Given its masks a network takes labels for independent; a mixture of passes does not. `H[mean_n prod_l p_nl]` is exact:
it sums over all combinations, of which ten labels make 1,024. Houlsby et al. 2011, "Bayesian active learning for
classification and preference learning", with all labels as the outcome.
"""

import numpy as np

from mcdropout.engine.native import library
from mcdropout.engine.native.statistics import MOST_LABELS, combination_sums
from mcdropout.engine.statistics.bernoulli_block import BernoulliBlock
from mcdropout.engine.statistics.block import Floats, Rows
from mcdropout.engine.statistics.entropy import entropy_of
from mcdropout.engine.statistics.expected_entropy import LabelEntropySum
from mcdropout.engine.statistics.field import Field, Summary


class Combinations:
    """The sum over the passes so far of each combination's probability, `[rows, 2 ** labels]`.

    None where there are too many labels, or labels of many places.
    """

    def __init__(self) -> None:
        self.total: Floats | None = None

    def update(self, block: BernoulliBlock) -> None:
        """Take in the probabilities `[rows, passes, labels]` of some passes."""
        p = block.samples
        if p.ndim != 3 or p.shape[2] > MOST_LABELS:
            return
        total = combination_sums(np.ascontiguousarray(p)) if library.available() else _summed(p)
        self.total = total if self.total is None else self.total + total

    def take(self, rows: Rows) -> "Combinations":
        """The same of some rows."""
        taken = Combinations()
        taken.total = None if self.total is None else self.total[rows]
        return taken


def _summed(p: Floats) -> Floats:
    """`[rows, 2 ** labels]`, of probabilities `[rows, passes, labels]`."""
    half = p.shape[2] // 2
    some, others = _of_combinations(p[..., :half]), _of_combinations(p[..., half:])
    total: Floats = (some.swapaxes(1, 2) @ others).reshape(len(p), -1)
    return total


def _of_combinations(p: Floats) -> Floats:
    """`[rows, passes, 2 ** labels]`, of independent labels `[rows, passes, labels]`."""
    found = np.ones((*p.shape[:2], 1))
    for label in range(p.shape[2]):
        there = p[..., label, None]
        found = np.concatenate([found * (1.0 - there), found * there], axis=2)
    return found


def _entropy_of_combinations(summary: Summary) -> Floats | None:
    total = summary.state(Combinations).total
    if total is None:
        return None
    return entropy_of(total / summary.passes, 1)


def _over_labels(values: Floats) -> Floats:
    total: Floats = values.sum(axis=1)
    return total


def _information(summary: Summary) -> Floats | None:
    joint: Floats | None = summary["joint_entropy"]
    return None if joint is None else np.maximum(joint - summary["joint_expected_entropy"], 0.0)


JOINT_ENTROPY = Field(
    "joint_entropy",
    f"Entropy of the joint prediction of all labels, in nats; null with more than {MOST_LABELS}, or of many places.",
    "[rows, ...]",
    _entropy_of_combinations,
    lambda summary: _over_labels(summary["entropy"]),  # of one pass, labels are independent
    unit="nats",
    state=Combinations,
)
JOINT_EXPECTED_ENTROPY = Field(
    "joint_expected_entropy",
    "Mean entropy of a pass's labels together, in nats: the sum of theirs.",
    "[rows, ...]",
    lambda summary: _over_labels(summary.state(LabelEntropySum).total) / summary.passes,
    unit="nats",
    state=LabelEntropySum,
)
JOINT_MUTUAL_INFORMATION = Field(
    "joint_mutual_information",
    "joint_entropy - joint_expected_entropy, in nats; null where joint_entropy is.",
    "[rows, ...]",
    _information,
    unit="nats",
)
