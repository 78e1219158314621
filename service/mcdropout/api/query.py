"""What a request for a prediction asks for: the model by its path, the rest by its query."""

import re
import time
from collections import Counter
from functools import lru_cache
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import QueryParams
from starlette.types import Scope

from mcdropout.api.errors import ProblemError
from mcdropout.api.schemas import PredictQuery
from mcdropout.predictions import Ask

_PATH = re.compile(r"(?:/models/(?P<name>[^/]+))?/predict")
_SHORT_QUERY_BYTES = 200


def predicted_by(scope: Scope) -> str | None:
    """The model that a request wants a prediction of, "" for the default one; None where it wants something else."""
    if scope["type"] != "http" or scope["method"] != "POST" or scope.get("root_path"):
        return None
    found = _PATH.fullmatch(scope["path"])
    return None if found is None else found["name"] or ""


def ask_of(scope: Scope, model: str) -> Ask:
    """What a request that arrives now asks of a model, the default one where its name is empty.

    Raises:
        RequestValidationError: its query cannot be used.
        ProblemError: a parameter is in it more than once.
    """
    query = _query(scope.get("query_string", b""))
    deadline = None if query.deadline_ms is None else time.perf_counter() + query.deadline_ms / 1000.0
    fields = None if query.fields is None else tuple(query.fields.split(","))
    return Ask(
        model or None,
        query.mc,
        query.tolerance,
        deadline,
        query.seed,
        query.samples,
        fields,
        query.reduce,
        query.regions,
    )


def _query(text: bytes) -> PredictQuery:
    """The query, checked: here and not by FastAPI, which takes longer over it than the model over a row."""
    read = _read_again if len(text) <= _SHORT_QUERY_BYTES else _read_query
    try:
        return read(text)
    except ValidationError as error:
        problems: list[Any] = [{**problem, "loc": ("query", *problem["loc"])} for problem in error.errors()]
        raise RequestValidationError(problems) from error


def _read_query(text: bytes) -> PredictQuery:
    query = QueryParams(text)
    if len(given := query.multi_items()) > len(query):
        name, times = Counter(name for name, _ in given).most_common(1)[0]
        values = ", ".join(repr(value) for value in query.getlist(name)[:3])
        raise ProblemError(422, f"query parameter {name!r} is given {times} times, as {values}; once is accepted")
    return PredictQuery.model_validate(dict(query))


_read_again = lru_cache(maxsize=1024)(_read_query)  # most clients ask the same way each time
