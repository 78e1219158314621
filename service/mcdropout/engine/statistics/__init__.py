"""Statistics: what N passes say, gathered in one reading of the samples, in memory that does not grow with N.

Sums are float64. With `p_n` the class probabilities of pass n of N:

- predictive entropy `H[mean p]` and variance: Gal & Ghahramani 2016, "Dropout as a Bayesian approximation";
- mutual information `H[mean p] - mean H[p_n]` (BALD): Houlsby et al. 2011, "Bayesian active learning for
  classification and preference learning";
- variation ratio: Gal 2016, "Uncertainty in deep learning" (thesis), section 3.3.1;
- aleatoric and epistemic variance of a regression: Kendall & Gal 2017, "What uncertainties do we need in Bayesian deep
  learning for computer vision?".

Entropies are in nats. Classes lie along the first dimension of an output after its rows, as PyTorch's losses have it:
`[rows, classes]`, or `[rows, classes, height, width]` for a dense output.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdropout.engine.statistics.quantiles import MixtureQuantiles, gaussian_quantile

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64] | npt.NDArray[np.bool_] | slice
_CLASS = 2  # the class dimension of outputs [rows, passes, classes, ...]


@dataclass(frozen=True)
class ClassificationPrediction:
    """What a classifier predicts, a row at a time; `...` is empty but for dense outputs.

    With `passes` 0, the deterministic baseline, what only several passes can tell is None; with 1 pass, a variance is
    NaN.

    Attributes:
        passes: `[rows]`, how many passes each row used.
        mean: `[rows, classes, ...]`, the mean class probabilities.
        label: `[rows, ...]`, the class whose mean probability is largest.
        variance: `[rows, classes, ...]`, the unbiased variance over passes of each class probability.
        std_error: `[rows, classes, ...]`, the standard error of `mean`: `sqrt(variance / passes)`.
        entropy: `[rows, ...]`, predictive entropy, in nats.
        expected_entropy: `[rows, ...]`, the mean entropy of a pass (aleatoric), in nats.
        mutual_information: `[rows, ...]`, `entropy - expected_entropy` (epistemic), in nats, never below 0.
        variation_ratio: `[rows, ...]`, the share of passes whose most probable class is not the most frequent one.
        seed: what the masks were drawn from; None where nothing was drawn, or for rows of several requests.
    """

    passes: npt.NDArray[np.int64]
    mean: Floats
    label: npt.NDArray[np.int64]
    variance: Floats | None
    std_error: Floats | None
    entropy: Floats
    expected_entropy: Floats | None
    mutual_information: Floats | None
    variation_ratio: Floats | None
    seed: int | None = None


@dataclass(frozen=True)
class RegressionPrediction:
    """What a regression predicts, a row at a time. None is as for classification, and where no noise is known.

    Attributes:
        passes: `[rows]`, how many passes each row used.
        mean: `[rows, ...]`.
        variance: `[rows, ...]`, epistemic and aleatoric variance together.
        std_error: `[rows, ...]`, the standard error of `mean`.
        epistemic_variance: `[rows, ...]`, the unbiased variance over passes of the predicted mean.
        aleatoric_variance: `[rows, ...]`, the mean predicted variance, else the given noise variance, else None.
        entropy: `[rows, ...]`, of the Gaussian with `variance`, in nats.
        interval: `[rows, ..., 2]`, the quantiles of the predictive mixture that leave out the same share on each side.
        seed: what the masks were drawn from; None where nothing was drawn, or for rows of several requests.
    """

    passes: npt.NDArray[np.int64]
    mean: Floats
    variance: Floats | None
    std_error: Floats | None
    epistemic_variance: Floats | None
    aleatoric_variance: Floats | None
    entropy: Floats | None
    interval: Floats | None
    seed: int | None = None


Prediction = ClassificationPrediction | RegressionPrediction


def take(prediction: Prediction, rows: "Rows", seed: int | None = None) -> Prediction:
    """The prediction of some of the rows, which were drawn from `seed`."""
    taken: dict[str, Any] = {name: None if value is None else value[rows] for name, value in _arrays(prediction)}
    return replace(prediction, **taken, seed=seed)


def concatenate(predictions: Sequence[Prediction]) -> Prediction:
    """One prediction for the rows of several of the same kind."""
    columns = zip(*map(_arrays, predictions), strict=True)
    joined: dict[str, Any] = {
        column[0][0]: None if column[0][1] is None else np.concatenate([value for _, value in column])
        for column in columns
    }
    return replace(predictions[0], **joined)


def _arrays(prediction: Prediction) -> list[tuple[str, Any]]:
    return [(field.name, getattr(prediction, field.name)) for field in fields(prediction) if field.name != "seed"]


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

    def update(self, block: Floats) -> None:
        """Take in `[rows, passes, ...]`."""
        passes = block.shape[1]
        mean = block.mean(axis=1)
        deviations = block - mean[:, None]
        squares = np.square(deviations, out=deviations).sum(axis=1)
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

        A few passes that happen to agree would otherwise tell of no error at all. Infinite with fewer than two.
        """
        if self.count < 2:
            return np.full(self.mean.shape, np.inf)
        squares = self._squares + np.square(prior).reshape(-1, *[1] * (self.mean.ndim - 1))
        return np.ascontiguousarray(np.sqrt(squares / ((self.count - 1) * self.count)))


class ClassificationStatistics:
    """What the passes of some rows say about their classes."""

    def __init__(self, temperature: float = 1.0) -> None:
        self._temperature = temperature
        self._probabilities = RunningMoments()
        self._entropy_sum: Floats = np.zeros(())
        self._votes: npt.NDArray[np.int64] = np.zeros((), np.int64)

    def samples(self, outputs: Sequence[npt.NDArray[np.floating]]) -> Floats:
        """The class probabilities `[rows, passes, classes, ...]` of logits of that shape."""
        return self._probabilities_of(outputs)[0]

    def update(self, outputs: Sequence[npt.NDArray[np.floating]]) -> None:
        """Take in the logits `[rows, passes, classes, ...]`, the one output, of some passes."""
        probabilities, scores, log_total = self._probabilities_of(outputs)
        self._probabilities.update(probabilities)
        self._votes = self._votes + _firsts(scores == 0.0).sum(axis=1, dtype=np.int64)
        # -sum p log p, where log p = score - log total
        scores *= probabilities
        entropies = log_total - scores.sum(axis=_CLASS)
        self._entropy_sum = self._entropy_sum + entropies.sum(axis=1)

    def take(self, rows: Rows) -> "ClassificationStatistics":
        """The same of some rows."""
        taken = ClassificationStatistics(self._temperature)
        taken._probabilities = self._probabilities.take(rows)
        if self._probabilities.count:
            taken._entropy_sum, taken._votes = self._entropy_sum[rows], self._votes[rows]
        return taken

    def std_error(self, prior: Floats) -> Floats:
        """The standard error of each class's mean probability, `[rows, classes, ...]`, as `RunningMoments` tells it."""
        return self._probabilities.std_error(prior)

    def prediction(self) -> ClassificationPrediction:
        """Sum up the passes so far."""
        passes = self._probabilities.count
        mean = np.ascontiguousarray(self._probabilities.mean)
        variance = np.ascontiguousarray(self._probabilities.variance())
        entropy = _entropy_of(mean)
        expected_entropy = self._entropy_sum / passes
        return ClassificationPrediction(
            passes=np.full(len(mean), passes),
            mean=mean,
            label=mean.argmax(axis=1),
            variance=variance,
            std_error=np.sqrt(variance / passes),
            entropy=entropy,
            expected_entropy=expected_entropy,
            mutual_information=np.maximum(entropy - expected_entropy, 0.0),
            variation_ratio=(passes - self._votes.max(axis=1)) / passes,
        )

    def deterministic(self, outputs: Sequence[npt.NDArray[np.floating]]) -> ClassificationPrediction:
        """The prediction of one pass without dropout, `[rows, 1, classes, ...]`."""
        mean = np.ascontiguousarray(self.samples(outputs)[:, 0])
        return ClassificationPrediction(
            passes=np.zeros(len(mean), np.int64),
            mean=mean,
            label=mean.argmax(axis=1),
            variance=None,
            std_error=None,
            entropy=_entropy_of(mean),
            expected_entropy=None,
            mutual_information=None,
            variation_ratio=None,
        )

    def _probabilities_of(self, outputs: Sequence[npt.NDArray[np.floating]]) -> tuple[Floats, Floats, Floats]:
        """Class probabilities `exp(score) / total`, the scores, at most 0, and `log(total)`."""
        (logits,) = outputs
        # In memory the classes come first: sums over them then run along whole rows of numbers, not over ten at a time.
        classes_first = np.array(np.moveaxis(logits, _CLASS, 0), np.float64, order="C")
        scores = np.moveaxis(classes_first, 0, _CLASS)
        if self._temperature != 1.0:
            scores /= self._temperature
        scores -= scores.max(axis=_CLASS, keepdims=True)
        odds = np.exp(scores)
        total = odds.sum(axis=_CLASS, keepdims=True)
        odds /= total
        return odds, scores, np.log(total.squeeze(_CLASS))


class RegressionStatistics:
    """What the passes of some rows say about their values.

    A network gives one output, the mean, or two: the mean and the logarithm of the variance of the noise.
    """

    def __init__(self, noise_variance: float | None = None, interval: float = 0.95) -> None:
        """
        Args:
            noise_variance: the variance of the noise where the network predicts none (`1 / tau`); None if unknown.
            interval: the share of the predictive mixture that the interval holds.
        """
        self._noise_variance = noise_variance
        self._levels = ((1.0 - interval) / 2.0, (1.0 + interval) / 2.0)
        self._means = RunningMoments()
        self._noise = RunningMoments()
        self._mixture = MixtureQuantiles()

    def samples(self, outputs: Sequence[npt.NDArray[np.floating]]) -> Floats:
        """The predicted means `[rows, passes, ...]`."""
        return outputs[0].astype(np.float64)

    def update(self, outputs: Sequence[npt.NDArray[np.floating]]) -> None:
        """Take in the outputs `[rows, passes, ...]` of some passes."""
        means = self.samples(outputs)
        noise = self._predicted_noise(outputs)
        self._means.update(means)
        if noise is not None:
            self._noise.update(noise)
        self._mixture.update(means, np.zeros_like(means) if noise is None else noise)

    def take(self, rows: Rows) -> "RegressionStatistics":
        """The same of some rows."""
        taken = RegressionStatistics(self._noise_variance)
        taken._levels = self._levels
        taken._means, taken._noise = self._means.take(rows), self._noise.take(rows)
        taken._mixture = self._mixture.take(rows)
        return taken

    def std_error(self, prior: Floats) -> Floats:
        """The standard error of each predicted mean, `[rows, ...]`, as `RunningMoments` tells it."""
        return self._means.std_error(prior)

    def prediction(self) -> RegressionPrediction:
        """Sum up the passes so far."""
        passes = self._means.count
        epistemic = self._means.variance()
        aleatoric = self._noise.mean if self._noise.count else None
        variance = epistemic if aleatoric is None else epistemic + aleatoric
        return RegressionPrediction(
            passes=np.full(len(self._means.mean), passes),
            mean=self._means.mean,
            variance=variance,
            std_error=np.sqrt(epistemic / passes),
            epistemic_variance=epistemic,
            aleatoric_variance=aleatoric,
            entropy=_gaussian_entropy(variance),
            interval=np.stack([self._mixture.quantile(level) for level in self._levels], axis=-1),
        )

    def deterministic(self, outputs: Sequence[npt.NDArray[np.floating]]) -> RegressionPrediction:
        """The prediction of one pass without dropout, `[rows, 1, ...]`."""
        mean = self.samples(outputs)[:, 0]
        noise = self._predicted_noise(outputs)
        variance = None if noise is None else noise[:, 0]
        interval = None
        if variance is not None:
            steps = [gaussian_quantile(level) for level in self._levels]
            interval = np.stack([mean + step * np.sqrt(variance) for step in steps], axis=-1)
        return RegressionPrediction(
            passes=np.zeros(len(mean), np.int64),
            mean=mean,
            variance=variance,
            std_error=None,
            epistemic_variance=None,
            aleatoric_variance=variance,
            entropy=None if variance is None else _gaussian_entropy(variance),
            interval=interval,
        )

    def _predicted_noise(self, outputs: Sequence[npt.NDArray[np.floating]]) -> Floats | None:
        if len(outputs) > 1:
            return np.exp(outputs[1].astype(np.float64))
        if self._noise_variance is not None:
            return np.full(outputs[0].shape, self._noise_variance)
        return None


Statistics = ClassificationStatistics | RegressionStatistics


def _firsts(best: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Of the best classes of each pass, `[rows, passes, classes, ...]`, the first; there is one almost always."""
    if np.count_nonzero(best) == best.size // best.shape[_CLASS]:
        return best
    classes = np.arange(best.shape[_CLASS]).reshape(-1, *[1] * (best.ndim - _CLASS - 1))
    firsts: npt.NDArray[np.bool_] = best.argmax(axis=_CLASS, keepdims=True) == classes
    return firsts


def _entropy_of(mean: Floats) -> Floats:
    """The entropy of class probabilities `[rows, classes, ...]`, where 0 log 0 is 0."""
    logarithms = np.log(mean, out=np.zeros_like(mean), where=mean > 0.0)
    entropy: Floats = -(mean * logarithms).sum(axis=1)
    return np.maximum(entropy, 0.0)


def _gaussian_entropy(variance: Floats) -> Floats:
    """`log(2 pi e variance) / 2`; NaN where the variance is 0, which no density describes."""
    positive = variance > 0.0
    return 0.5 * np.log(2.0 * np.pi * np.e * variance, out=np.full(variance.shape, np.nan), where=positive)
