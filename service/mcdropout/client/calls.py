"""The calls of a client, as steps: what each sends, and what comes of the answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import quote, urlencode

from mcdropout.client.description import (
    InputDescription,
    ModelDescription,
    ModelSummary,
    read_description,
    read_models,
)
from mcdropout.client.errors import ClientError, UnavailableError, UnreachableError, UnusableInputsError
from mcdropout.client.exchange import Limit, Pause, Service, Steps, answered, document_of
from mcdropout.client.inputs import body_of, need_description
from mcdropout.client.response import PredictResponse, read_response

_LOOK_EVERY_SECONDS = 0.25
_LABELS_WITHIN_SECONDS = 5.0  # an answer does not wait longer for the names of its classes


@dataclass(frozen=True)
class PredictQuery:
    """What is asked for of a prediction; None leaves it to the service.

    Attributes:
        mc: stochastic passes; 0 for the deterministic baseline, "auto" for as many as each row needs.
        seed: what the masks are drawn from.
        tolerance: with "auto", the standard error that is enough.
        deadline_ms: answer by then, in milliseconds from arrival.
        samples: whether every pass's output is wanted too.
        fields: the names of the statistics that are wanted.
        reduce: of a dense answer one number instead of each map, such as "p95".
        regions: with `reduce`, for how many regions, "4x4" or (4, 4).
        p: what each site is to drop with in place of its own.
    """

    mc: int | Literal["auto"] | None = None
    seed: int | None = None
    tolerance: float | None = None
    deadline_ms: float | None = None
    samples: bool = False
    fields: str | Sequence[str] | None = None
    reduce: str | None = None
    regions: str | Sequence[int] | None = None
    p: float | None = None

    def encoded(self) -> str:
        """As the query of an address."""
        given = {one.name: getattr(self, one.name) for one in fields(self)}
        if not self.samples:
            del given["samples"]
        written = {name: _written(name, value) for name, value in given.items() if value is not None}
        return f"?{urlencode(written)}" if written else ""


def _written(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, int, float)):
        return str(value)
    if name in ("fields", "regions"):
        return ("," if name == "fields" else "x").join(map(str, value))
    return str(value)


def predict(
    service: Service, described: dict[str, ModelDescription], inputs: Any, model: str | None, query: PredictQuery
) -> Steps[PredictResponse]:
    """Predict inputs, once it is known how the model takes them where that is not said by themselves.

    Args:
        service: which service.
        described: the models' descriptions that were seen, by their names; what is seen now is added.
        inputs: as `Client.predict` takes them.
        model: which; None for the default one.
        query: what is asked for.

    Raises:
        UnusableInputsError: the inputs cannot be sent.
        ClientError: as `answered` does.
    """
    limit = Limit(service.timeout)
    takes: Sequence[InputDescription] | None = None
    formats: Sequence[str] = ()
    texts = False
    if need_description(inputs):
        found = yield from _describe_ready(service, model, limit)
        takes, formats, texts = found.inputs, found.formats or (), found.takes_texts
    path = "/predict" if model is None else f"{_path_of(model)}/predict"
    body = body_of(inputs, takes, formats, texts=texts)
    sent = "POST", path + query.encoded(), body.content, body.content_type
    received = yield from answered(service, *sent, limit=limit)
    document = document_of(received)
    known = yield from _known(service, described, document, limit)
    task, labels = (None, None) if known is None else (known.task, known.labels)
    return read_response(document, received.content, task, labels)


def models(service: Service) -> Steps[tuple[ModelSummary, ...]]:
    """All models of a service."""
    received = yield from answered(service, "GET", "/models", limit=Limit(service.timeout))
    return read_models(document_of(received))


def model(service: Service, name: str | None) -> Steps[ModelDescription]:
    """All about a model, the default one where none is named."""
    found = yield from _describe(service, name, Limit(service.timeout))
    return found


def ready(service: Service) -> Steps[bool]:
    """Whether the service may answer: all its models were loaded or refused, and the default one serves."""
    try:
        yield from answered(service, "GET", "/health/ready", limit=Limit(service.timeout), retries=0)
    except UnavailableError:
        return False
    return True


def wait_until_ready(service: Service, seconds: float) -> Steps[None]:
    """Wait until the service may answer.

    Raises:
        UnreachableError, UnavailableError: it was not to be reached, or not ready, to the end.
        ClientError: it answers with another error.
    """
    limit = Limit(seconds)
    while True:
        try:
            yield from answered(service, "GET", "/health/ready", limit=limit, retries=0)
            return
        except (UnreachableError, UnavailableError):
            if not limit.holds(_LOOK_EVERY_SECONDS):
                raise
        yield Pause(_LOOK_EVERY_SECONDS)


def _path_of(model: str) -> str:
    return f"/models/{quote(model, safe='')}"


def _describe(service: Service, name: str | None, limit: Limit, retries: int | None = None) -> Steps[ModelDescription]:
    if name is None:
        received = yield from answered(service, "GET", "/models", limit=limit, retries=retries)
        name = next((one.name for one in read_models(document_of(received)) if one.default), None)
        if name is None:
            raise UnusableInputsError(f"{service.url} has no default model; a model's name is accepted")
    received = yield from answered(service, "GET", _path_of(name), limit=limit, retries=retries)
    return read_description(document_of(received))


def _describe_ready(service: Service, name: str | None, limit: Limit) -> Steps[ModelDescription]:
    """A model that is ready, as it is now: a reload may have changed what it takes."""
    found = yield from _describe(service, name, limit)
    if found.inputs is None:
        why = f": {found.error}" if found.error else ""
        raise UnavailableError(
            HTTPStatus.SERVICE_UNAVAILABLE, "Service Unavailable", f"the model {found.name!r} is {found.state}{why}"
        )
    return found


def _known(
    service: Service, described: dict[str, ModelDescription], document: Mapping[str, Any], limit: Limit
) -> Steps[ModelDescription | None]:
    """The description of the model that answered, asked for once a version; None where it cannot be had."""
    name, version = document.get("model"), document.get("version")
    if not isinstance(name, str):
        return None
    known = described.get(name)
    if known is not None and known.version == version:
        return known
    left = limit.left
    within = _LABELS_WITHIN_SECONDS if left is None else min(left, _LABELS_WITHIN_SECONDS)
    try:
        found = yield from _describe(service, name, Limit(within), retries=0)
    except ClientError:
        return None
    described[name] = found
    return found if found.version == version else None
