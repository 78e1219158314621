"""Reading: what a network's outputs mean."""

from dataclasses import dataclass
from typing import Literal, TypeGuard, get_args

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
        interval: for regression, the share of the predictive distribution that `interval` holds.
    """

    task: Task
    temperature: float = 1.0
    noise_variance: float | None = None
    interval: float = 0.95

    def check(self) -> None:
        """Raise InvalidInputError for the first attribute that cannot be used."""
        if self.task not in get_args(Task):
            raise InvalidInputError(f'task is {self.task!r}; "classification" or "regression" would be accepted')
        if not _lies_between(self.temperature, 0.0, np.inf):
            raise InvalidInputError(f"temperature is {self.temperature!r}; a number above 0 is accepted")
        if self.noise_variance is not None and not _lies_between(self.noise_variance, 0.0, np.inf):
            raise InvalidInputError(
                f"noise_variance is {self.noise_variance!r}; a number above 0, or None, is accepted"
            )
        if not _lies_between(self.interval, 0.0, 1.0):
            raise InvalidInputError(f"interval is {self.interval!r}; a number between 0 and 1 is accepted")


def is_number(value: object) -> TypeGuard[float]:
    """Whether something is a number; what is true or false is none."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _lies_between(value: object, low: float, high: float) -> bool:
    """Whether something is a number above `low` and below `high`."""
    return is_number(value) and low < value < high
