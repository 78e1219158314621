"""What answers in binary have in common: the statistics that were asked for as arrays, and the rest in headers."""

from collections.abc import Sequence
from urllib.parse import quote

import numpy as np

from mcdropout.catalogue.model import Model
from mcdropout.engine.arrays import Array
from mcdropout.engine.statistics import TASKS
from mcdropout.predictions import Answered, InvalidAskError
from mcdropout.scheduling.plan import Plan

HEADERS = {
    "X-MCDropout-Model": "The model that answered.",
    "X-MCDropout-Version": "Its version; what is no printable ASCII is percent-encoded.",
    "X-MCDropout-MC": "Stochastic passes asked for: a number, 0 for the deterministic baseline, or auto.",
    "X-MCDropout-Seed": "Ask again with it for the same answer.",
    "X-MCDropout-P": "What the sites dropped with in place of their own, where asked for.",
    "X-MCDropout-Tolerance": "With mc=auto, the standard error asked for.",
    "X-MCDropout-Reduced-To": "The passes given instead, where the server was overloaded.",
}
"""What is sent along with an answer that has no place for it."""

_NAMES = dict(zip(("model", "version", "mc", "seed", "p", "tolerance", "reduced_to"), HEADERS, strict=True))
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


def mc_of(plan: Plan) -> int | str:
    """The passes that were asked for, as answers have them."""
    if plan.tolerance is not None:
        return "auto"
    return plan.passes if plan.asked is None else plan.asked


def about(answered: Answered) -> dict[str, str]:
    """What there is to say of an answer beside its statistics, by the names that JSON has for it."""
    plan = answered.answer.plan
    found = {
        "model": answered.model.name,
        "version": answered.model.version,
        "mc": str(mc_of(plan)),
        "seed": str(answered.seed),
    }
    if answered.p is not None:
        found["p"] = str(answered.p)
    if plan.tolerance is not None:
        found["tolerance"] = str(plan.tolerance)
    if plan.asked is not None:
        found["reduced_to"] = str(plan.passes)
    return found


def headers_of(answered: Answered) -> dict[str, str]:
    """What is sent along with an answer, by `HEADERS`."""
    values = about(answered)
    values["version"] = quote(values["version"], safe=_PRINTABLE)
    return {_NAMES[name]: value for name, value in values.items()}


def labels_of(model: Model, name: str) -> Sequence[str] | None:
    """The labels by which a statistic is given; None where it is given by its values."""
    field = TASKS[model.bundle.manifest.task].by_name.get(name)
    return None if field is None or not field.is_class else model.bundle.manifest.labels


def fields_of(answered: Answered, names: Sequence[str] | None = None) -> dict[str, Array]:
    """The statistics that were asked for, `[rows, ...]` each, in the order of the request.

    Args:
        answered: the answer.
        names: which of them; None for all that are not null.

    Raises:
        InvalidAskError: one that is named is null for all rows, or rows have answers of several shapes.
    """
    found: dict[str, Array] = {}
    for name in answered.shown[0].prediction.values if names is None else names:
        parts = [shown.prediction.values[name] for shown in answered.shown]
        known = [part for part in parts if part is not None]
        if len(known) == len(parts):
            found[name] = _in_order(answered, known, name)
        elif names is not None:
            raise InvalidAskError(
                f"{name} is null for this model with mc={mc_of(answered.answer.plan)}; other fields, more passes, or "
                "an answer as application/json are accepted"
            )
    if not found:
        raise InvalidAskError(
            "all that was asked for is null for this model with these passes; other fields, more passes, or an answer "
            "as application/json are accepted"
        )
    return found


def passes_of(answered: Answered) -> Array:
    """`[rows]`, the passes that each row used."""
    return _in_order(answered, [shown.prediction.passes for shown in answered.shown], "passes")


def samples_of(answered: Answered) -> Array | None:
    """`[rows, passes, ...]`, where they were asked for."""
    parts = [shown.samples for shown in answered.shown if shown.samples is not None]
    return _in_order(answered, parts, "samples") if parts else None


def _in_order(answered: Answered, parts: list[Array], name: str) -> Array:
    if len(parts) == 1:
        return parts[0]
    shapes = sorted({part.shape[1:] for part in parts})
    if len(shapes) > 1:
        raise InvalidAskError(
            f"{name} has the shapes {' and '.join(str(list(shape)) for shape in shapes[:3])}, as rows differ in size; "
            "rows of one size, or an answer as application/json, are accepted"
        )
    whole = np.empty((answered.rows, *shapes[0]), parts[0].dtype)
    for shown, part in zip(answered.shown, parts, strict=True):
        whole[shown.rows] = part
    return whole
