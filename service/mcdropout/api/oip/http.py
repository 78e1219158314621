"""The protocol over HTTP."""

import time
from dataclasses import asdict
from typing import Any

import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from mcdropout.api.answering import INLINE_BYTES, answer_of, body_of, compressed, where_it_belongs
from mcdropout.api.encodings import DECODERS
from mcdropout.api.errors import ProblemError
from mcdropout.api.formats import Written
from mcdropout.api.headers import header_of
from mcdropout.api.health import check_live, check_ready
from mcdropout.api.observe import seen_of
from mcdropout.api.oip import metadata
from mcdropout.api.oip.asking import model_of, planned_and_rows
from mcdropout.api.oip.binary import HEADER, read_request, split
from mcdropout.api.oip.json_text import RequestContent
from mcdropout.api.oip.outputs import outputs_of, parameters_of
from mcdropout.api.oip.tensor import InferRequest
from mcdropout.api.services import Services
from mcdropout.catalogue.rows import check_bulk
from mcdropout.engine.ragged import Rows
from mcdropout.predictions import Answered, Pause, Planned

_NUMBER_BYTES = 64  # of an answer: a number, and what comes with it
_JSON, _BINARY = "application/json", "application/octet-stream"
_MODEL, _VERSION = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"


class InferError(BaseModel):
    """An error, as the protocol has it."""

    error: str = Field(description="What was received, and what would be accepted.")


class ServerLive(BaseModel):
    """Whether the server lives."""

    live: bool


class ServerReady(BaseModel):
    """Whether its models may serve."""

    ready: bool


class ModelReady(BaseModel):
    """Whether a model may serve."""

    name: str
    ready: bool


class ServerMetadata(BaseModel):
    """The server."""

    name: str
    version: str
    extensions: list[str] = Field(description="Of the protocol.")


class Tensor(BaseModel):
    """A tensor that a model takes, or answers with."""

    name: str
    datatype: str
    shape: list[int] = Field(description="-1 for the rows, and for sizes that differ from row to row.")


class ModelMetadata(BaseModel):
    """A model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[Tensor]
    outputs: list[Tensor] = Field(description="Its statistics; those that one pass or none cannot tell are left out.")


class ResponseOutput(Tensor):
    """A statistic, for each row."""

    parameters: dict[str, Any] = Field({}, description="binary_data_size: how many bytes it has behind the JSON.")
    data: list[Any] | None = Field(None, description="Its values, the last dimension fastest; classes by their labels.")


class InferResponse(BaseModel):
    """A prediction as tensors."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, Any] = Field(description="mc, seed, and where they apply tolerance and reduced_to.")
    outputs: list[ResponseOutput]


def routes(services: Services) -> APIRouter:
    """The routes of the protocol."""
    router = APIRouter(tags=["Open Inference Protocol"])

    @router.get("/v2", summary="Describe the server")
    async def describe_server() -> ServerMetadata:
        return ServerMetadata(name=metadata.SERVER, version=metadata.server_version(), extensions=metadata.EXTENSIONS)

    @router.get("/v2/health/live", summary="Whether the process lives", responses=_problems({503: "Stuck."}))
    async def server_live() -> ServerLive:
        check_live(services)
        return ServerLive(live=True)

    @router.get("/v2/health/ready", summary="Whether the models may serve", responses=_problems({503: "Not ready."}))
    async def server_ready() -> ServerReady:
        check_ready(services)
        return ServerReady(ready=True)

    unready = _problems({404: "There is no such model, or not of this version.", 503: "It is not ready."})

    @router.get(_MODEL, summary="Describe a model's tensors", responses=unready)
    @router.get(_VERSION, summary="Describe the tensors of a model's version", responses=unready)
    async def describe_model(name: str, version: str = "") -> ModelMetadata:
        model = model_of(services, name, version)
        return ModelMetadata(
            name=model.name,
            versions=[model.version],
            platform=metadata.PLATFORM,
            inputs=[Tensor(**asdict(one)) for one in metadata.inputs_of(model)],
            outputs=[Tensor(**asdict(one)) for one in metadata.outputs_of(model)],
        )

    @router.get(f"{_MODEL}/ready", summary="Whether a model may serve", responses=unready)
    @router.get(f"{_VERSION}/ready", summary="Whether a model's version may serve", responses=unready)
    async def model_ready(name: str, version: str = "") -> ModelReady:
        return ModelReady(name=model_of(services, name, version).name, ready=True)

    @router.post(f"{_MODEL}/infer", summary="Predict with a model", **_documentation("name"))
    @router.post(f"{_VERSION}/infer", summary="Predict with a model's version", **_documentation("name", "version"))
    async def infer_route(request: Request) -> Response:
        """A prediction for each row, and how far to trust it, as named tensors."""
        given = request.path_params
        return await infer(services, request, given["name"], given.get("version", ""))

    return router


async def infer(services: Services, request: Request, name: str, version: str) -> Response:
    """A model's prediction for each row of a request. Errors are for `api/errors.py` to explain."""
    arrived = time.perf_counter()
    client = services.guard.check(request.scope).client
    model, seen = model_of(services, name, version), seen_of(request.scope)
    if seen is not None:
        seen.model = model.name
    services.predictions.let_in(model.name, client)
    _check_content_type(header_of(request.scope, b"content-type") or "")
    length = header_of(request.scope, HEADER.lower().encode())

    def read(body: bytes, pause: Pause) -> tuple[InferRequest, Planned, tuple[Rows, ...]]:
        text, tensors = split(body, length)
        check_bulk(text, model.takes, services.settings.max_rows)
        asked = read_request(text, tensors, name, version or model.version)
        return asked, *planned_and_rows(services, model, client, arrived, asked, pause)

    with services.bodies.share() as share:
        body = await body_of(services, request, share, model.name)
        size = len(body) if model.bundle.hook is None else max(len(body), INLINE_BYTES + 1)
        asked, planned, inputs = await where_it_belongs(services.at_once, size, read, body)
        del body
    if seen is not None:
        seen.mode = planned.mode
    answered = await answer_of(services, planned, inputs, request.receive, seen)

    def write(pause: Pause) -> Written:
        services.predictions.observe(answered, pause)
        written = written_answer(answered, asked, pause)
        return compressed(written, request.scope, pause) if written.media_type == _JSON else written

    written = await where_it_belongs(services.at_once, answered.numbers * _NUMBER_BYTES, write)
    return Response(written.content, headers=written.headers, media_type=written.media_type)


def written_answer(answered: Answered, asked: InferRequest, pause: Pause) -> Written:
    """An answer as JSON, and behind it the tensors that were asked for in binary."""
    binary = {one.name: one.binary for one in asked.outputs}
    listed: list[bytes] = []
    behind: list[bytes] = []
    for output in outputs_of(answered, asked.outputs):
        head: dict[str, Any] = {
            "name": output.name,
            "datatype": output.datatype,
            "shape": list(output.values.shape),
        }
        if asked.binary if (chosen := binary.get(output.name)) is None else chosen:
            behind.append(output.as_binary(pause))
            listed.append(orjson.dumps({**head, "parameters": {"binary_data_size": len(behind[-1])}}))
        else:
            listed.append(b'%b,"data":%b}' % (orjson.dumps(head)[:-1], output.as_json(pause)))
    content: dict[str, Any] = {"model_name": answered.model.name, "model_version": answered.model.version}
    if asked.id:
        content["id"] = asked.id
    content["parameters"] = parameters_of(answered)
    text = b'%b,"outputs":[%b]}' % (orjson.dumps(content)[:-1], b",".join(listed))
    if not behind:
        return Written(text, media_type=_JSON)
    return Written(b"".join([text, *behind]), {HEADER: str(len(text))}, _BINARY)


def _check_content_type(content_type: str) -> None:
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in ("", _JSON, _BINARY) and not media_type.endswith("+json"):
        accepted = f"{_JSON}, or {_BINARY} with {HEADER}, is accepted"
        raise ProblemError(415, f"the content type is {content_type!r}; {accepted}")


def _problems(texts: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": InferError, "description": text} for status, text in texts.items()}


def _documentation(*path: str) -> dict[str, Any]:
    """What `/docs` says of a prediction, whose body is read here."""
    schema = RequestContent.model_json_schema(ref_template="#/components/schemas/{model}")
    nested = schema.pop("$defs")
    for name, one in nested.items():  # in place: the document's own schemas are those of its routes
        schema["properties"]["inputs" if name == "RequestInput" else "outputs"]["items"] = one
    header = {
        "name": HEADER,
        "in": "header",
        "required": False,
        "description": "How many bytes of the body are JSON, where tensors are behind it.",
        "schema": {"type": "string"},
    }
    coding = {
        "name": "Content-Encoding",
        "in": "header",
        "required": False,
        "description": "What the body is compressed by.",
        "schema": {"type": "string", "enum": [*DECODERS, "identity"]},
    }
    named = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in path]
    binary = {"schema": {"type": "string", "format": "binary", "description": "JSON, and tensors behind it."}}
    return {
        "response_model": InferResponse,
        "responses": {
            200: {"description": "The prediction.", "content": {_BINARY: binary}},
            **_problems(
                {
                    400: "The body is damaged, or the client went away in it.",
                    404: "There is no such model, or not of this version.",
                    413: "The body is larger than the server's limit, as it is or decompressed.",
                    415: "The body is no JSON, with or without tensors behind it.",
                    422: "The parameters or the tensors cannot be used; the error says what would be accepted.",
                    500: "The network answered NaN, infinity, or what is no probability or no variance.",
                    503: "The model is not ready, or the server is overloaded.",
                    504: "The deadline came before each row had the fewest passes.",
                }
            ),
        },
        "openapi_extra": {
            "parameters": [*named, header, coding],
            "requestBody": {"required": True, "content": {_JSON: {"schema": schema}, _BINARY: binary}},
        },
    }
