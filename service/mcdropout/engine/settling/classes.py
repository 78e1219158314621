"""Classifications: where the classes are, and whether they are logits or probabilities."""

from dataclasses import replace

import numpy as np

from mcdropout.engine.reading import Form, Reading
from mcdropout.engine.settling.axes import class_axis
from mcdropout.engine.settling.seen import Seen, doubted, refused, words


def classification(seen: Seen) -> Reading:
    """The reading of a classification, with nothing left open. Raises as `settle` does."""
    if len(seen.shapes) != 1 or len(seen.shape) < 2:
        raise refused(seen, "classification takes one output of logits or probabilities, [rows, classes, ...]")
    if max(seen.shape[1:]) < 2:
        raise refused(
            seen,
            "classification takes 2 classes or more; for one logit or probability a row, task: binary is accepted",
        )
    axis, because = class_axis(seen)
    if seen.shape[axis] < 2:
        raise refused(seen, f"of which dimension {axis} holds the classes; 2 classes or more are accepted")
    form, why = _form_of_classes(seen, axis)
    return replace(seen.reading, class_axis=axis, form=form, because=words(why, because))


def _form_of_classes(seen: Seen, axis: int) -> tuple[Form, str | None]:
    given, end = seen.reading.form, seen.evidence.end
    is_probabilities, is_log = seen.sums_to_one(axis), seen.sums_to_one(axis, logarithm=True)
    if given == "probabilities" and not is_probabilities:
        raise refused(seen, f"which are no probabilities: along dimension {axis} they are negative or do not sum to 1")
    if given == "log_probabilities" and not is_log:
        raise refused(seen, f"which are no logarithms of probabilities: along dimension {axis} these do not sum to 1")
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
        raise doubted(seen, f"a {end} makes them, and they do not sum to one along dimension {axis}")
    if seen.evidence.linear:
        return "logits", None
    plain = replace(seen, answers=seen.answers[:1])
    if plain.sums_to_one(axis) or plain.sums_to_one(axis, logarithm=True):
        raise doubted(seen, "with nothing dropped they sum to one, and not where something is, behind a softmax")
    if end == "sigmoid" or seen.are_within(0.0, 1.0):
        why = "a sigmoid makes them" if end == "sigmoid" else "they never leave 0 to 1"
        raise refused(
            seen,
            f"which are no logits of classes: {why}, and they do not sum to one; task: multilabel is accepted for a "
            "probability of its own for each, or output: {as: logits} (in Python, form) where they are logits",
        )
    total = seen.values.sum(axis=axis)
    if seen.values.min() >= 0.0 and np.ptp(total) <= seen.tolerance * np.abs(total).max():
        raise doubted(seen, f"they are never negative and always sum to {total.flat[0]:.4g}")
    if seen.sums_to_one(axis, sign=-1.0, logarithm=True):
        raise doubted(seen, "they are the negatives of logarithms of probabilities")
    if seen.large and seen.are_within(1.0, np.inf):  # evidence for each class, and one more
        raise doubted(seen, "they are never below 1, as the parameters of a Dirichlet distribution are")
    return "logits", None
