"""Calls: around each of them what is around every request, who it is from, a log line and metrics; and its answer."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any
from urllib.parse import unquote

import grpc

from mcdropout.api.answering import INLINE_BYTES, answer_of, where_it_belongs
from mcdropout.api.errors import ProblemError, explanation
from mcdropout.api.guard import Caller
from mcdropout.api.observe import QUIET_PATHS, Seen, record, request_id_of
from mcdropout.api.oip import metadata
from mcdropout.api.oip.asking import model_of, planned_and_rows
from mcdropout.api.oip.datatypes import BYTES
from mcdropout.api.oip.grpc.interface import SERVICE, message_class
from mcdropout.api.oip.grpc.messages import parsed, read_infer, written_infer
from mcdropout.api.oip.grpc.statuses import status_of
from mcdropout.api.oip.tensor import InferRequest
from mcdropout.api.services import Services
from mcdropout.api.traces import Traced
from mcdropout.engine.ragged import Rows
from mcdropout.log import OfRequest
from mcdropout.predictions import NotReadyError, Pause, Planned
from mcdropout.scheduling.backlog import OverloadedError

_NUMBER_BYTES = 16  # of an answer: a number, and what comes with it
_CLIENT_WENT_AWAY, _ERROR = 499, 500

Message = Callable[[], Awaitable[bytes]]
"""What waits for the message of a call."""
Call = Callable[[Message, Caller, Seen], Awaitable[bytes]]
"""What answers a call: to its message, by whom, and with what is seen of it."""


def handlers(services: Services) -> dict[str, Any]:
    """What answers each method of the service, by its name."""
    calls = _Calls(services)
    asked = {
        "ServerLive": calls.server_live,
        "ServerReady": calls.server_ready,
        "ServerMetadata": calls.server_metadata,
        "ModelReady": calls.model_ready,
        "ModelMetadata": calls.model_metadata,
    }
    return {name: _handler(services, name, "GET", _of_message(name, call)) for name, call in asked.items()} | {
        "ModelInfer": _handler(services, "ModelInfer", "POST", calls.model_infer)
    }


def _handler(services: Services, name: str, method: str, call: Call) -> Any:
    """A handler that lets a client in before its message is read, which to gRPC is one of a stream of messages."""
    path = f"/{SERVICE}/{name}"

    async def handle(messages: AsyncIterator[bytes], context: Any) -> bytes:
        started = time.perf_counter()
        scope = _scope_of(services, context, method, path)
        seen = Seen(request_id_of(scope))
        status, code = 500, grpc.StatusCode.INTERNAL
        with OfRequest(seen.request_id), _span(services, scope, seen) as span:
            try:
                caller = services.guard.check(scope)
                seen.key = caller.key
                answer = await call(partial(_first, messages, services.settings.body_seconds), caller, seen)
                status, code = 200, grpc.StatusCode.OK
                context.set_trailing_metadata((("x-request-id", seen.request_id),))
                return answer
            except asyncio.CancelledError:
                status, code = _CLIENT_WENT_AWAY, grpc.StatusCode.CANCELLED
                raise
            except Exception as error:
                found = explanation(error)
                ended = status_of(found, seen.request_id)
                status, code = found.status, ended.code
                await context.abort(code, ended.details, ended.metadata)
                raise  # to which it does not come
            finally:
                span.ends("rpc.grpc.status_code", code.value[0], has_failed=status >= _ERROR)
                record(services.metrics, scope, seen, status, time.perf_counter() - started)

    return grpc.stream_unary_rpc_method_handler(handle)


def _scope_of(services: Services, context: Any, method: str, path: str) -> dict[str, Any]:
    """A call as the guard, the log and the metrics know requests."""
    headers = [
        (name.encode(), value if isinstance(value, bytes) else value.encode("latin-1"))
        for name, value in context.invocation_metadata() or ()
    ]
    settings = services.settings
    return {
        "type": "http",
        "method": method,
        "path": path,
        "headers": headers,
        "client": _address_of(context.peer()),
        "server": (settings.host, settings.grpc_port),
    }


def _address_of(peer: str) -> tuple[str, int] | None:
    """The address and the port of a client, as gRPC has them: `ipv4:1.2.3.4:5`, `ipv6:[::1]:5`."""
    family, _, address = unquote(peer).partition(":")
    host, _, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if family in ("ipv4", "ipv6") and port.isdigit() else None


def _span(services: Services, scope: dict[str, Any], seen: Seen) -> AbstractContextManager[Traced]:
    """The span of a call, where it is traced."""
    path: str = scope["path"]
    if services.traces is None or path.startswith(QUIET_PATHS):
        return nullcontext(Traced())
    service, _, name = path[1:].partition("/")
    values = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
    return services.traces.span(scope, seen, path[1:], values)


async def _first(messages: AsyncIterator[bytes], seconds: float) -> bytes:
    """The message of a call, which is to come within a time."""
    try:
        async with asyncio.timeout(seconds):
            async for message in messages:
                return message
    except TimeoutError as error:
        raise ProblemError(408, f"the message was not there within {seconds:g} s") from error
    raise ProblemError(400, "the call has no message; one is accepted")


def _of_message(name: str, call: Callable[[Any], Any]) -> Call:
    """A call that is answered by its message alone."""
    kind = message_class(f"{name}Request")

    async def answer(message: Message, _caller: Caller, _seen: Seen) -> bytes:
        request = parsed(kind, await message())
        content: bytes = call(request).SerializeToString()
        return content

    return answer


class _Calls:
    """The methods of the service."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def server_live(self, _request: Any) -> Any:
        return message_class("ServerLiveResponse")(live=not self._services.watchdog.stuck)

    def server_ready(self, _request: Any) -> Any:
        return message_class("ServerReadyResponse")(ready=self._services.registry.ready)

    def server_metadata(self, _request: Any) -> Any:
        return message_class("ServerMetadataResponse")(
            name=metadata.SERVER, version=metadata.server_version(), extensions=metadata.EXTENSIONS
        )

    def model_ready(self, request: Any) -> Any:
        try:
            ready = model_of(self._services, request.name, request.version) is not None
        except NotReadyError:
            ready = False
        return message_class("ModelReadyResponse")(ready=ready)

    def model_metadata(self, request: Any) -> Any:
        model = model_of(self._services, request.name, request.version)
        return message_class("ModelMetadataResponse")(
            name=model.name,
            versions=[model.version],
            platform=metadata.PLATFORM,
            inputs=[asdict(one) for one in metadata.inputs_of(model)],
            outputs=[asdict(one) for one in metadata.outputs_of(model)],
        )

    async def model_infer(self, message: Message, caller: Caller, seen: Seen) -> bytes:
        arrived = time.perf_counter()
        services = self._services
        services.predictions.let_in("unknown", caller.client)  # its model is known once its message is read

        def read(content: bytes, pause: Pause) -> tuple[InferRequest, Planned, tuple[Rows, ...]]:
            name, version, asked = read_infer(content)
            model = model_of(services, name, version)
            seen.model = model.name
            planned, inputs = planned_and_rows(services, model, caller.client, arrived, asked, pause)
            seen.mode = planned.mode
            return asked, planned, inputs

        with services.bodies.share() as share:
            content = await message()
            try:
                share.take(len(content))
            except OverloadedError as error:
                services.predictions.refused("unknown", error)
                raise
            # Texts are for a hook, which may take long.
            size = max(len(content), INLINE_BYTES + 1) if BYTES.encode() in content else len(content)
            asked, planned, inputs = await where_it_belongs(services.at_once, size, read, content)
            del content
        answered = await answer_of(services, planned, inputs, None, seen)

        def write(pause: Pause) -> bytes:
            services.predictions.observe(answered, pause)
            return written_infer(answered, asked, pause)

        answer: bytes = await where_it_belongs(services.at_once, answered.numbers * _NUMBER_BYTES, write)
        return answer
