"""A replica: the service's app with its own engine, and the models that are asked for."""

import asyncio
from contextlib import AsyncExitStack

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcdropout import log
from mcdropout.api import create_app
from mcdropout.api.switching import Switching
from mcdropout.engine.threads import use_threads
from mcdropout.ray import routing, scaling
from mcdropout.ray.exporting import Export
from mcdropout.ray.options import Options
from mcdropout.ray.placing import Models

_POLL_SECONDS = 0.05


class Replica:
    """One process's engine, behind the service's own app."""

    def __init__(self, options: Options) -> None:
        settings = options.service_settings()
        log.configure(settings.log_format, settings.log_level)
        use_threads(settings.threads or max(1, round(options.num_cpus)))
        Switching.begin()
        self._app = create_app(settings)
        self._models = Models(self._app.state.registry, options.max_models)
        self._export = Export(self._app.state.metrics.registry)
        self._life = AsyncExitStack()

    async def __serve_build_asgi_app__(self) -> ASGIApp:  # the name is Ray's
        """The app, started, once its default model is ready.

        Raises:
            RuntimeError: that was refused; Ray's status shows the message.
        """
        await self._life.enter_async_context(self._app.router.lifespan_context(self._app))
        registry = self._app.state.registry
        while not registry.begun:
            await asyncio.sleep(_POLL_SECONDS)
        if not registry.ready:
            await self._life.aclose()
            entry = registry.entry(registry.default)
            raise RuntimeError(f"{registry.default}: {entry and entry.error}")
        return _Placing(self._app, self._models, self._life)

    async def check_health(self) -> None:
        """Raises where the engine is stuck: then Ray replaces the replica."""
        if self._app.state.watchdog.stuck:
            raise RuntimeError("a step of the engine does not end")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What the number of replicas goes by."""
        return {scaling.ROWS: self._app.state.scheduler.queue_rows}


class _Placing:
    """The app, which was started already; a model that is asked for is here before the app looks for it."""

    def __init__(self, app: FastAPI, models: Models, life: AsyncExitStack) -> None:
        self._app, self._models, self._life = app, models, life

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return

        async def send_without_id(message: Message) -> None:
            if message["type"] == "http.response.start":  # Ray adds the same id
                message["headers"] = [pair for pair in message["headers"] if pair[0].lower() != b"x-request-id"]
            await send(message)

        name = routing.model_named(scope)
        if name is not None:
            await self._models.place(name)
        await self._app(scope, receive, send_without_id)

    async def _live(self, receive: Receive, send: Send) -> None:
        """Tell Ray that the app has started, and stop it when Ray says so."""
        while (said := (await receive())["type"]) != "lifespan.shutdown":
            await send({"type": f"{said}.complete"})
        await self._life.aclose()
        await send({"type": "lifespan.shutdown.complete"})
