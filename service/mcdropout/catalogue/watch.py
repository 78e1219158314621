"""Watching: what happens to the bundles of a folder happens to the models, without anybody asking for it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import structlog

from mcdropout.catalogue.manifest import MANIFEST
from mcdropout.catalogue.registry import ConflictError, Entry, Registry, RegistryError, is_name
from mcdropout.catalogue.stamps import Stamps, digests_of, sources, stamps_of
from mcdropout.repeating import Repeating

_log = structlog.get_logger("watching")

_Of = TypeVar("_Of")


@dataclass(frozen=True)
class _Read:
    """The files of a bundle that a model was made of, or refused for: their stamps, and what they hold."""

    stamps: Stamps
    digests: Mapping[str, str]


class Watch:
    """Looks at a registry's folder now and then, in a thread of its own.

    A bundle that is new is loaded, one that changed reloaded, and one that is gone unloaded, unless it is the default.
    What one look finds is acted upon when the next one finds the same, so that a bundle which is being copied is left
    alone until it is complete. One that was unloaded by request stays unloaded. A bundle's `compiled/` counts where
    the server does not compile, and where that failed last, as while it is still to come and PyTorch is not there;
    elsewhere the server writes it itself.
    """

    def __init__(self, registry: Registry, seconds: float) -> None:
        """
        Args:
            registry: whose models.
            seconds: between two looks.
        """
        self._registry = registry
        self._last: dict[str, Stamps] | None = None
        self._read: dict[str, _Read] = {}
        self._missed: set[str] = set()
        self._following = Repeating("watch", seconds, self._look)

    def start(self) -> None:
        """Look from now on."""
        self._following.start()

    def stop(self) -> None:
        """Look no more. The registry is stopped before, so that nothing is being loaded."""
        self._following.stop()

    def _look(self) -> None:
        if self._registry.begun:
            self.look()

    def look(self) -> None:
        """Look once, and act upon what is as it was at the last look."""
        folder = self._registry.folder
        paths = [path.parent for path in folder.glob(f"*/{MANIFEST}") if is_name(path.parent.name)]
        if not paths:  # rather a volume that is not mounted than a wish to serve nothing
            self._miss("", "no bundle is left in the models folder; what was loaded is kept", folder=str(folder))
            return
        self._missed.discard("")
        now = {path.name: stamps_of(path) for path in paths}
        last, self._last = self._last, now
        if last is None:
            return
        for name in sorted({*now, *self._registry.names}):
            if now.get(name) == last.get(name):
                self._act(name, now.get(name))

    def _act(self, name: str, stamps: Stamps | None) -> None:
        """See to a bundle that no one is writing to: `stamps` are its files, None where it is gone."""
        registry = self._registry
        entry = registry.entry(name)
        if stamps is None:
            self._read.pop(name, None)
            self._gone(name)
            return
        self._missed.discard(name)
        if entry is not None and entry.state in ("loading", "unloaded"):
            return
        before = self._read.get(name)
        counting = self._counting(entry)
        if before is not None and counting(stamps) == counting(before.stamps):
            return
        known = before or _Read({}, {})
        found = _Read(stamps, digests_of(registry.folder / name, stamps, known.digests, known.stamps))
        just_read = entry is not None and entry.stamps is not None and counting(entry.stamps) == counting(stamps)
        if not just_read and (before is None or counting(found.digests) != counting(before.digests)):
            try:
                if entry is None:
                    registry.appear(name)
                else:
                    registry.reload(name)
            except ConflictError:  # somebody else is at it: the next look shows
                return
            except RegistryError:  # it is logged, and in the model's last_error
                pass
        self._read[name] = found

    def _counting(self, entry: Entry | None) -> Callable[[Mapping[str, _Of]], Mapping[str, _Of]]:
        """Which files of a bundle count."""
        failed = entry is not None and entry.last_error is not None
        return sources if self._registry.compiles and not failed else lambda files: files

    def _gone(self, name: str) -> None:
        if name == self._registry.default:
            self._miss(name, "the default model's bundle is gone; it is kept", model=name)
            return
        try:
            self._registry.unload(name)
        except RegistryError as error:
            _log.debug("model is not unloaded yet", model=name, because=str(error))

    def _miss(self, name: str, event: str, **values: str) -> None:
        """Warn that something is gone, once until it is back."""
        if name not in self._missed:
            self._missed.add(name)
            _log.warning(event, **values)
