"""Settling: what a reading leaves open, found in what the network answers; or a question, where that is not certain.

Nothing is guessed. A softmax at the end is known by the graph, or by outputs that are never negative and sum to one; a
sigmoid by the graph, or by outputs that never leave 0 to 1 and go to its ends where inputs are large. Logits may be any
numbers: of outputs that keep within bounds without being known for probabilities it is asked what they are. Of several
dimensions, the classes lie along the one that the softmax ran along, or that sums to one, or has as many entries as
there are labels, or is left over where the others are those of an input.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from mcdropout.engine.arrays import Array
from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.reading import Form, Noise, Reading

End = Literal["softmax", "log_softmax", "sigmoid", "log_sigmoid", "tanh"]
"""The function at the end of a network that makes probabilities of logits, or what looks like them."""

_SUM_TOLERANCE = 1e-3
_HALF_SUM_TOLERANCE = 2e-2
_LARGE = (1e2, -1e2, 1e4, -1e4)  # times the examples: logits leave 0 to 1 there, and a sigmoid goes to its ends
_AT_AN_END = 0.01


@dataclass(frozen=True)
class Evidence:
    """What a network itself, but for its answers, says of its output.

    Attributes:
        end: the function that makes its output; None where none was seen.
        axis: the dimension that it runs along, the rows being 0, negative from the end; None where that is not known,
            or there is none.
        below: whether the engine reads what that function takes instead: logits for a sigmoid, logarithms of
            probabilities for a softmax.
        classes: how many classes its configuration names; None where it names none.
        names: of its outputs, where it returns them by name.
    """

    end: End | None = None
    axis: int | None = None
    below: bool = False
    classes: tuple[int, ...] = ()
    names: tuple[str, ...] = ()


def reads_below(reading: Reading | None, end: End | None) -> bool:
    """Whether what the function at the end of a network takes is read instead of what it makes."""
    if reading is None or reading.form is not None:
        return False
    return (reading.task, end) in (
        ("classification", "softmax"),
        ("binary", "sigmoid"),
        ("binary", "log_sigmoid"),
        ("multilabel", "sigmoid"),
        ("multilabel", "log_sigmoid"),
    )


@dataclass(frozen=True)
class _Seen:
    """What is known of a network that is to be read.

    Attributes:
        reading: as far as it is given.
        evidence: what the network says.
        inputs: the shapes of those inputs that have steps or places, without the rows. One of numbers in a single
            dimension has features, whose count says nothing of the output's dimensions.
        answers: its outputs, with nothing dropped and under masks: `[rows, ...]` each, the same shapes in each.
        scaled: what it answers, with nothing dropped, to its examples times a number; None where it does not.
    """

    reading: Reading
    evidence: Evidence
    inputs: tuple[tuple[int, ...], ...]
    answers: Sequence[tuple[Array, ...]]
    scaled: Callable[[float], Array | None]

    @cached_property
    def large(self) -> list[Array]:
        """What it answers, with nothing dropped, to much larger examples; none where these hold no floats."""
        return [values for factor in _LARGE if (values := self.scaled(factor)) is not None]

    @property
    def shapes(self) -> list[list[int]]:
        return [list(output.shape) for output in self.answers[0]]

    @property
    def values(self) -> Array:
        """Every answer's first output, `[answers * rows, ...]`."""
        return np.concatenate([outputs[0] for outputs in self.answers]).astype(np.float64)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.answers[0][0].shape)

    @property
    def tolerance(self) -> float:
        return _HALF_SUM_TOLERANCE if self.answers[0][0].dtype.itemsize < 4 else _SUM_TOLERANCE


def settle(
    reading: Reading,
    evidence: Evidence,
    inputs: Sequence[Array],
    answers: Sequence[tuple[Array, ...]],
    run: Callable[[tuple[Array, ...]], tuple[Array, ...]],
) -> Reading:
    """The reading, with nothing left open.

    Args:
        reading: as far as it is given.
        evidence: what the network itself says of its output.
        inputs: examples, `[rows, ...]` each.
        answers: the network's outputs for these, with nothing dropped and in some passes.
        run: the network with nothing dropped, for other inputs.

    Raises:
        UnsupportedModelError: what the network answers does not fit the reading, or leaves a question open; the
            message says which, and what would answer it.
    """

    def scaled(factor: float) -> Array | None:
        if not any(np.issubdtype(x.dtype, np.floating) for x in inputs):
            return None
        large = (x * x.dtype.type(factor) if np.issubdtype(x.dtype, np.floating) else x for x in inputs)
        try:
            return run(tuple(large))[0].astype(np.float64)
        except Exception:  # inputs like none that it ever saw: whatever it makes of them is no answer
            return None

    shapes = tuple(x.shape[1:] for x in inputs if x.ndim > 2 or not np.issubdtype(x.dtype, np.floating))
    seen = _Seen(reading, evidence, shapes, answers, scaled)
    return _SETTLED[reading.task](seen)


def _classification(seen: _Seen) -> Reading:
    if len(seen.shapes) != 1 or len(seen.shape) < 2:
        raise _refused(seen, "classification takes one output of logits or probabilities, [rows, classes, ...]")
    if max(seen.shape[1:]) < 2:
        raise _refused(
            seen,
            "classification takes 2 classes or more; for one logit or probability a row, task: binary is accepted",
        )
    axis, because = _class_axis(seen)
    if seen.shape[axis] < 2:
        raise _refused(seen, f"of which dimension {axis} holds the classes; 2 classes or more are accepted")
    form, why = _form_of_classes(seen, axis)
    return replace(seen.reading, class_axis=axis, form=form, because=_words(why, because))


def _multilabel(seen: _Seen) -> Reading:
    if len(seen.shapes) != 1 or len(seen.shape) < 2:
        raise _refused(
            seen, "multilabel takes one output of a logit or probability for each label, [rows, labels, ...]"
        )
    axis, because = _class_axis(seen)
    form, why = _form_of_labels(seen)
    return replace(seen.reading, class_axis=axis, form=form, because=_words(why, because))


def _binary(seen: _Seen) -> Reading:
    if len(seen.shapes) != 1:
        raise _refused(seen, "binary takes one output of a logit or probability, [rows] or [rows, 1]")
    given, shape = seen.reading.class_axis, seen.shape
    ones = [axis for axis in range(1, len(shape)) if shape[axis] == 1]
    if given is not None:
        axis = _within(seen, given)
        if axis not in ones:
            raise _refused(seen, f"of which dimension {axis} is to hold the one logit or probability")
    elif len(shape) == 1 or _is_of_an_input(seen, shape[1:]):
        axis = None
    elif 1 in ones or len(shape) - 1 in ones:
        axis = 1 if 1 in ones else len(shape) - 1
    else:
        other = "classification" if len(shape) == 2 and shape[1] == 2 else "multilabel"
        raise _refused(
            seen,
            "binary takes one logit or probability a row, [rows] or [rows, 1], or one for each place of an input; for "
            f"{shape[1]} of them, task: {other} is accepted",
        )
    form, why = _form_of_labels(seen)
    return replace(seen.reading, class_axis=axis, form=form, because=why)


def _regression(seen: _Seen) -> Reading:
    shapes, noise = seen.shapes, seen.reading.noise
    if seen.reading.quantiles is not None:
        return _quantiles(seen, len(seen.reading.quantiles))
    if len(shapes) > 2 or shapes[0] != shapes[-1]:
        raise _refused(seen, "regression takes the mean, or the mean and its noise in the same shape")
    if len(shapes) == 1:
        if noise is not None:
            raise _refused(seen, f"regression with the noise as {noise} takes two outputs: the mean, and that")
        return seen.reading
    second = np.concatenate([outputs[1] for outputs in seen.answers])
    negative = bool((second < 0.0).any())
    if noise is None and len(seen.evidence.names) == 2:
        return _regression_by_names(seen, negative)
    if noise is None:
        if not negative:
            raise _refused(
                seen,
                "of which the second may be a variance, a standard deviation, a logarithm of the variance or another "
                "target; output: {mean: 0, variance: 1}, {mean: 0, std: 1} or {mean: 0, log_variance: 1} is accepted, "
                "or output: 0 for the first alone (in Python, outputs)",
            )
        why = "the second output is negative somewhere, so that it is neither a variance nor a standard deviation"
        return replace(seen.reading, noise="log_variance", because=why)
    if negative and noise not in ("log_variance", "log_scale"):
        raise _refused(
            seen, f"of which the second is negative somewhere, and so is no {noise}; log_variance is accepted"
        )
    return seen.reading


_NOISES: dict[str, Noise] = {
    **dict.fromkeys(("logvar", "logvariance", "logsigma2", "logsigmasq", "logsigmasquared"), "log_variance"),
    **dict.fromkeys(("var", "variance", "sigma2", "sigmasq", "sigmasquared"), "variance"),
    **dict.fromkeys(("logstd", "logsigma", "logstddev", "logstdev"), "log_scale"),  # of a Gaussian
    **dict.fromkeys(("std", "sigma", "stddev", "stdev"), "std"),
}
"""What a second output is by its name, in small letters and without what parts them."""


def _regression_by_names(seen: _Seen, negative: bool) -> Reading:
    """The mean and its noise where the network gives both a name."""
    first, second = seen.evidence.names
    noise = _NOISES.get(_plain(second))
    if noise == "log_scale" and seen.reading.likelihood != "gaussian":
        noise = None
    if noise is None or _plain(first) in _NOISES or (negative and not noise.startswith("log_")):
        raise _refused(
            seen,
            f"named {first!r} and {second!r}, which leave open what is the mean and what its noise; output: {{mean: "
            f"{first}, log_variance: {second}}} says it, or variance, std, log_scale or scale in its place; or output: "
            f"{first} for it alone (in Python, outputs)",
        )
    return replace(seen.reading, noise=noise, because=f"the network calls its second output {second}")


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


_SETTLED: dict[str, Callable[[_Seen], Reading]] = {
    "classification": _classification,
    "multilabel": _multilabel,
    "binary": _binary,
    "regression": _regression,
}


def _form_of_classes(seen: _Seen, axis: int) -> tuple[Form, str | None]:
    given, end = seen.reading.form, seen.evidence.end
    is_probabilities, is_log = _sums_to_one(seen, axis), _sums_to_one(seen, axis, logarithm=True)
    if given == "probabilities" and not is_probabilities:
        raise _refused(seen, f"which are no probabilities: along dimension {axis} they are negative or do not sum to 1")
    if given == "log_probabilities" and not is_log:
        raise _refused(seen, f"which are no logarithms of probabilities: along dimension {axis} these do not sum to 1")
    if given is not None:
        return given, None
    if is_probabilities:
        return "probabilities", "the outputs are never negative and sum to one"
    if is_log:
        below = end == "softmax" and seen.evidence.below
        return "log_probabilities", (
            "the softmax at its end is taken as its logarithm" if below else "their exponentials sum to one"
        )
    if end in ("softmax", "log_softmax"):
        raise _doubted(seen, f"a {end} makes them, and they do not sum to one along dimension {axis}")
    plain = replace(seen, answers=seen.answers[:1])
    if _sums_to_one(plain, axis) or _sums_to_one(plain, axis, logarithm=True):
        raise _doubted(seen, "with nothing dropped they sum to one, and not where something is, behind a softmax")
    if end == "sigmoid" or _are_within(seen, 0.0, 1.0):
        why = "a sigmoid makes them" if end == "sigmoid" else "they never leave 0 to 1"
        raise _refused(
            seen,
            f"which are no logits of classes: {why}, and they do not sum to one; task: multilabel is accepted for a "
            "probability of its own for each, or output: {as: logits} (in Python, form) where they are logits",
        )
    total = seen.values.sum(axis=axis)
    if seen.values.min() >= 0.0 and np.ptp(total) <= seen.tolerance * np.abs(total).max():
        raise _doubted(seen, f"they are never negative and always sum to {total.flat[0]:.4g}")
    if _sums_to_one(seen, axis, sign=-1.0, logarithm=True):
        raise _doubted(seen, "they are the negatives of logarithms of probabilities")
    if seen.large and _are_within(seen, 0.0, np.inf):  # distances, or the evidence for each class
        raise _doubted(seen, "they are never negative")
    return "logits", None


def _doubted(seen: _Seen, why: str) -> UnsupportedModelError:
    return _refused(
        seen,
        f"which are hardly logits: {why}; what they are is not certain, and output: {{as: logits}}, {{as: "
        "probabilities} or {as: log_probabilities} says it (in Python, form)",
    )


def _quantiles(seen: _Seen, levels: int) -> Reading:
    """Where the quantiles of a regression are."""
    shape, given = seen.shape, seen.reading.quantile_axis
    if len(seen.shapes) == levels and given is None and all(other == list(shape) for other in seen.shapes):
        return seen.reading
    if len(seen.shapes) != 1:
        raise _refused(
            seen, f"{levels} quantiles are one output that holds them all, or one for each in the same shape"
        )
    if given is not None:
        axis = _within(seen, given)
        if shape[axis] != levels:
            raise _refused(seen, f"of which dimension {axis} is to hold the {levels} quantiles")
        return replace(seen.reading, quantile_axis=axis)
    fitting = [axis for axis in range(1, len(shape)) if shape[axis] == levels]
    if len(fitting) != 1:
        raise _refused(
            seen,
            f"of which {'none has' if not fitting else 'more than one dimension has'} as many entries as there are "
            f"quantiles, {levels}; output: {{quantiles: [...], along: {len(shape) - 1}}} says where they are "
            "(in Python, quantile_axis)",
        )
    return replace(seen.reading, quantile_axis=fitting[0])


def _form_of_labels(seen: _Seen) -> tuple[Form, str | None]:
    given, end = seen.reading.form, seen.evidence.end
    low, high = float(seen.values.min(initial=0.0)), float(seen.values.max(initial=0.0))
    if given == "probabilities" and not (low >= -seen.tolerance and high <= 1.0 + seen.tolerance):
        raise _refused(seen, f"which are no probabilities: they lie between {low:.3g} and {high:.3g}")
    if given == "log_probabilities" and high > seen.tolerance:
        raise _refused(seen, f"which are no logarithms of probabilities: they go up to {high:.3g}")
    if given is not None:
        return given, None
    if end == "softmax":
        raise _refused(seen, "which a softmax makes; task: classification is accepted for one class of several")
    if end in ("sigmoid", "log_sigmoid") and seen.evidence.below:
        return "logits", f"the {end} at its end is left out"
    if end == "sigmoid":
        return "probabilities", "a sigmoid makes the outputs"
    if end == "log_sigmoid":
        return "log_probabilities", "a log_sigmoid makes the outputs"
    if end in ("log_softmax", "tanh"):
        raise _doubted(seen, f"a {end} makes them")
    if _are_within(seen, 0.0, 1.0):
        large = seen.large
        ends = np.concatenate(large[-2:]) if large else np.array([0.5])
        if np.mean((ends < _AT_AN_END) | (ends > 1.0 - _AT_AN_END)) > 0.5:
            return "probabilities", "the outputs never leave 0 to 1"
        raise _doubted(seen, "they never leave 0 to 1")
    if _are_within(replace(seen, answers=seen.answers[:1]), 0.0, 1.0):
        raise _doubted(seen, "they leave 0 to 1 only where something is dropped, behind a sigmoid")
    if seen.large and _are_within(seen, -np.inf, 0.0):
        raise _doubted(seen, "they are never above 0")
    if seen.large and _are_within(seen, 0.0, np.inf):
        raise _doubted(seen, "they are never negative")
    return "logits", None


def _are_within(seen: _Seen, low: float, high: float) -> bool:
    """Whether all outputs lie between two numbers, those for large inputs too, where there are such."""
    return all(bool(((values >= low) & (values <= high)).all()) for values in (seen.values, *seen.large))


def _sums_to_one(seen: _Seen, axis: int, *, sign: float = 1.0, logarithm: bool = False) -> bool:
    values = sign * seen.values
    if logarithm:
        if (values > seen.tolerance).any():
            return False
        values = np.exp(values)
    elif (values < -seen.tolerance).any():
        return False
    return bool((np.abs(values.sum(axis=axis) - 1.0) <= seen.tolerance).all())


def _class_axis(seen: _Seen) -> tuple[int, str | None]:
    """The dimension of the classes or labels, and how it was found."""
    shape, given = seen.shape, seen.reading.class_axis
    if given is not None:
        axis = _within(seen, given)
        if seen.reading.classes not in (None, shape[axis]):
            raise _mislabelled(seen, shape[axis])
        return axis, None
    if len(shape) == 2:
        if seen.reading.classes not in (None, shape[1]):
            raise _mislabelled(seen, shape[1])
        return 1, None
    axes = range(1, len(shape))
    found: list[tuple[list[int], str]] = []
    if seen.evidence.axis is not None:
        found.append(([_within(seen, seen.evidence.axis)], f"the {seen.evidence.end} at its end runs along it"))
    summed = [axis for axis in axes if _sums_to_one(seen, axis) or _sums_to_one(seen, axis, logarithm=True)]
    found.append((summed, "it sums to one"))
    if seen.reading.classes is not None:
        labelled = [axis for axis in axes if shape[axis] == seen.reading.classes]
        if not labelled:
            raise _refused(seen, f"of which none has {seen.reading.classes} entries, as many as labels are given")
        found.append((labelled, "it has as many entries as there are labels"))
    found += [
        (
            [axis for axis in axes if shape[axis] == classes],
            "it has as many entries as the network's configuration names",
        )
        for classes in seen.evidence.classes
    ]
    found.append((_left_over(seen), "the others are those of an input"))
    for candidates, why in found:
        if len(candidates) == 1:
            return candidates[0], f"dimension {candidates[0]} holds the classes: {why}"
    raise _refused(
        seen,
        f"of which more than one dimension may hold the classes; output: {{classes: 1}} or output: {{classes: "
        f"{len(shape) - 1}}} says which (in Python, class_axis; -1 is the last)",
    )


def _left_over(seen: _Seen) -> list[int]:
    """The dimensions that can be those of the classes, the others being those of an input: its places or steps."""
    shape = seen.shape
    found = []
    if _is_of_an_input(seen, shape[2:]):
        found.append(1)
    # Of maps PyTorch has the channels first, whatever the last dimension of an input happens to be.
    is_map = bool(found) and len(shape) > 3
    places = len(shape) - 2
    if not is_map and any(shape[1:-1] == x[:places] and len(x) <= places + 1 for x in seen.inputs):
        found.append(len(shape) - 1)
    return found


def _is_of_an_input(seen: _Seen, sizes: tuple[int, ...]) -> bool:
    """Whether these are the sizes of an input's places, or, where they are two or more, the same part of each.

    An input has one more dimension than places, its channels or features, or none more.
    """
    for x in seen.inputs:
        own = x[len(x) - len(sizes) :]
        if not len(sizes) <= len(x) <= len(sizes) + 1 or not sizes:
            continue
        if own == sizes or (len(sizes) > 1 and len({a / b for a, b in zip(own, sizes, strict=True) if b}) == 1):
            return True
    return False


def _within(seen: _Seen, axis: int) -> int:
    """A dimension of the output other than the rows, counted from the front."""
    dimensions = len(seen.shape)
    found = axis + dimensions if axis < 0 else axis
    if not 1 <= found < dimensions:
        raise _refused(
            seen,
            f"and dimension {axis} is to hold the classes; 1 to {dimensions - 1}, or -1 for the last, is accepted",
        )
    return found


def _words(*reasons: str | None) -> str | None:
    return "; ".join(reason for reason in reasons if reason) or None


def _mislabelled(seen: _Seen, classes: int) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"labels has {seen.reading.classes} entries; the network's {classes} classes are accepted"
    )


def _refused(seen: _Seen, why: str) -> UnsupportedModelError:
    rows = seen.shape[0] if seen.shape else 0
    return UnsupportedModelError(f"for {rows} rows the network returns outputs of shape {seen.shapes}; {why}")
