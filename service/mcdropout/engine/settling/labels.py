"""Labels, one or several: where they are, and whether they are logits or probabilities."""

from dataclasses import replace

import numpy as np

from mcdropout.engine.reading import Form, Reading
from mcdropout.engine.settling.axes import class_axis
from mcdropout.engine.settling.seen import Seen, doubted, refused, words

_AT_AN_END = 0.01


def multilabel(seen: Seen) -> Reading:
    """The reading of several labels, with nothing left open. Raises as `settle` does."""
    if len(seen.shapes) != 1 or len(seen.shape) < 2:
        raise refused(seen, "multilabel takes one output of a logit or probability for each label, [rows, labels, ...]")
    axis, because = class_axis(seen)
    form, why = _form_of_labels(seen)
    return replace(seen.reading, class_axis=axis, form=form, because=words(why, because))


def binary(seen: Seen) -> Reading:
    """The reading of one label, with nothing left open. Raises as `settle` does."""
    if len(seen.shapes) != 1:
        raise refused(seen, "binary takes one output of a logit or probability, [rows] or [rows, 1]")
    given, shape = seen.reading.class_axis, seen.shape
    ones = [axis for axis in range(1, len(shape)) if shape[axis] == 1]
    if given is not None:
        axis = seen.within(given)
        if axis not in ones:
            raise refused(seen, f"of which dimension {axis} is to hold the one logit or probability")
    elif len(shape) == 1 or seen.is_of_an_input(shape[1:]):
        axis = None
    elif 1 in ones or len(shape) - 1 in ones:
        axis = 1 if 1 in ones else len(shape) - 1
    else:
        other = "classification" if len(shape) == 2 and shape[1] == 2 else "multilabel"
        raise refused(
            seen,
            "binary takes one logit or probability a row, [rows] or [rows, 1], or one for each place of an input; for "
            f"{shape[1]} of them, task: {other} is accepted",
        )
    form, why = _form_of_labels(seen)
    return replace(seen.reading, class_axis=axis, form=form, because=why)


def _form_of_labels(seen: Seen) -> tuple[Form, str | None]:
    given, end = seen.reading.form, seen.evidence.end
    low, high = float(seen.values.min(initial=0.0)), float(seen.values.max(initial=0.0))
    if given == "probabilities" and not (low >= -seen.tolerance and high <= 1.0 + seen.tolerance):
        raise refused(seen, f"which are no probabilities: they lie between {low:.3g} and {high:.3g}")
    if given == "log_probabilities" and high > seen.tolerance:
        raise refused(seen, f"which are no logarithms of probabilities: they go up to {high:.3g}")
    if given is not None:
        return given, None
    if end == "softmax":
        raise refused(seen, "which a softmax makes; task: classification is accepted for one class of several")
    if end in ("sigmoid", "log_sigmoid") and seen.evidence.below:
        return "logits", f"the {end} at its end is left out"
    if end == "sigmoid":
        return "probabilities", "a sigmoid makes the outputs"
    if end == "log_sigmoid":
        return "log_probabilities", "a log_sigmoid makes the outputs"
    if end in ("log_softmax", "tanh"):
        raise doubted(seen, f"a {end} makes them")
    if seen.evidence.linear:
        return "logits", None
    if seen.are_within(0.0, 1.0):
        large = seen.large
        ends = np.concatenate(large[-2:]) if large else np.array([0.5])
        if np.mean((ends < _AT_AN_END) | (ends > 1.0 - _AT_AN_END)) > 0.5:
            return "probabilities", "the outputs never leave 0 to 1"
        raise doubted(seen, "they never leave 0 to 1")
    if replace(seen, answers=seen.answers[:1]).are_within(0.0, 1.0):
        raise doubted(seen, "they leave 0 to 1 only where something is dropped, behind a sigmoid")
    if seen.large and seen.are_within(-np.inf, 0.0):
        raise doubted(seen, "they are never above 0")
    if seen.large and seen.are_within(0.0, np.inf):
        raise doubted(seen, "they are never negative")
    return "logits", None
