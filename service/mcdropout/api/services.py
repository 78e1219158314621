"""What the service is made of, put together in one place, started and stopped in another."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from anyio import CapacityLimiter

from mcdropout.access import Certificates, Keyring
from mcdropout.api.guard import Guard
from mcdropout.api.interpreter_lock import SwitchInterval
from mcdropout.api.room import Room
from mcdropout.api.traces import Traces
from mcdropout.catalogue.compilation import CompileLimits
from mcdropout.catalogue.loading import Loading
from mcdropout.catalogue.registry import Registry
from mcdropout.catalogue.watch import Watch
from mcdropout.engine.runtimes.sessions import SessionOptions
from mcdropout.metrics import Metrics
from mcdropout.predictions import Predictions
from mcdropout.scheduling.scheduler import Scheduler
from mcdropout.scheduling.watchdog import Watchdog
from mcdropout.settings import Settings

_MOST_AT_ONCE = 2  # a thread more would wait for the interpreter's lock, and hold memory meanwhile


class ServingLoop:
    """The event loop that serves, once there is one: where futures are settled that requests await."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    def begin(self) -> None:
        """It is the one that runs now."""
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()

    def call(self, function: Callable[[], object]) -> None:
        """Have a function called in it, by any thread; here and now before it begins."""
        if self._loop is None:
            function()
        else:
            self._loop.call_soon_threadsafe(function)

    def soon(self, function: Callable[[], object]) -> None:
        """Have a function called behind all that is ready to run in it; here and now by any other thread."""
        if self._loop is None or self._thread != threading.get_ident():
            function()
        else:
            self._loop.call_soon(function)


@dataclass(frozen=True)
class Services:
    """What answers requests.

    Attributes:
        settings: what the operator chose.
        metrics: this process's.
        registry: the models.
        scheduler: runs them.
        watchdog: ends the process where that is stuck.
        watch: follows the folder of models; None where nobody does.
        predictions: the use case.
        guard: knows who asks, and what they may.
        certificates: for TLS; None where there is none.
        traces: of requests; None where there are none.
        loop: the event loop in which requests are answered.
        bodies: the memory of requests whose rows are not read yet.
        at_once: how many large bodies are parsed, and answers written, at once.
    """

    settings: Settings
    metrics: Metrics
    registry: Registry
    scheduler: Scheduler
    watchdog: Watchdog
    watch: Watch | None
    predictions: Predictions
    guard: Guard
    certificates: Certificates | None
    traces: Traces | None
    loop: ServingLoop
    bodies: Room
    at_once: CapacityLimiter

    @classmethod
    def of(cls, settings: Settings) -> "Services":
        """Those of a server over the models of a folder.

        Raises:
            BundleError: the folder holds no bundle, or not the default one.
            KeysError: the keys cannot be read.
            TlsError: the certificates cannot be used.
            InvalidInputError: requests are to be traced, and OpenTelemetry is not installed.
        """
        keyring = Keyring(settings.keys_file, settings.keys)
        metrics, loop = Metrics(), ServingLoop()
        loading = Loading(
            device=settings.device,
            sessions=SessionOptions(settings.provider, settings.graph_optimization, settings.arena),
            compiles=settings.compile,
            limits=CompileLimits(settings.compile_memory_bytes, settings.compile_seconds),
        )
        registry = Registry(settings.models, loading, metrics, settings.default, preload=settings.preload)
        scheduler = Scheduler(
            metrics,
            max_queue_rows=settings.max_queue_rows,
            max_queue_bytes=settings.max_queue_bytes,
            max_queue_seconds=settings.max_queue_seconds,
            max_request_seconds=settings.max_request_seconds,
            max_client_share=settings.max_client_share,
            max_batch_rows=settings.max_batch_rows,
            step_seconds=settings.step_seconds,
            deliver=loop.call,
            soon=loop.soon,
        )
        predictions = Predictions(
            registry,
            scheduler,
            metrics,
            max_samples=settings.max_samples,
            shed_floor=settings.shed_floor if settings.shed == "reduce" else None,
            on_refusal=SwitchInterval().shorten,
        )
        return cls(
            settings=settings,
            metrics=metrics,
            registry=registry,
            scheduler=scheduler,
            watchdog=Watchdog(scheduler, settings.watchdog_seconds),
            watch=Watch(registry, settings.watch) if settings.watch else None,
            predictions=predictions,
            guard=Guard.of(settings, keyring, metrics),
            certificates=Certificates.of(settings),
            traces=Traces.of(settings),
            loop=loop,
            bodies=Room(settings.max_bodies_bytes),
            at_once=CapacityLimiter(_MOST_AT_ONCE),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load the models in the background and answer requests in this event loop; at the end let go of all."""
        self.loop.begin()
        self.registry.start()
        if self.watch:
            self.watch.start()
        if self.certificates:
            self.certificates.start()
        yield
        self.registry.stop()
        if self.watch:
            self.watch.stop()
        if self.certificates:
            self.certificates.stop()
        self.scheduler.stop()
        self.watchdog.stop()
        if self.traces:
            await asyncio.to_thread(self.traces.stop)
