"""Mutual information of prediction and weights, `H[mean p] - mean H[p_n]` (BALD): Houlsby et al. 2011, "Bayesian active
learning for classification and preference learning".
"""

import numpy as np

from mcdropout.engine.statistics.field import Field

MUTUAL_INFORMATION = Field(
    "mutual_information",
    "entropy - expected_entropy, in nats: epistemic uncertainty (BALD).",
    "[rows, ...]",
    # It is never below 0, but for rounding.
    lambda summary: np.maximum(summary["entropy"] - summary["expected_entropy"], 0.0),
    unit="nats",
    histogram="mutual_information",
)
