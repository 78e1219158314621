"""Predictions: what passes say of some rows, summed up."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array
from mcdropout.engine.display import prediction as display
from mcdropout.engine.statistics.block import Rows

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a network predicts, a row at a time. Each statistic in `values` is an attribute too: `prediction.mean`.

    With `passes` 0, the deterministic baseline, what only several passes can tell is None; with 1 pass, a variance is
    NaN. `...` is empty but for dense outputs. Entropies are in nats.

    A classification has, with classes where the network has them:

    - label: `[rows, ...]`, the class whose mean probability is largest.
    - mean: `[rows, classes, ...]`, the mean class probabilities.
    - variance: `[rows, classes, ...]`, the unbiased variance over passes of each class probability.
    - std_error: `[rows, classes, ...]`, the standard error of `mean`: `sqrt(variance / passes)`.
    - entropy: `[rows, ...]`, predictive entropy.
    - expected_entropy: `[rows, ...]`, the mean entropy of a pass (aleatoric).
    - mutual_information: `[rows, ...]`, `entropy - expected_entropy` (epistemic), never below 0.
    - variation_ratio: `[rows, ...]`, the share of passes whose most probable class is not the most frequent one.

    A binary has:

    - label: `[rows, ...]`, 1 where `mean` is at or above the threshold, else 0.
    - mean: `[rows, ...]`, the mean probability of yes.
    - variance: `[rows, ...]`, its unbiased variance over passes.
    - std_error: `[rows, ...]`, the standard error of `mean`.
    - entropy: `[rows, ...]`, predictive entropy.
    - expected_entropy: `[rows, ...]`, the mean entropy of a pass (aleatoric).
    - mutual_information: `[rows, ...]`, `entropy - expected_entropy` (epistemic), never below 0.
    - variation_ratio: `[rows, ...]`, the share of passes on the other side of the threshold than most.

    A multilabel has the same for each label, as the network has them, and of all together, where None also stands for
    too many of them, or for labels of many places:

    - label: `[rows, labels, ...]`, whether `mean` is at or above the threshold.
    - mean: `[rows, labels, ...]`, the mean probability of each label.
    - variance: `[rows, labels, ...]`, its unbiased variance over passes.
    - std_error: `[rows, labels, ...]`, the standard error of `mean`.
    - entropy: `[rows, labels, ...]`, predictive entropy.
    - expected_entropy: `[rows, labels, ...]`, the mean entropy of a pass (aleatoric).
    - mutual_information: `[rows, labels, ...]`, `entropy - expected_entropy` (epistemic), never below 0.
    - variation_ratio: `[rows, labels, ...]`, the share of passes on the other side of the threshold than most.
    - joint_entropy: `[rows, ...]`, the entropy of the joint prediction of all labels.
    - joint_expected_entropy: `[rows, ...]`, the mean entropy of a pass's labels together: the sum of theirs.
    - joint_mutual_information: `[rows, ...]`, `joint_entropy - joint_expected_entropy`, never below 0.

    A regression has, where None also stands for what takes a noise that is not known, or quantiles that are not
    predicted:

    - mean: `[rows, ...]`.
    - variance: `[rows, ...]`, epistemic and aleatoric variance together.
    - std_error: `[rows, ...]`, the standard error of `mean`.
    - epistemic_variance: `[rows, ...]`, the unbiased variance over passes of the predicted mean.
    - aleatoric_variance: `[rows, ...]`, the mean predicted variance, else the given noise variance, else None.
    - entropy: `[rows, ...]`, of the Gaussian with `variance`.
    - interval: `[rows, ..., 2]`, the quantiles of the predictive mixture that leave out the same share on each side.
      Exact but for many values or many passes: `quantiles.MixtureQuantiles` says how close they are.
    - quantiles: `[rows, ..., levels]`, the mean over passes of the quantiles that the network predicts.

    Attributes:
        task: what it answers, "classification" for instance.
        passes: `[rows]`, how many passes each row used.
        values: the statistics by their names, `[rows, ...]` each, in the order in which an answer has them.
        seed: what the masks were drawn from; None where nothing was drawn, or for rows of several requests.
    """

    task: str
    passes: npt.NDArray[np.int64]
    values: Mapping[str, Array | None]
    seed: int | None = None

    def __getattr__(self, name: str) -> Any:
        """A statistic.

        Raises:
            AttributeError: naming what there is.
        """
        values: Mapping[str, Array | None] = vars(self).get("values", {})  # none yet while it is being unpickled
        if name not in values:
            known = ", ".join(("task", "passes", "values", "seed", *values))
            raise AttributeError(f"a prediction has no {name!r}; this one has {known}", name=name, obj=self)
        return values[name]

    def __dir__(self) -> Iterable[str]:
        return [*super().__dir__(), *self.values]

    def __len__(self) -> int:
        return len(self.passes)

    def __repr__(self) -> str:
        return display.as_text(self)

    def _repr_html_(self) -> str:
        return display.as_html(self)

    def to_pandas(self) -> "pandas.DataFrame":
        """A DataFrame, a line a row: of a few classes or labels each has a column, `mean.0`.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        return display.as_frame(self)

    def plot(self, axes: "Axes | None" = None) -> "Axes":
        """Draw the first rows: probabilities, or values, with twice the deviation over passes on each side.

        Args:
            axes: of Matplotlib, where to draw; new ones where not given.

        Raises:
            ModuleNotFoundError: Matplotlib is not installed.
            ValueError: the outputs are dense.
        """
        return display.plot(self, axes)


def take(prediction: Prediction, rows: Rows, seed: int | None = None) -> Prediction:
    """The prediction of some of the rows, which were drawn from `seed`."""
    values = {name: None if value is None else value[rows] for name, value in prediction.values.items()}
    return Prediction(prediction.task, prediction.passes[rows], values, seed)


def concatenate(predictions: Sequence[Prediction]) -> Prediction:
    """One prediction for the rows of several of the same task."""
    first = predictions[0]
    values = {
        name: None if value is None else np.concatenate([prediction.values[name] for prediction in predictions])
        for name, value in first.values.items()
    }
    passes = np.concatenate([prediction.passes for prediction in predictions])
    return Prediction(first.task, passes, values, first.seed)
