"""The quantiles that a network predicts, as the mean over passes."""

from mcdropout.engine.statistics.block import Floats, Rows, moments_of
from mcdropout.engine.statistics.field import Field, Summary
from mcdropout.engine.statistics.running_moments import RunningMoments
from mcdropout.engine.statistics.value_block import ValueBlock


class QuantileMoments:
    """The mean over passes of each predicted quantile."""

    def __init__(self) -> None:
        self.moments = RunningMoments()

    def update(self, block: ValueBlock) -> None:
        """Take in the quantiles of each pass."""
        assert block.quantiles is not None
        self.moments.update(moments_of(block.quantiles))

    def take(self, rows: Rows) -> "QuantileMoments":
        """The same of some rows."""
        taken = QuantileMoments()
        taken.moments = self.moments.take(rows)
        return taken


def _of_one_pass(summary: Summary) -> Floats:
    quantiles: Floats = summary.block.quantiles
    return quantiles[:, 0]


PREDICTED_QUANTILES = Field(
    "quantiles",
    "Mean over the passes of each quantile that the network predicts, ascending; null where it predicts none.",
    "[rows, ..., levels]",
    lambda summary: summary.state(QuantileMoments).moments.mean,
    _of_one_pass,
    known_for=lambda reading: reading.quantiles is not None,
    unit="the target's",
    state=QuantileMoments,
    trailing=1,
)
