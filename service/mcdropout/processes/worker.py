"""A worker: one of several processes that serve the connections which a supervisor hands over.

    python -m mcdropout.processes.worker DESCRIPTOR

The descriptor is the worker's end of the channel; the assignment comes by the standard input.
"""

import asyncio
import logging
import os
import pickle
import socket
import sys
from typing import Any

import structlog
import uvicorn

from mcdropout import log
from mcdropout.api import Services, create_app
from mcdropout.machine import die_with_parent, physical_cores
from mcdropout.metrics import share
from mcdropout.processes import wire
from mcdropout.processes.outcome import say_outcome
from mcdropout.processes.serving import (
    LOADING_POLL_SECONDS,
    Leaving,
    RpcServer,
    connections,
    linger,
    rpc_server_of,
    run_server,
    services_of,
    uvicorn_config,
)
from mcdropout.processes.wire import Assignment, WorkerEnd

_READY_POLL_SECONDS = 1.0
_WRONG_SETTINGS = 2


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
    _number_log_lines(assignment.number)
    share(assignment.metrics, str(assignment.number))
    services = services_of(settings, settings.threads or max(1, physical_cores() // settings.workers))
    if services is None:
        return _WRONG_SETTINGS
    leaving = Leaving()
    supervisor = WorkerEnd(channel)
    http = connections(services, leaving, ended=lambda: supervisor.send(wire.ENDED))
    config = uvicorn_config(settings, leaving.around(create_app(services)), http=http)
    server = WorkerServer(config, supervisor, leaving, services)
    status = run_server(server)
    return _WRONG_SETTINGS if server.serves_nothing else status


def _number_log_lines(number: int) -> None:
    """Have every log line, of libraries too, carry the number of this worker."""

    def numbered(_logger: Any, _name: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        line["worker"] = number
        return line

    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, structlog.stdlib.ProcessorFormatter):
            handler.formatter.processors = (numbered, *handler.formatter.processors)


class WorkerServer(uvicorn.Server):
    """uvicorn's server on connections that are handed to it, instead of a socket of its own.

    Attributes:
        serves_nothing: whether it ends since no model could be loaded.
    """

    def __init__(self, config: uvicorn.Config, supervisor: WorkerEnd, leaving: Leaving, services: Services) -> None:
        super().__init__(config)
        self.serves_nothing = False
        self._rpc: RpcServer | None = rpc_server_of(services)
        self._supervisor = supervisor
        self._leaving = leaving
        self._services = services
        self._tasks: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        self._supervisor.send(wire.STARTED)
        asyncio.get_running_loop().add_reader(self._supervisor.channel, self._hear)
        self._keep(self._send_stages())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what was handed over and has not been asked yet, then what uvicorn does.

        uvicorn closes connections that it has no request of, although one may be in flight.
        """
        self._supervisor.send(wire.LEAVING)
        stopping = None if self._rpc is None else asyncio.create_task(self._rpc.stop())
        await linger(self, self._leaving)
        if stopping is not None:
            await stopping
        asyncio.get_running_loop().remove_reader(self._supervisor.channel)
        for task in self._tasks:
            task.cancel()
        await super().shutdown(sockets=[])

    def _hear(self) -> None:
        while (heard := self._supervisor.next()) is not None:
            what, connection = heard
            if connection is not None:
                self._supervisor.send(wire.TAKEN)
                self._keep(self._take(connection))
            elif what == wire.LET_GO:
                self._leaving.count += 1
            elif what == wire.CONNECTION:  # it was lost on the way: too many files are open
                self._supervisor.send(wire.TAKEN + wire.ENDED)
            else:
                asyncio.get_running_loop().remove_reader(self._supervisor.channel)
                self.should_exit = True
                return

    async def _take(self, connection: socket.socket) -> None:
        """Serve a connection, once the supervisor knows: until then it would hand it on, where this process ends."""
        await self._supervisor.drained()
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(self._protocol, connection)
        except OSError:
            connection.close()
            self._supervisor.send(wire.ENDED)

    def _protocol(self) -> asyncio.Protocol:
        config = self.config
        made: asyncio.Protocol = config.http_protocol_class(  # type: ignore[call-arg]
            config=config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    async def _send_stages(self) -> None:
        """Send it whenever the models are loaded, ready, or no longer ready; before that how many serve."""
        registry = self._services.registry
        while not registry.begun:
            await asyncio.sleep(LOADING_POLL_SECONDS)
        if self.should_exit:
            return
        if not say_outcome(registry, self._services.settings):
            self.serves_nothing = self.should_exit = True
            return
        self._supervisor.send(wire.MODEL * sum(entry.model is not None for entry in registry.entries.values()))
        sent, serves_rpc = wire.STARTED, False
        while True:
            stage = wire.READY if registry.ready else wire.LOADED
            if stage != sent:
                if stage == wire.READY and self._rpc is not None and not serves_rpc:
                    await self._rpc.start()  # not before: its clients are handed over by nobody
                    serves_rpc = True
                self._supervisor.send(stage)
                sent = stage
            await asyncio.sleep(_READY_POLL_SECONDS)

    def _keep(self, what: Any) -> None:
        task = asyncio.get_running_loop().create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as given:
        sys.exit(work(given, pickle.load(sys.stdin.buffer)))
