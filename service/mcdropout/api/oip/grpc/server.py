"""The gRPC server: a port of its own, beside HTTP's, in one event loop with it."""

import asyncio
from contextlib import suppress
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2

from mcdropout.access import Certificates
from mcdropout.access.certificates import Loaded
from mcdropout.api.oip.grpc.calls import handlers
from mcdropout.api.oip.grpc.interface import SERVICE
from mcdropout.api.services import Services
from mcdropout.settings import Settings

_log = structlog.get_logger("grpc")

_LOOK_SECONDS = 0.2  # between two looks at whether the models may serve
_NOTICE_SECONDS = 0.1  # for those who watch, to hear that it ends
_MOST_STREAMS = 256  # calls at once on one connection; a client keeps further ones back
_IDLE_SECONDS = 60.0  # of a connection without calls, which its client opens anew when it has one
_IDENTITY_ALONE = 1  # of the algorithms of compression: what a message grows to would not be bounded


class GrpcServer:
    """Answers the Open Inference Protocol over gRPC, and the health checks of gRPC (`grpc.health.v1`)."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._health = health.aio.HealthServicer()
        self._ending = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._server: Any = None

    async def start(self) -> None:
        """Listen, and answer.

        Raises:
            OSError: it cannot listen there.
        """
        settings = self._services.settings
        server = grpc.aio.server(options=_options(settings), maximum_concurrent_rpcs=settings.max_connections)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers(self._services)),))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(health.SERVICE_NAME, self._of_health()),))
        address = address_of(settings)
        credentials = _credentials(self._services.certificates)
        try:
            if credentials is None:
                server.add_insecure_port(address)
            else:
                server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise OSError(f"gRPC cannot listen at {address}: {error}") from error
        await server.start()
        self._server = server
        await self._look()
        self._looking = asyncio.create_task(self._look_again_and_again())
        _log.info("listening", address=address, tls=credentials is not None)

    async def stop(self) -> None:
        """Take no more calls, and end those in flight, within the time that the settings leave them."""
        if self._server is None:
            return
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(_NOTICE_SECONDS)
        self._ending.set()
        await self._server.stop(self._services.settings.grace_seconds)
        self._server = None

    def _of_health(self) -> dict[str, Any]:
        messages = {
            "request_deserializer": health_pb2.HealthCheckRequest.FromString,
            "response_serializer": health_pb2.HealthCheckResponse.SerializeToString,
        }
        return {
            "Check": grpc.unary_unary_rpc_method_handler(self._health.Check, **messages),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch, **messages),
        }

    async def _watch(self, request: Any, context: Any) -> None:
        """Say how it is to who watches, until the server ends: it would wait for that call too."""
        tasks = [asyncio.ensure_future(one) for one in (self._health.Watch(request, context), self._ending.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def _look(self) -> None:
        """Say whether the models may serve now, to those who watch that."""
        statuses = health_pb2.HealthCheckResponse
        may_serve = self._services.registry.ready and not self._services.watchdog.stuck
        for name in ("", SERVICE):
            await self._health.set(name, statuses.SERVING if may_serve else statuses.NOT_SERVING)

    async def _look_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self._look()


def address_of(settings: Settings) -> str:
    """Where it listens, as gRPC has it."""
    host = settings.host.strip("[]") or "::"
    return f"[{host}]:{settings.grpc_port}" if ":" in host else f"{host}:{settings.grpc_port}"


def _options(settings: Settings) -> list[tuple[str, int]]:
    head, write, idle = (round(1000 * x) for x in (settings.head_seconds, settings.write_seconds, _IDLE_SECONDS))
    return [
        # Several workers share the port; a server that is alone is not to share it with another one.
        ("grpc.so_reuseport", int(settings.workers > 1)),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.server_handshake_timeout_ms", head),  # of TLS and of HTTP/2, together
        ("grpc.max_connection_idle_ms", idle),
        # A client that does not answer a ping reads nothing, or is gone.
        ("grpc.keepalive_time_ms", write),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.ping_timeout_ms", head),
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", _MOST_STREAMS),
        ("grpc.compression_enabled_algorithms_bitset", _IDENTITY_ALONE),
    ]


def _credentials(certificates: Certificates | None) -> Any:
    """What TLS takes: what HTTPS has, and anew where that is; None where there is none."""
    if certificates is None:
        return None
    known = certificates.loaded

    def changed() -> Any:
        """Asked at each connection; None where it goes on with what it has."""
        nonlocal known
        if certificates.loaded is known:
            return None
        known = certificates.loaded
        return _configuration(known)

    return grpc.dynamic_ssl_server_credentials(_configuration(known), changed, known.authorities is not None)


def _configuration(loaded: Loaded) -> Any:
    return grpc.ssl_server_certificate_configuration([(loaded.key, loaded.certificate)], loaded.authorities)
