"""Which models a replica holds: the default one, and those that were asked for last."""

import asyncio
import time
from contextlib import suppress

from ray import serve

from mcdropout.catalogue.manifest import MANIFEST
from mcdropout.catalogue.registry import ConflictError, Registry, RegistryError, is_name

_WAIT_SECONDS = 10.0  # that a request waits for its model; then the app says that it loads
_PAUSE_SECONDS = 0.05
_TRY_AGAIN_SECONDS = 30.0  # after a model was refused


class Models:
    """The models of a replica. Ray's multiplexing lets go of the one that was not asked for longest."""

    def __init__(self, registry: Registry, most: int) -> None:
        """
        Args:
            registry: holds them.
            most: how many beside the default one.
        """
        self._registry = registry
        self._placing: dict[str, asyncio.Task[None]] = {}
        self._refused: dict[str, float] = {}  # when

        async def load(name: str) -> _Held:
            await asyncio.to_thread(self._read, name)
            return _Held(registry, name)

        self._load = serve.multiplexed(max_num_models_per_replica=most)(load)

    async def place(self, name: str) -> None:
        """Have a model here, if its bundle is there and nothing is wrong with it; if not, the answer says why.

        Whoever asks meanwhile waits for the same; nobody who gives up ends that.
        """
        if name == self._registry.default or not self._may_be_here(name):
            return
        deadline = time.monotonic() + _WAIT_SECONDS
        while (left := deadline - time.monotonic()) > 0 and self._may_be_here(name):
            task = self._placing.get(name)
            if task is None:
                task = self._placing[name] = asyncio.create_task(self._place(name))
                task.add_done_callback(lambda _: self._placing.pop(name, None))
            await asyncio.wait({task}, timeout=left)
            entry = self._registry.entry(name)
            if entry is not None and entry.model is not None:
                return
            await asyncio.sleep(_PAUSE_SECONDS)

    def _may_be_here(self, name: str) -> bool:
        entry = self._registry.entry(name)
        if entry is None:  # it may have come since the start
            return is_name(name) and (self._registry.folder / name / MANIFEST).is_file()
        return entry.state != "failed" or time.monotonic() > self._refused.get(name, 0.0) + _TRY_AGAIN_SECONDS

    async def _place(self, name: str) -> None:
        try:
            await self._load(name)
            # It is, unless somebody unloaded it since: who watches the folder.
            await asyncio.to_thread(self._read, name)
        except ConflictError:  # somebody else is at it
            pass
        except RegistryError:
            self._refused[name] = time.monotonic()

    def _read(self, name: str) -> None:
        """Load a model that is not loaded."""
        entry = self._registry.entry(name)
        if entry is None or entry.model is None:
            self._registry.load(name)


class _Held:
    """A model that is here until Ray lets go of it."""

    def __init__(self, registry: Registry, name: str) -> None:
        self._registry, self._name = registry, name
        self._here = True

    def __del__(self) -> None:  # Ray calls it, in a thread; Python does so again
        if self._here:
            self._here = False
            with suppress(RegistryError):
                self._registry.unload(self._name)
