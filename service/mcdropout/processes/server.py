"""The server process: the app under uvicorn; alone, or as one of several workers."""

import asyncio
import gc
import logging
import os
import pickle
import signal
import socket
import sys
from typing import Any

import structlog
import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcdropout import log
from mcdropout.api import Services, create_app
from mcdropout.api.admission import Admission
from mcdropout.api.connection import protocol
from mcdropout.api.interpreter_lock import use_usual_interval
from mcdropout.catalogue.bundle import BundleError
from mcdropout.catalogue.registry import Registry
from mcdropout.engine import InvalidInputError
from mcdropout.engine.runtimes.sessions import SessionOptions
from mcdropout.engine.threads import use_threads
from mcdropout.machine import die_with_parent, physical_cores
from mcdropout.metrics import share
from mcdropout.processes import supervisor as workers
from mcdropout.processes.supervisor import Assignment
from mcdropout.settings import Settings

_log = structlog.get_logger("server")

_LINGER_SECONDS = 0.5
# What is on its way for dozens of requests is no garbage; by Python's own number it is looked through all the time.
_COLLECTED_AFTER = 20_000
_LOADING_POLL_SECONDS, _READY_POLL_SECONDS = 0.05, 1.0
_TOLD_POLL_SECONDS = 0.001


def run(settings: Settings) -> int:
    """Serve until a signal says to stop.

    Returns:
        The exit status: 0 after a signal, 2 where the settings name nothing to serve, 1 where it cannot listen.
    """
    log.configure(settings.log_format, settings.log_level)
    services = _services(settings, settings.threads)
    if services is None:
        return 2
    leaving = _Leaving()
    app = leaving.around(create_app(services))
    return _run(_Single(_config(settings, app, http=_protocol(services, leaving)), leaving))


def _services(settings: Settings, threads: int | None) -> Services | None:
    """What serves, with `threads` to compute on; None, and why in the log, where there is nothing to serve."""
    try:
        SessionOptions(settings.provider).check()
        if threads is not None:
            use_threads(threads)
        use_usual_interval()
        gc.set_threshold(_COLLECTED_AFTER)
        return Services.of(settings)
    except (BundleError, InvalidInputError) as error:
        _log.error("nothing to serve", error=str(error))
        return None


def _config(settings: Settings, app: ASGIApp, **others: Any) -> uvicorn.Config:
    given: dict[str, Any] = {"host": settings.host, "port": settings.port} | others
    return uvicorn.Config(
        app,
        loop="uvloop",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=round(settings.grace_seconds),
        **given,
    )


def _protocol(
    services: Services, leaving: "_Leaving", supervisor: "_Supervisor | None" = None
) -> type[asyncio.Protocol]:
    """The class of connections: clients that are told to go are answered by the app, which does that."""
    admission = Admission(services.predictions, services.metrics, stopping=lambda: leaving.any)
    return protocol(admission.refusal, None if supervisor is None else lambda: supervisor.tell(workers.ENDED))


def _run(server: uvicorn.Server) -> int:
    asked: list[int] = []

    def stop(number: int, _frame: object) -> None:
        asked.append(number)
        server.should_exit = True

    # Until uvicorn handles them itself. It stops gracefully at a signal, then raises it again; to have been asked to
    # stop is no failure.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    server.run()
    return 0 if server.started or asked else 1


def work(channel: socket.socket, assignment: Assignment) -> int:
    """Serve the connections that a supervisor hands over, until it or a signal says to stop.

    Returns:
        The exit status, as `run` does.
    """
    die_with_parent()
    if os.getppid() != assignment.supervisor:  # it has gone already
        return 1
    settings = assignment.settings
    log.configure(settings.log_format, settings.log_level)
    _tell_worker(assignment.number)
    share(assignment.metrics, str(assignment.number))
    services = _services(settings, settings.threads or max(1, physical_cores() // settings.workers))
    if services is None:
        return 2
    leaving = _Leaving()
    supervisor = _Supervisor(channel)
    app = leaving.around(create_app(services))
    config = _config(settings, app, http=_protocol(services, leaving, supervisor))
    return _run(_Worker(config, supervisor, leaving, services.registry))


def _tell_worker(number: int) -> None:
    """Have every log line, of libraries too, tell which worker's it is."""

    def told(_logger: Any, _name: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        line["worker"] = number
        return line

    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, structlog.stdlib.ProcessorFormatter):
            handler.formatter.processors = (told, *handler.formatter.processors)


class _Supervisor:
    """The supervisor, as a worker sees it: a socket."""

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self.channel = channel
        self._untold = bytearray()  # since it did not listen: it has to learn of everything, in order

    def tell(self, what: bytes) -> None:
        """Tell it something, later if not now."""
        was_waiting = bool(self._untold)
        self._untold += what
        if not was_waiting:
            self._send()
            if self._untold:
                asyncio.get_running_loop().add_writer(self.channel, self._send_rest)

    async def told(self) -> None:
        """Wait until it has been told everything."""
        while self._untold:
            await asyncio.sleep(_TOLD_POLL_SECONDS)

    def _send_rest(self) -> None:
        self._send()
        if not self._untold:
            asyncio.get_running_loop().remove_writer(self.channel)

    def _send(self) -> None:
        try:
            sent = self.channel.send(self._untold)
        except BlockingIOError:
            return
        except OSError:  # where it has gone there is nobody to tell
            sent = len(self._untold)
        del self._untold[:sent]

    def next(self) -> tuple[bytes, socket.socket | None] | None:
        """What it says, and the connection that comes with it; None if there is nothing now, b"" at its end."""
        try:
            what, handed, _, _ = socket.recv_fds(self.channel, 1, 1)
        except BlockingIOError:
            return None
        except OSError:
            return b"", None
        if not handed:
            return what, None
        connection = socket.socket(fileno=handed[0])
        connection.set_inheritable(False)
        connection.setblocking(False)
        return what, connection


class _Leaving:
    """How many clients are to be told, with their next answer, that it is the last one on its connection."""

    def __init__(self) -> None:
        self.count = 0
        self.all = False

    @property
    def any(self) -> bool:
        """Whether there are such clients."""
        return self.all or self.count > 0

    def around(self, app: ASGIApp) -> ASGIApp:
        """The app, telling them."""

        async def telling(scope: Scope, receive: Receive, send: Send) -> None:
            async def tell(message: Message) -> None:
                if message["type"] == "http.response.start" and self.any:
                    self.count = max(0, self.count - 1)
                    MutableHeaders(scope=message)["connection"] = "close"
                await send(message)

            await app(scope, receive, tell)

        return telling


async def _linger(server: uvicorn.Server, leaving: _Leaving) -> None:
    """Answer what is on its way and tell its clients to go: uvicorn closes those that it has no request of yet."""
    leaving.all = True
    deadline = asyncio.get_running_loop().time() + _LINGER_SECONDS
    while asyncio.get_running_loop().time() < deadline and not server.force_exit:
        await asyncio.sleep(0.02)


class _Single(uvicorn.Server):
    """uvicorn's server, that lets clients go before it stops."""

    def __init__(self, config: uvicorn.Config, leaving: _Leaving) -> None:
        super().__init__(config)
        self._leaving = leaving

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listening in self.servers:
            listening.close()
        await _linger(self, self._leaving)
        await super().shutdown(sockets)


class _Worker(uvicorn.Server):
    """uvicorn's server on connections that are handed to it, instead of a socket of its own."""

    def __init__(self, config: uvicorn.Config, supervisor: _Supervisor, leaving: _Leaving, registry: Registry) -> None:
        super().__init__(config)
        self._supervisor = supervisor
        self._leaving = leaving
        self._registry = registry
        self._tasks: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        self._supervisor.tell(workers.STARTED)
        asyncio.get_running_loop().add_reader(self._supervisor.channel, self._hear)
        self._keep(self._tell_stage())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what was handed over and has not been asked yet, then what uvicorn does.

        It closes connections that it has no request of, although one may be on its way.
        """
        self._supervisor.tell(workers.LEAVING)
        await _linger(self, self._leaving)
        asyncio.get_running_loop().remove_reader(self._supervisor.channel)
        for task in self._tasks:
            task.cancel()
        await super().shutdown(sockets=[])

    def _hear(self) -> None:
        while (heard := self._supervisor.next()) is not None:
            what, connection = heard
            if connection is not None:
                self._supervisor.tell(workers.TAKEN)
                self._keep(self._take(connection))
            elif what == workers.LET_GO:
                self._leaving.count += 1
            elif what == workers.CONNECTION:  # it was lost on the way: too many files are open
                self._supervisor.tell(workers.TAKEN + workers.ENDED)
            else:
                asyncio.get_running_loop().remove_reader(self._supervisor.channel)
                self.should_exit = True
                return

    async def _take(self, connection: socket.socket) -> None:
        """Serve a connection, once the supervisor knows: until then it would hand it on, where this process ends."""
        await self._supervisor.told()
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(self._protocol, connection)
        except OSError:
            connection.close()
            self._supervisor.tell(workers.ENDED)

    def _protocol(self) -> asyncio.Protocol:
        config = self.config
        made: asyncio.Protocol = config.http_protocol_class(  # type: ignore[call-arg]
            config=config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    async def _tell_stage(self) -> None:
        """Tell whenever the models are loaded, ready, or no longer ready."""
        told = workers.STARTED
        while True:
            stage = workers.STARTED
            if self._registry.begun:
                stage = workers.READY if self._registry.ready else workers.LOADED
            if stage != told:
                self._supervisor.tell(stage)
                told = stage
            await asyncio.sleep(_LOADING_POLL_SECONDS if told == workers.STARTED else _READY_POLL_SECONDS)

    def _keep(self, what: Any) -> None:
        task = asyncio.get_running_loop().create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as given:
        sys.exit(work(given, pickle.load(sys.stdin.buffer)))
