"""The server process: the app under uvicorn."""

import signal

import structlog
import uvicorn

from service import log
from service.api import create_app
from service.bundle import BundleError
from service.engine import InvalidInputError
from service.engine.runtimes.sessions import SessionOptions, share_pool
from service.engine.threads import use_threads
from service.settings import Settings

_log = structlog.get_logger("server")


def run(settings: Settings) -> int:
    """Serve until a signal says to stop.

    Returns:
        The exit status: 0 after a signal, 2 where the settings name nothing to serve, 1 where it cannot listen.
    """
    log.configure(settings.log_format, settings.log_level)
    try:
        SessionOptions(settings.provider).check()
        if settings.threads is not None:
            use_threads(settings.threads)
        share_pool()
        app = create_app(settings)
    except (BundleError, InvalidInputError) as error:
        _log.error("nothing to serve", error=str(error))
        return 2
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=round(settings.grace_seconds),
    )
    server = uvicorn.Server(config)
    # uvicorn stops gracefully at a signal, then raises it again; to have been asked to stop is no failure.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    server.run()
    return 0 if server.started else 1
