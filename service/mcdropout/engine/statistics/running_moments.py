"""Mean and variance over passes, in memory that does not grow with them."""

import numpy as np

from mcdropout.engine.statistics.block import Floats, Moments, Rows


class RunningMoments:
    """Mean and variance over passes, merged block by block (Chan, Golub & LeVeque 1983).

    Attributes:
        count: passes so far.
        mean: `[rows, ...]`.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Floats = np.zeros(())
        self._squares: Floats = np.zeros(())

    def update(self, moments: Moments) -> None:
        """Take in those of the next passes."""
        passes, mean, squares = moments
        if not self.count:
            self.count, self.mean, self._squares = moments
            return
        total = self.count + passes
        delta = mean - self.mean
        self.mean = self.mean + delta * (passes / total)
        self._squares = self._squares + squares + np.square(delta) * (self.count * passes / total)
        self.count = total

    def take(self, rows: Rows) -> "RunningMoments":
        """The same of some rows."""
        taken = RunningMoments()
        taken.count = self.count
        if self.count:
            taken.mean, taken._squares = self.mean[rows], self._squares[rows]
        return taken

    def variance(self) -> Floats:
        """The unbiased variance; NaN with fewer than two passes."""
        if self.count < 2:
            return np.full(self.mean.shape, np.nan)
        return self._squares / (self.count - 1)

    def std_error(self, prior: Floats) -> Floats:
        """The standard error of the mean, where one more deviation, of the size `prior` `[rows]`, is reckoned with.

        A few passes that happen to agree would otherwise show no error at all. Infinite with fewer than two.
        """
        if self.count < 2:
            return np.full(self.mean.shape, np.inf)
        squares = self._squares + np.square(prior).reshape(-1, *[1] * (self.mean.ndim - 1))
        return np.ascontiguousarray(np.sqrt(squares / ((self.count - 1) * self.count)))
