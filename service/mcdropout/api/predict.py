"""Predictions over HTTP: body to rows, rows to the scheduler, statistics to JSON."""

import asyncio
import time
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import QueryParams, State
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from mcdropout.api.errors import Problem, ProblemError
from mcdropout.api.schemas import PredictQuery, PredictRequest, PredictResponse
from mcdropout.catalogue.loading import Model
from mcdropout.catalogue.registry import Registry
from mcdropout.catalogue.rows import RowsError, read_many_rows
from mcdropout.engine import ClassificationPrediction
from mcdropout.engine.arrays import Array
from mcdropout.engine.masks import drawn_seed
from mcdropout.metrics import Metrics
from mcdropout.scheduling.answer import Answer
from mcdropout.scheduling.backlog import OverloadedError
from mcdropout.scheduling.plan import DEFAULT_TOLERANCE, Plan
from mcdropout.scheduling.scheduler import Scheduler
from mcdropout.settings import Settings

router = APIRouter(tags=["predictions"])

# Up to this size, in bytes, a body is parsed and an answer is written on the event loop; larger ones in a thread.
_INLINE_BYTES = 64 * 1024
_SHORT_QUERY_BYTES = 200
# Most requests are answered before it is worth looking whether their client is still there.
_UNWATCHED_SECONDS = 0.05
# From this share of the queue on, shed="reduce" takes passes away.
_SHED_FROM = 0.5
# A thread that pauses for less finds the interpreter's lock free again before another has woken up.
_PAUSE_SECONDS = 0.0001
# What is written of an answer between two pauses, in numbers.
_PART_NUMBERS = 2048
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/problem+json": {"schema": Problem.model_json_schema()}}}
    for status, text in {
        404: "There is no such model.",
        413: "The body is larger than the server's limit.",
        415: "The body is not JSON.",
        422: "The query or the inputs cannot be used; the detail says what would be accepted.",
        500: "The network answered NaN or infinity.",
        504: "The deadline came before each row had the fewest passes.",
        503: "The model is not ready, or the server is overloaded.",
    }.items()
}


def _documentation(*path: str) -> dict[str, Any]:
    """What `/docs` says of a prediction, whose query and body are read here."""
    named = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in path]
    fields = PredictQuery.model_json_schema()["properties"].items()
    queried = [
        {"name": name, "in": "query", "required": False, "description": schema.pop("description"), "schema": schema}
        for name, schema in fields
    ]
    body = {"required": True, "content": {"application/json": {"schema": PredictRequest.model_json_schema()}}}
    return {
        "responses": {200: {"model": PredictResponse}, **_PROBLEMS},
        "openapi_extra": {"parameters": [*named, *queried], "requestBody": body},
    }


@router.post("/predict", summary="Predict with the default model", **_documentation())
async def predict_default(request: Request) -> Response:
    """The default model's prediction for each row, and how far to trust it."""
    return await predict(request, "")


@router.post("/models/{name}/predict", summary="Predict with a model", **_documentation("name"))
async def predict_named(request: Request) -> Response:
    """A model's prediction for each row, and how far to trust it."""
    return await predict(request, request.path_params["name"])


def _query(text: bytes) -> PredictQuery:
    """The query, checked: here and not by FastAPI, which takes longer over it than the model over a row."""
    read = _read_again if len(text) <= _SHORT_QUERY_BYTES else _read_query
    try:
        return read(text)
    except ValidationError as error:
        problems = [{**problem, "loc": ("query", *problem["loc"])} for problem in error.errors()]
        raise RequestValidationError(problems) from error


def _read_query(text: bytes) -> PredictQuery:
    return PredictQuery.model_validate(dict(QueryParams(text)))


_read_again = lru_cache(maxsize=1024)(_read_query)  # most clients ask the same way each time


async def predict(request: Request, name: str) -> Response:
    """A model's prediction, the default one's where no name is given, for each row of a request.

    Errors are the app's to explain.
    """
    query = _query(request.scope.get("query_string", b""))
    state = request.app.state
    settings: Settings = state.settings
    scheduler: Scheduler = state.scheduler
    metrics: Metrics = state.metrics
    arrived = time.perf_counter()
    model = model_of(state, name)
    request.state.model = model.name
    plan = _plan(model, query, arrived)
    request.state.mode = _mode(plan)
    try:
        if (refusal := scheduler.refusal()) is not None:  # before anything is done for what cannot be taken
            raise copy(refusal)  # others get the same, each with its own traceback
        body = await _body(request, settings.max_body_bytes)
        inputs = await _where_it_belongs(len(body), _parse, body, model, settings.max_rows)
        _check_samples(plan, len(inputs[0]), settings.max_samples)
        if settings.shed == "reduce":
            plan = _reduced(plan, scheduler.load, settings.shed_floor)
        seed = drawn_seed() if query.seed is None else query.seed
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        scheduler.submit(model, inputs, seed=seed, plan=plan, future=future)
    except OverloadedError as error:
        metrics.of(metrics.refused, model.name, error.reason).inc()
        state.switching.refused()
        raise
    answer = await _awaited(request, future)
    request.state.rows = len(inputs[0])
    size = answer.prediction.mean.size + (0 if answer.samples is None else answer.samples.size)
    content = await _where_it_belongs(size * 64, _write, model, seed, answer, metrics)
    return Response(content, media_type="application/json")


async def _awaited(request: Request, future: "asyncio.Future[Answer]") -> Answer:
    """The answer, unless the client goes away before: then nobody waits for it any more.

    Raises:
        ProblemError: 499 where the client went away.
    """
    gone: asyncio.Future[None] | None = None
    try:
        await asyncio.wait({future}, timeout=_UNWATCHED_SECONDS)
        if not future.done():
            gone = asyncio.ensure_future(_gone(request))
            waited: set[asyncio.Future[Any]] = {future, gone}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
    finally:  # or it was cancelled itself
        if gone is not None:
            gone.cancel()
        if not future.done():
            future.cancel()
    if future.cancelled():
        raise ProblemError(499, "the client went away before it was answered")
    return future.result()


async def _gone(request: Request) -> None:
    """Return when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def model_of(state: State, name: str) -> Model:
    """The model of that name, the default one where it is empty.

    Raises:
        ProblemError: 404 where there is none, 503 where it is not ready.
    """
    registry: Registry = state.registry
    name = name or registry.default
    entry = registry.entry(name)
    if entry is None:
        raise ProblemError(404, f"there is no model {name!r}; one of {registry.names} is accepted")
    if entry.model is None:
        reason = "is still loading" if entry.error is None else f"does not serve: {entry.error}"
        raise ProblemError(503, f"the model {name!r} {reason}", {"Retry-After": "5"})
    return entry.model


def mode_of(model: Model, query: bytes) -> str:
    """How a request with that query is answered by a model; raises where it cannot be."""
    return _mode(_plan(model, _query(query), 0.0))


def _mode(plan: Plan) -> str:
    return "deterministic" if plan.passes == 0 else "mc" if plan.tolerance is None else "auto"


def _plan(model: Model, query: PredictQuery, arrived: float) -> Plan:
    """How many passes a request gets."""
    allowed = model.bundle.manifest.passes
    deadline = None if query.deadline_ms is None else arrived + query.deadline_ms / 1000.0
    if query.mc == "auto":
        tolerance = DEFAULT_TOLERANCE if query.tolerance is None else query.tolerance
        plan = Plan(allowed.maximum, tolerance=tolerance, deadline=deadline, samples=query.samples)
    else:
        if query.tolerance is not None:
            raise ProblemError(
                422, f"tolerance is {query.tolerance:g} and mc is {query.mc}; a tolerance is accepted with mc=auto"
            )
        passes = allowed.default if query.mc is None else query.mc
        if passes > allowed.maximum:
            raise ProblemError(422, f"mc is {passes}; 0 to {allowed.maximum}, or auto, is accepted by {model.name}")
        plan = Plan(passes, deadline=deadline, samples=query.samples and passes > 0)
    if plan.samples and (plan.tolerance is not None or deadline is not None):
        raise ProblemError(
            422, "samples is true with mc=auto or deadline_ms; it is accepted with a number of passes and no deadline"
        )
    return plan


def _check_samples(plan: Plan, rows: int, most: int) -> None:
    if plan.samples and rows * plan.passes > most:
        raise ProblemError(
            422,
            f"samples of {rows} rows and {plan.passes} passes were asked for; rows times passes of at most {most} is "
            "accepted with samples=true",
        )


def _reduced(plan: Plan, load: float, floor: int) -> Plan:
    """A plan with fewer passes, the fuller the queue is beyond its half; down to `floor`."""
    if load <= _SHED_FROM or plan.passes <= floor:
        return plan
    share = max(0.0, (1.0 - load) / (1.0 - _SHED_FROM))
    return replace(plan, passes=max(floor, round(plan.passes * share)), asked=plan.passes)


async def _body(request: Request, limit: int) -> bytes:
    kind = request.headers.get("content-type", "")
    media = kind.partition(";")[0].strip().lower()
    if media != "application/json" and not (media.startswith("application/") and media.endswith("+json")):
        raise ProblemError(415, f"the content type is {kind or 'not given'!r}; application/json is accepted")
    coding = request.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise ProblemError(415, f"the content encoding is {coding!r}; a body as it is, identity, is accepted")
    too_large = ProblemError(413, f"the body is larger than {limit} bytes; at most that many are accepted")
    if int(request.headers.get("content-length", 0)) > limit:
        raise too_large
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise too_large
            parts.append(part)
    except ClientDisconnect as error:
        raise ProblemError(400, f"the client went away after {size} bytes of its body") from error
    return b"".join(parts)


async def _where_it_belongs(size: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call `function` at once where `size`, in bytes, is small, else in a thread that leaves the event loop free.

    It is told what to call between its parts: a thread that never waits holds the interpreter's lock for milliseconds,
    which everybody else needs for microseconds.
    """
    if size <= _INLINE_BYTES:
        return function(*arguments, _no_pause)
    return await run_in_threadpool(function, *arguments, _pause)


def _no_pause() -> None:
    pass


def _pause() -> None:
    """Let other threads go on."""
    time.sleep(_PAUSE_SECONDS)


def _parse(body: bytes, model: Model, max_rows: int, pause: Callable[[], None]) -> tuple[Array, ...]:
    """The rows of a body, as the network takes them."""
    try:
        return read_many_rows(body, model.bundle.manifest.takes, max_rows, pause)
    except RowsError as error:
        raise ProblemError(422, str(error)) from error


def _write(model: Model, seed: int, answer: Answer, metrics: Metrics, pause: Callable[[], None]) -> bytes:
    """The answer as JSON, in which a NaN becomes null; and what it says of its rows, told to the metrics."""
    plan = answer.plan
    content: dict[str, Any] = {
        "model": model.name,
        "version": model.version,
        "mc": "auto" if plan.tolerance is not None else plan.passes if plan.asked is None else plan.asked,
        "seed": seed,
    }
    end: dict[str, Any] = {"timing": {"queue_seconds": answer.queue_seconds, "compute_seconds": answer.compute_seconds}}
    if plan.tolerance is not None:
        end["tolerance"] = plan.tolerance
    if plan.asked is not None:
        end["reduced_to"] = plan.passes
    parts: list[bytes] = []
    for rows in _parts(answer):
        parts.append(orjson.dumps(_rows(model, answer, rows), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1])
        _observe(metrics, model, answer, rows)
        pause()
    return b'%b,"predictions":[%b],%b' % (orjson.dumps(content)[:-1], b",".join(parts), orjson.dumps(end)[1:])


def _parts(answer: Answer) -> Iterator[slice]:
    """The rows, some at a time."""
    count, size = len(answer.prediction.mean), answer.prediction.mean.size
    size += 0 if answer.samples is None else answer.samples.size
    step = max(1, _PART_NUMBERS * count // max(1, size))
    return (slice(start, start + step) for start in range(0, count, step))


def _rows(model: Model, answer: Answer, which: slice) -> list[dict[str, Any]]:
    """Some rows, for JSON."""
    prediction = answer.prediction
    columns = {name: value for name, value in vars(prediction).items() if name not in ("seed", "label")}
    rows: list[dict[str, Any]] = []
    for index in range(*which.indices(len(prediction.mean))):
        row: dict[str, Any] = {}
        if isinstance(prediction, ClassificationPrediction):
            row["label"] = _label(model, prediction.label[index])
        row |= {name: None if value is None else value[index] for name, value in columns.items()}
        if answer.samples is not None:
            row["samples"] = np.ascontiguousarray(answer.samples[index])
        rows.append(row)
    return rows


def _label(model: Model, label: Any) -> Any:
    labels = model.bundle.manifest.labels
    return label if labels is None else np.asarray(labels, object)[label].tolist() if np.ndim(label) else labels[label]


def _observe(metrics: Metrics, model: Model, answer: Answer, rows: slice) -> None:
    """Count what some rows used, and how sure they are."""
    prediction = answer.prediction
    observe_passes = metrics.of(metrics.passes_used, model.name).observe
    for passes in prediction.passes[rows].tolist():
        observe_passes(passes)
    if not isinstance(prediction, ClassificationPrediction):
        return
    for histogram, values in (
        (metrics.predictive_entropy, prediction.entropy),
        (metrics.mutual_information, prediction.mutual_information),
    ):
        if values is not None:
            observe = metrics.of(histogram, model.name).observe
            some = values[rows]
            for value in (some if some.ndim == 1 else some.reshape(len(some), -1).mean(axis=1)).tolist():
                observe(value)
