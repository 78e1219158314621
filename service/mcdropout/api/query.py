"""What a request for a prediction asks for: the model by its path, the rest by its query, or by parameters."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import QueryParams
from starlette.types import Scope

from mcdropout.api.errors import ProblemError
from mcdropout.api.schemas import PredictQuery
from mcdropout.catalogue.problems import quoted
from mcdropout.predictions import Ask

_MODELS, _PREDICT = "/models/", "/predict"
_SHORT_BYTES, _SHOWN = 200, 100


def predicted_by(scope: Scope) -> str | None:
    """The model that a request wants a prediction of, "" for the default one; None where it wants something else."""
    if scope["type"] != "http" or scope["method"] != "POST" or scope.get("root_path"):
        return None
    path: str = scope["path"]
    if not path.endswith(_PREDICT):
        return None
    head = path[: -len(_PREDICT)]
    if not head:
        return ""
    name = head.removeprefix(_MODELS)
    return name if name and name != head and "/" not in name else None


def ask_of(scope: Scope, model: str) -> Ask:
    """What a request that arrives now asks of a model, the default one where its name is empty.

    Raises:
        RequestValidationError: its query cannot be used.
        ProblemError: a parameter is in it more than once.
    """
    text = scope.get("query_string", b"")
    read = _read_again if len(text) + len(model) <= _SHORT_BYTES else _read
    try:
        ask, deadline_ms = read(text, model)
    except ValidationError as error:
        raise _invalid("query", error) from error
    return _by_deadline(ask, deadline_ms, time.perf_counter())


def ask_of_parameters(parameters: Mapping[str, Any], model: str, arrived: float) -> Ask:
    """What a request asks of a model by parameters that have the names and values of a query.

    Args:
        parameters: texts, numbers, or what is true or false.
        model: its name.
        arrived: when the request did, as `time.perf_counter` has it.

    Raises:
        RequestValidationError: they cannot be used.
    """
    for name, value in parameters.items():
        if not isinstance(value, str | int | float):
            raise ProblemError(
                422, f"parameters.{name[:_SHOWN]} is {quoted(value)}; text, a number, true or false is accepted"
            )
    try:  # as text, as a query has them: true is no number there, and 1 is not true
        query = PredictQuery.model_validate({name: _as_text(value) for name, value in parameters.items()})
    except ValidationError as error:
        raise _invalid("parameters", error) from error
    return _by_deadline(_ask(query, model), query.deadline_ms, arrived)


def _as_text(value: str | int | float) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _invalid(where: str, error: ValidationError) -> RequestValidationError:
    problems: list[Any] = [{**problem, "loc": (where, *problem["loc"])} for problem in error.errors()]
    return RequestValidationError(problems)


def _by_deadline(ask: Ask, deadline_ms: float | None, arrived: float) -> Ask:
    return ask if deadline_ms is None else replace(ask, deadline=arrived + deadline_ms / 1000.0)


def _read(text: bytes, model: str) -> tuple[Ask, float | None]:
    """What a query asks of a model, and in how many milliseconds at the latest.

    It is read here and not by FastAPI, which takes longer over it than the model over a row.
    """
    query = _checked(text)
    return _ask(query, model), query.deadline_ms


def _ask(query: PredictQuery, model: str) -> Ask:
    return Ask(
        model or None,
        query.mc,
        query.tolerance,
        None,
        query.seed,
        query.samples,
        query.p,
        None if query.fields is None else tuple(query.fields.split(",")),
        query.reduce,
        query.regions,
    )


_read_again = lru_cache(maxsize=1024)(_read)  # most clients ask the same way each time


def _checked(text: bytes) -> PredictQuery:
    query = QueryParams(text)
    if len(given := query.multi_items()) > len(query):
        name, times = Counter(name for name, _ in given).most_common(1)[0]
        values = ", ".join(repr(value) for value in query.getlist(name)[:3])
        raise ProblemError(422, f"query parameter {name!r} is given {times} times, as {values}; once is accepted")
    return PredictQuery.model_validate(dict(query))
