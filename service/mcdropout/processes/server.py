"""The server: the app in one process, on sockets of its own."""

import socket

import uvicorn

from mcdropout import log
from mcdropout.processes.serving import Leaving, app_of, connections, linger, run_server, uvicorn_config
from mcdropout.settings import Settings


def run(settings: Settings) -> int:
    """Serve until a signal says to stop.

    Returns:
        The exit status: 0 after a signal, 2 where the settings name nothing to serve, 1 where it cannot listen.
    """
    log.configure(settings.log_format, settings.log_level)
    app = app_of(settings, settings.threads)
    if app is None:
        return 2
    leaving = Leaving()
    return run_server(Server(uvicorn_config(settings, leaving.around(app), http=connections(app, leaving)), leaving))


class Server(uvicorn.Server):
    """uvicorn's server, that lets clients go before it stops."""

    def __init__(self, config: uvicorn.Config, leaving: Leaving) -> None:
        super().__init__(config)
        self._leaving = leaving

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listening in self.servers:
            listening.close()
        await linger(self, self._leaving)
        await super().shutdown(sockets)
