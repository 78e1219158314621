"""Reading: what a network's outputs mean."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from mcdropout.engine.errors import InvalidInputError

Task = Literal["classification", "regression"]


@dataclass(frozen=True)
class Reading:
    """How outputs are read.

    Attributes:
        task: "classification" or "regression".
        temperature: what logits are divided by before the softmax.
        noise_variance: for regression, the variance of the noise (`1 / tau`) where the network predicts none.
        interval: for regression, the share of the predictive distribution that `interval` holds; None for no interval.
    """

    task: Task
    temperature: float = 1.0
    noise_variance: float | None = None
    interval: float | None = 0.95

    def check(self) -> None:
        """Raise InvalidInputError for the first attribute that cannot be used."""
        if self.task not in get_args(Task):
            raise InvalidInputError(f'task is {self.task!r}; "classification" or "regression" would be accepted')
        if not 0.0 < self.temperature < np.inf:
            raise InvalidInputError(f"temperature is {self.temperature!r}; a number above 0 is accepted")
        if self.noise_variance is not None and not 0.0 < self.noise_variance < np.inf:
            raise InvalidInputError(
                f"noise_variance is {self.noise_variance!r}; a number above 0, or None, is accepted"
            )
        if self.interval is not None and not 0.0 < self.interval < 1.0:
            raise InvalidInputError(f"interval is {self.interval!r}; a number between 0 and 1, or None, is accepted")
