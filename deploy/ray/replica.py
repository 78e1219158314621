"""A replica: the service's app with its own engine, and the models that are asked for."""

import asyncio
import contextlib

from fastapi import FastAPI
from ray import cloudpickle, serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig
from ray.serve.schema import LoggingConfig
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deploy.ray import routing, scaling
from deploy.ray.exporting import Export
from deploy.ray.options import Options
from service import log
from service.api import create_app
from service.bundle import find_bundles
from service.engine.threads import use_threads
from service.registry import Registry, RegistryError
from service.switching import Switching

_POLL_SECONDS = 0.05
_LOOK_BACK_SECONDS = 15.0  # over which the rows of each replica are averaged


class Replica:
    """One process's engine, behind the service's own app."""

    def __init__(self, options: Options) -> None:
        settings = options.service_settings()
        log.configure(settings.log_format, settings.log_level)
        use_threads(settings.threads or max(1, round(options.num_cpus)))
        Switching.begin()
        self._app = create_app(settings)
        self._models = _Models(self._app.state.registry, options.max_models)
        self._export = Export(self._app.state.metrics.registry)

    def __serve_build_asgi_app__(self) -> ASGIApp:  # the name is Ray's
        return _Placing(self._app, self._models)

    async def check_health(self) -> None:
        """Raises where the engine is stuck: then Ray replaces the replica."""
        if self._app.state.watchdog.stuck:
            raise RuntimeError("a step of the engine does not end")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What the number of replicas goes by."""
        return {scaling.ROWS: self._app.state.scheduler.queue_rows}


class _Models:
    """The models of a replica: the default one, and some of the others."""

    def __init__(self, registry: Registry, most: int) -> None:
        """
        Args:
            registry: holds them.
            most: how many others; Ray lets go of the one that was not asked for longest.
        """
        self.registry = registry

        async def load(name: str) -> _Held:
            await asyncio.to_thread(registry.load, name)
            return _Held(registry, name)

        self._load = serve.multiplexed(max_num_models_per_replica=most)(load)

    async def place(self, name: str) -> None:
        """Have a model here, if there is one of that name and nothing is wrong with it. Why not, the app tells."""
        entry = self.registry.entry(name)
        if entry is None or name == self.registry.default or entry.state == "failed":
            return
        with contextlib.suppress(RegistryError):
            await self._load(name)


class _Held:
    """A model that is here until Ray lets go of it."""

    def __init__(self, registry: Registry, name: str) -> None:
        self._registry, self._name = registry, name
        self._here = True

    def __del__(self) -> None:  # Ray calls it, in a thread; Python does so again
        if self._here:
            self._here = False
            with contextlib.suppress(RegistryError):
                self._registry.unload(self._name)


class _Placing:
    """The app, once its default model is ready; a model that is asked for is here before the app looks for it."""

    def __init__(self, app: FastAPI, models: _Models) -> None:
        self._app, self._models = app, models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":

            async def send_when_ready(message: Message) -> None:
                await send(await self._ready() if message["type"] == "lifespan.startup.complete" else message)

            await self._app(scope, receive, send_when_ready)
            return

        async def send_without_id(message: Message) -> None:
            if message["type"] == "http.response.start":  # Ray adds the same id
                message["headers"] = [pair for pair in message["headers"] if pair[0].lower() != b"x-request-id"]
            await send(message)

        name = routing.model_named(scope.get("path", ""))
        if name is not None:
            await self._models.place(name)
        await self._app(scope, receive, send_without_id)

    async def _ready(self) -> Message:
        """What there is to say once the default model was loaded, or refused."""
        registry = self._models.registry
        while not registry.begun:
            await asyncio.sleep(_POLL_SECONDS)
        if registry.ready:
            return {"type": "lifespan.startup.complete"}
        entry = registry.entry(registry.default)
        return {"type": "lifespan.startup.failed", "message": f"{registry.default}: {entry and entry.error}"}


def application(options: Options) -> Application:
    """The service as an application of Ray Serve.

    Raises:
        BundleError: the folder of models holds no bundle.
    """
    for module in (routing, scaling):
        cloudpickle.register_pickle_by_value(module)
    settings = options.service_settings()
    default = settings.default or find_bundles(settings.models)[0].name
    router = RequestRouterConfig(request_router_class=routing.ByModel, request_router_kwargs={"default": default})
    deployment = serve.deployment(
        name="mcdropout",
        max_ongoing_requests=options.max_ongoing_requests,
        ray_actor_options={"num_cpus": options.num_cpus, "num_gpus": options.num_gpus},
        graceful_shutdown_timeout_s=settings.grace_seconds,
        autoscaling_config=AutoscalingConfig(
            min_replicas=options.min_replicas,
            max_replicas=options.max_replicas,
            upscale_delay_s=options.upscale_delay_s,
            downscale_delay_s=options.downscale_delay_s,
            look_back_period_s=_LOOK_BACK_SECONDS,
            policy=AutoscalingPolicy(
                policy_function=scaling.ByQueueRows, policy_kwargs={"rows_per_replica": options.rows_per_replica}
            ),
        ),
        logging_config=LoggingConfig(enable_access_log=False),  # the service's own says more
        **({"request_router_config": router} if options.route_by_model else {}),
    )(serve.ingress()(Replica))
    return deployment.bind(options)
