"""The variance of the noise in the data (aleatoric), and with that over passes: Kendall & Gal 2017, "What uncertainties
do we need in Bayesian deep learning for computer vision?".
"""

from mcdropout.engine.statistics.block import Floats, Rows, moments_of
from mcdropout.engine.statistics.field import Field, Summary
from mcdropout.engine.statistics.running_moments import RunningMoments
from mcdropout.engine.statistics.value_block import ValueBlock


class NoiseMoments:
    """The mean over passes of the noise's variance; of no pass where it is unknown."""

    def __init__(self) -> None:
        self.moments = RunningMoments()

    def update(self, block: ValueBlock) -> None:
        """Take in the noise of each pass; of one, where it is the same in all."""
        if block.noise is not None:
            self.moments.update(moments_of(block.noise if block.given is None else block.noise[:, :1]))

    def take(self, rows: Rows) -> "NoiseMoments":
        """The same of some rows."""
        taken = NoiseMoments()
        taken.moments = self.moments.take(rows)
        return taken


def _aleatoric(summary: Summary) -> Floats | None:
    moments = summary.state(NoiseMoments).moments
    return moments.mean if moments.count else None


def _aleatoric_of_one_pass(summary: Summary) -> Floats | None:
    noise: Floats | None = summary.block.noise
    return None if noise is None else noise[:, 0]


def _total(summary: Summary) -> Floats:
    epistemic: Floats = summary["epistemic_variance"]
    aleatoric: Floats | None = summary["aleatoric_variance"]
    return epistemic if aleatoric is None else epistemic + aleatoric


ALEATORIC_VARIANCE = Field(
    "aleatoric_variance",
    "Mean predicted variance of the noise, or the model's constant.",
    "[rows, ...]",
    _aleatoric,
    _aleatoric_of_one_pass,
    unit="the target's, squared",
    state=NoiseMoments,
)
TOTAL_VARIANCE = Field(
    "variance",
    "Epistemic and aleatoric variance together.",
    "[rows, ...]",
    _total,
    _aleatoric_of_one_pass,
    unit="the target's, squared",
    histogram="predictive_variance",
)
