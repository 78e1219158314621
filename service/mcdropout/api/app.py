"""The app factory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from mcdropout.api import health, models, predict
from mcdropout.api.errors import add_error_handlers
from mcdropout.api.observe import ObserveMiddleware
from mcdropout.api.shortcut import ShortcutMiddleware
from mcdropout.api.switching import Switching
from mcdropout.catalogue.compilation import CompileLimits
from mcdropout.catalogue.loading import Loading
from mcdropout.catalogue.registry import Registry
from mcdropout.catalogue.watch import Watch
from mcdropout.engine.runtimes.sessions import SessionOptions
from mcdropout.metrics import Metrics
from mcdropout.scheduling.scheduler import Scheduler
from mcdropout.scheduling.watchdog import Watchdog
from mcdropout.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    """The service over the models of a folder. They load in the background once it starts.

    Raises:
        BundleError: the folder holds no bundle, or not the default one.
    """
    metrics = Metrics()
    loading = Loading(
        device=settings.device,
        sessions=SessionOptions(settings.provider, settings.graph_optimization, settings.arena),
        compiles=settings.compile,
        limits=CompileLimits(settings.compile_memory_bytes, settings.compile_seconds),
    )
    registry = Registry(settings.models, loading, metrics, settings.default, preload=settings.preload)
    watch = Watch(registry, settings.watch) if settings.watch else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.scheduler = Scheduler(
            metrics,
            max_queue_rows=settings.max_queue_rows,
            max_queue_bytes=settings.max_queue_bytes,
            max_queue_seconds=settings.max_queue_seconds,
            max_batch_rows=settings.max_batch_rows,
            step_seconds=settings.step_seconds,
            deliver=asyncio.get_running_loop().call_soon_threadsafe,
        )
        app.state.watchdog = Watchdog(app.state.scheduler, settings.watchdog_seconds)
        registry.start()
        if watch:
            watch.start()
        yield
        registry.stop()
        if watch:
            watch.stop()
        app.state.scheduler.stop()
        app.state.watchdog.stop()

    app = FastAPI(
        title="mcdropout",
        version=version("mcdropout"),
        summary="Predictions together with how far to trust them, by Monte Carlo dropout.",
        lifespan=lifespan,
    )
    app.state.settings = settings
    app.state.metrics = metrics
    app.state.registry = registry
    app.state.switching = Switching()
    app.add_middleware(ShortcutMiddleware, owner=app, predict=predict.predict)
    app.add_middleware(ObserveMiddleware, metrics=metrics)
    add_error_handlers(app)
    for router in (predict.router, models.router, health.router):
        app.include_router(router)
    return app
