"""Scores that several bundles' `results.json` hold."""

import numpy as np
import numpy.typing as npt


def auroc(low: npt.ArrayLike, high: npt.ArrayLike) -> float:
    """The share of pairs, one of each, in which the value from `high` is the larger; ties count half. 0.5 is chance."""
    low, high = np.asarray(low), np.asarray(high)
    larger = (high[:, None] > low).mean() + 0.5 * (high[:, None] == low).mean()
    return round(float(larger), 6)
