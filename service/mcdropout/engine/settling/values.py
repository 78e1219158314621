"""Regressions: what a second output is, and where quantiles are."""

from dataclasses import replace

import numpy as np

from mcdropout.engine.reading import Noise, Reading
from mcdropout.engine.settling.seen import Seen, refused
from mcdropout.engine.statistics.value_block import fits_values

_NOISES: dict[str, Noise] = {
    **dict.fromkeys(("logvar", "logvariance", "logsigma2", "logsigmasq", "logsigmasquared"), "log_variance"),
    **dict.fromkeys(("var", "variance", "sigma2", "sigmasq", "sigmasquared"), "variance"),
    **dict.fromkeys(("logstd", "logsigma", "logstddev", "logstdev"), "log_scale"),  # of a Gaussian
    **dict.fromkeys(("std", "sigma", "stddev", "stdev"), "std"),
}
"""What a second output is by its name, in small letters and without what parts them."""


def regression(seen: Seen) -> Reading:
    """The reading of a regression, with nothing left open. Raises as `settle` does."""
    shapes, noise = seen.shapes, seen.reading.noise
    if seen.reading.quantiles is not None:
        return _quantiles(seen, len(seen.reading.quantiles))
    if len(shapes) > 2 or not fits_values(shapes[-1], shapes[0]):
        raise refused(
            seen,
            "regression takes the mean, or the mean and its noise: in the same shape, or without the last dimension, "
            "or with 1 in it, for a noise that all values along it have",
        )
    if len(shapes) == 1:
        if noise is not None:
            raise refused(seen, f"regression with the noise as {noise} takes two outputs: the mean, and that")
        return seen.reading
    second = np.concatenate([outputs[1] for outputs in seen.answers])
    negative = bool((second < 0.0).any())
    if noise is None and len(seen.evidence.names) == 2:
        return _regression_by_names(seen, negative)
    if noise is None:
        if not negative:
            raise refused(
                seen,
                "of which the second may be a variance, a standard deviation, a logarithm of the variance or another "
                "target; output: {mean: 0, variance: 1}, {mean: 0, std: 1} or {mean: 0, log_variance: 1} is accepted, "
                "or output: 0 for the first alone (in Python, outputs)",
            )
        why = "the second output is negative somewhere, so that it is neither a variance nor a standard deviation"
        return replace(seen.reading, noise="log_variance", because=why)
    if negative and noise not in ("log_variance", "log_scale"):
        raise refused(
            seen, f"of which the second is negative somewhere, and so is no {noise}; log_variance is accepted"
        )
    return seen.reading


def _regression_by_names(seen: Seen, negative: bool) -> Reading:
    """The mean and its noise where the network gives both a name."""
    first, second = seen.evidence.names
    noise = _NOISES.get(_plain(second))
    if noise in ("log_scale", "std") and seen.reading.likelihood != "gaussian":  # the scale is another number there
        noise = None
    if noise is None or _plain(first) in _NOISES or (negative and not noise.startswith("log_")):
        mean, other = (second, first) if _plain(first) in _NOISES and _plain(second) not in _NOISES else (first, second)
        kind = _NOISES.get(_plain(other), "log_variance")
        kind = "log_variance" if negative and not kind.startswith("log_") else kind
        others = ", ".join(each for each in ("log_variance", "variance", "std", "log_scale", "scale") if each != kind)
        raise refused(
            seen,
            f"named {first!r} and {second!r}, which leave open what is the mean and what its noise; output: {{mean: "
            f"{mean}, {kind}: {other}}} says it, or {others} in its place; or output: {mean} for it alone (in Python, "
            "outputs)",
        )
    return replace(seen.reading, noise=noise, because=f"the network calls its second output {second}")


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _quantiles(seen: Seen, levels: int) -> Reading:
    """Where the quantiles of a regression are."""
    shape, given = seen.shape, seen.reading.quantile_axis
    if len(seen.shapes) == levels and given is None and all(other == list(shape) for other in seen.shapes):
        return seen.reading
    if len(seen.shapes) != 1:
        raise refused(seen, f"{levels} quantiles are one output that holds them all, or one for each in the same shape")
    if given is not None:
        axis = seen.within(given, "quantiles")
        if shape[axis] != levels:
            raise refused(seen, f"of which dimension {axis} is to hold the {levels} quantiles")
        return replace(seen.reading, quantile_axis=axis)
    fitting = [axis for axis in range(1, len(shape)) if shape[axis] == levels]
    flat = next((axis for axis in range(1, len(shape)) if shape[axis] and shape[axis] % levels == 0), None)
    if not fitting and flat is not None:
        parted = [*shape[:flat], shape[flat] // levels, levels, *shape[flat + 1 :]]
        raise refused(
            seen,
            f"of which none has as many entries as there are quantiles, {levels}; where dimension {flat} holds those "
            f"of {shape[flat] // levels} targets, a network that keeps them apart is accepted, as {parted} or with "
            "these two dimensions the other way round",
        )
    if len(fitting) != 1:
        raise refused(
            seen,
            f"of which {'none has' if not fitting else 'more than one dimension has'} as many entries as there are "
            f"quantiles, {levels}; output: {{quantiles: [...], along: {len(shape) - 1}}} says where they are "
            "(in Python, quantile_axis)",
        )
    return replace(seen.reading, quantile_axis=fitting[0])
