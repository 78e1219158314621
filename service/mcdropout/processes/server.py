"""The server: the app in one process, on sockets of its own."""

import asyncio
import socket
from contextlib import ExitStack

import structlog
import uvicorn

from mcdropout import log
from mcdropout.api import Services, create_app
from mcdropout.processes.listening import address_of, listeners_of, scheme_of
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
from mcdropout.settings import Settings

_log = structlog.get_logger("server")


_WRONG_SETTINGS = 2


def run(settings: Settings) -> int:
    """Serve until a signal says to stop.

    Returns:
        The exit status: 0 after a signal, 2 where there is nothing to serve, and nothing that could come to be while
        the server runs, 1 where it cannot listen.
    """
    log.configure(settings.log_format, settings.log_level)
    with ExitStack() as stack:
        sockets = listeners_of(settings)
        if sockets is None:
            return 1
        for listener in sockets:
            stack.enter_context(listener)
        services = services_of(settings, settings.threads)
        if services is None:
            return _WRONG_SETTINGS
        leaving = Leaving()
        app = leaving.around(create_app(services))
        config = uvicorn_config(settings, app, http=connections(services, leaving))
        urls = [address_of(x, scheme_of(settings)) for x in sockets]
        server = Server(config, leaving, services, urls)
        status = run_server(server, sockets)
        return _WRONG_SETTINGS if server.serves_nothing else status


class Server(uvicorn.Server):
    """uvicorn's server, that lets clients go before it stops; beside it the one of gRPC, where there is one.

    Attributes:
        serves_nothing: whether it ends since no model could be loaded.
    """

    def __init__(self, config: uvicorn.Config, leaving: Leaving, services: Services, urls: list[str]) -> None:
        super().__init__(config)
        self.serves_nothing = False
        self._leaving, self._services, self._urls = leaving, services, urls
        self._rpc: RpcServer | None = rpc_server_of(services)
        self._seeing: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.should_exit:
            return
        try:
            if self._rpc is not None:
                await self._rpc.start()
        except OSError as error:
            _log.error("cannot listen", error=str(error))
            await super().shutdown(sockets)
            self.started, self.should_exit = False, True
            return
        _log.info("listening", urls=self._urls)
        self._seeing = asyncio.create_task(self._see_to_models())

    async def _see_to_models(self) -> None:
        """Say what became of the models, once that is known; end where there is nothing to serve."""
        registry = self._services.registry
        while not registry.begun:
            await asyncio.sleep(LOADING_POLL_SECONDS)
        if not self.should_exit and not say_outcome(registry, self._services.settings, self._urls):
            self.serves_nothing = self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._seeing is not None:
            self._seeing.cancel()
        for listening in self.servers:
            listening.close()
        stopping = None if self._rpc is None else asyncio.create_task(self._rpc.stop())
        await linger(self, self._leaving)
        if stopping is not None:
            await stopping
        await super().shutdown(sockets)
