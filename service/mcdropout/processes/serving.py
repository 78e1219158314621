"""Serving: the app under uvicorn, in whatever process; and clients that are let go before it ends."""

import asyncio
import gc
import signal
import socket
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Protocol

import structlog
import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcdropout import log
from mcdropout.access import KeysError, TlsError
from mcdropout.api import Services
from mcdropout.api.admission import Admission
from mcdropout.api.connection import Limits, protocol
from mcdropout.api.hosts import Hosts
from mcdropout.api.interpreter_lock import use_usual_interval
from mcdropout.catalogue.manifest import BundleError
from mcdropout.engine import InvalidInputError
from mcdropout.engine.runtimes.sessions import SessionOptions
from mcdropout.engine.threads import use_threads
from mcdropout.machine import descriptors
from mcdropout.processes.listening import stop_signals
from mcdropout.settings import Settings

_log = structlog.get_logger("server")

LOADING_POLL_SECONDS = 0.05
"""Between two looks at whether the models have been seen to."""

# For browsers: what is sent is what it says that it is, is shown in no other page, and says nobody where it was.
_HEADERS = [("x-content-type-options", "nosniff"), ("x-frame-options", "DENY"), ("referrer-policy", "no-referrer")]
_OWN_DESCRIPTORS = 256  # files that are no connections: models, logs, pipes
_LINGER_SECONDS, _LONGEST_LINGER_SECONDS = 0.5, 2.0  # the latter where connections are left
# What dozens of requests hold is no garbage; by Python's own number it is looked through all the time.
_COLLECTED_AFTER = 20_000


def services_of(settings: Settings, threads: int | None) -> Services | None:
    """What serves, with `threads` to compute on; None, and why in the log, where there is nothing to serve."""
    try:
        SessionOptions(settings.provider).check()
        _check_device(settings.device)
        if threads is not None:
            use_threads(threads)
        use_usual_interval()
        gc.set_threshold(_COLLECTED_AFTER)
        services = Services.of(settings)
    except (BundleError, InvalidInputError, KeysError, TlsError) as error:
        _log.error("nothing to serve", error=str(error))
        return None
    registry = services.registry
    if settings.default is None and len(registry.names) > 1:
        why = f"it is the first of {len(registry.names)} by name; --default names another"
        _log.info("default model", model=registry.default, because=why)
    if (writing := log.lines()) is not None:
        writing.tell_losses(services.metrics.log_lines_lost.inc)
    return services


def _check_device(device: str) -> None:
    if device != "cpu" and find_spec("torch") is None:
        raise InvalidInputError(
            f"device is {device!r}, and PyTorch, which runs models there, is not installed; cpu is accepted, or what "
            "pip install 'mcdropout[gpu]' brings"
        )


def uvicorn_config(settings: Settings, app: ASGIApp, **others: Any) -> uvicorn.Config:
    given: dict[str, Any] = {"host": settings.host, "port": settings.port} | others
    return uvicorn.Config(
        app,
        loop="uvloop",
        log_config=None,
        access_log=False,
        ws="none",
        timeout_graceful_shutdown=round(settings.grace_seconds),
        headers=_HEADERS,
        **given,
    )


def connections(
    services: Services, leaving: "Leaving", ended: Callable[[], None] | None = None
) -> type[asyncio.Protocol]:
    """The class of connections: while clients are being let go, the app answers, which says so to them."""
    settings = services.settings
    hosts = Hosts.of(settings)
    admission = Admission(services.predictions, services.metrics, hosts, services.guard, stopping=lambda: leaving.any)
    free = descriptors(settings.max_connections + _OWN_DESCRIPTORS) - _OWN_DESCRIPTORS
    if free < settings.max_connections:
        _log.warning("fewer connections than asked for", asked=settings.max_connections, descriptors=free)
    limits = Limits(
        head_seconds=settings.head_seconds,
        body_seconds=settings.body_seconds,
        write_seconds=settings.write_seconds,
        unread_bytes=settings.max_unread_bytes,
        connections=max(1, min(settings.max_connections, free)),
    )
    certificates = services.certificates
    context = None if certificates is None else lambda: certificates.loaded.context
    return protocol(admission, ended, limits, context)


class RpcServer(Protocol):
    """A server beside HTTP's, in its event loop."""

    async def start(self) -> None:
        """Listen; OSError where that cannot be done."""

    async def stop(self) -> None:
        """Take nothing more, and end what is in flight."""


def rpc_server_of(services: Services) -> RpcServer | None:
    """The server of gRPC, not started; None where the settings have no port for it."""
    if services.settings.grpc_port is None:
        return None
    from mcdropout.api.oip.grpc import GrpcServer  # of an extra

    return GrpcServer(services)


def run_server(server: uvicorn.Server, sockets: list[socket.socket] | None = None) -> int:
    """Run a server, on these sockets or on one of its own; the exit status."""
    asked: list[int] = []

    def stop(number: int, _frame: object) -> None:
        asked.append(number)
        server.should_exit = True

    # Until uvicorn handles them itself. It stops gracefully at a signal, then raises it again; to have been asked to
    # stop is no failure.
    for number in stop_signals():
        signal.signal(number, stop)
    server.run(sockets)
    return 0 if server.started or asked else 1


class Leaving:
    """How many connections are to close with their next answer, which says so to the client."""

    def __init__(self) -> None:
        self.count = 0
        self.all = False

    @property
    def any(self) -> bool:
        """Whether there are such connections."""
        return self.all or self.count > 0

    def around(self, app: ASGIApp) -> ASGIApp:
        """The app, whose answers close these connections."""

        async def closing(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_closing(message: Message) -> None:
                if message["type"] == "http.response.start" and self.any:
                    self.count = max(0, self.count - 1)
                    MutableHeaders(scope=message)["connection"] = "close"
                await send(message)

            await app(scope, receive, send_closing)

        return closing


async def linger(server: uvicorn.Server, leaving: Leaving) -> None:
    """Answer requests in flight, and close their connections: uvicorn drops those that it has no request of yet."""
    leaving.all = True
    begun = asyncio.get_running_loop().time()
    while not server.force_exit:
        lingered = asyncio.get_running_loop().time() - begun
        if lingered >= (_LONGEST_LINGER_SECONDS if server.server_state.connections else _LINGER_SECONDS):
            return
        await asyncio.sleep(0.02)
