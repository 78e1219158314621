"""The server: the app in one process, on sockets of its own."""

import asyncio
import socket
from contextlib import ExitStack

import structlog
import uvicorn

from mcdropout import log
from mcdropout.api import create_app
from mcdropout.processes.listening import address_of, listen, scheme_of
from mcdropout.processes.serving import (
    Leaving,
    RpcServer,
    connections,
    linger,
    rpc_server_of,
    run_server,
    services_of,
    uvicorn_config,
)
from mcdropout.settings import Settings

_log = structlog.get_logger("server")


def run(settings: Settings) -> int:
    """Serve until a signal says to stop.

    Returns:
        The exit status: 0 after a signal, 2 where the settings name nothing to serve, 1 where it cannot listen.
    """
    log.configure(settings.log_format, settings.log_level)
    with ExitStack() as stack:
        try:
            sockets = [stack.enter_context(x) for port in settings.ports for x in listen(settings.host, port)]
        except OSError as error:
            _log.error("cannot listen", host=settings.host, ports=settings.ports, error=str(error))
            return 1
        services = services_of(settings, settings.threads)
        if services is None:
            return 2
        leaving = Leaving()
        app = leaving.around(create_app(services))
        config = uvicorn_config(settings, app, http=connections(services, leaving))
        server = Server(config, leaving, rpc_server_of(services))
        _log.info("listening", urls=[address_of(x, scheme_of(settings)) for x in sockets])
        return run_server(server, sockets)


class Server(uvicorn.Server):
    """uvicorn's server, that lets clients go before it stops; beside it the one of gRPC, where there is one."""

    def __init__(self, config: uvicorn.Config, leaving: Leaving, rpc: RpcServer | None = None) -> None:
        super().__init__(config)
        self._leaving, self._rpc = leaving, rpc

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._rpc is None or self.should_exit:
            return
        try:
            await self._rpc.start()
        except OSError as error:
            _log.error("cannot listen", error=str(error))
            await super().shutdown(sockets)
            self.started, self.should_exit = False, True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listening in self.servers:
            listening.close()
        stopping = None if self._rpc is None else asyncio.create_task(self._rpc.stop())
        await linger(self, self._leaving)
        if stopping is not None:
            await stopping
        await super().shutdown(sockets)
