"""Reads: what of a bundle's folder is looked at while its network is compiled.

What Python opens, asks about, lists and imports says Python itself. What a library opens by itself, as safetensors,
tokenizers and whatever maps a file into memory do, says Linux (inotify). Together they know every file that can have
made the program what it is, and those too that were looked for and are not there; notes and results that lie beside
them may change. Where the system does not say who opened what, every file of the folder counts.
"""

import ctypes
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from importlib.util import source_from_cache
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Self

from mcdropout.catalogue.bundle import COMPILED
from mcdropout.catalogue.manifest import MANIFEST
from mcdropout.catalogue.stamps import sources, stamps_of

_ASKS = ("stat", "lstat", "access")  # of `os`, which raise no audit event
_CAPABLE = (os.supports_dir_fd, os.supports_effective_ids, os.supports_fd, os.supports_follow_symlinks)
_OWN = __name__.partition(".")[0]
_LIBRARY = ("os", "posixpath", "genericpath", "pathlib", "glob", "fnmatch", "shutil", "io", "codecs", "zipfile")
_IMPORT_SYSTEM = ("importlib._bootstrap_external", "_frozen_importlib_external")
_NON_BLOCKING, _OPENED, _IS_FOLDER, _OVERFLOWED = 0o4000, 0x20, 0x40000000, 0x4000  # of inotify
_EVENT = struct.Struct("iIII")
_READ_AT_ONCE = 1 << 16
_MOST_FOLDERS = 4096

_entered: "list[Reads]" = []
_hooked = False


class Reads:
    """Notes what of a folder is looked at while it is entered.

    Attributes:
        names: what was opened, imported or asked about, whether it was there or not, by its path in the folder. What
            lies behind a link of the folder goes by the link's name.
        listed: the folders whose content was listed, likewise; the folder itself is ".".
    """

    def __init__(self, folder: Path) -> None:
        self.names: set[str] = set()
        self.listed: set[str] = set()
        self._folder = Path(os.path.abspath(folder))
        self._places: dict[str, str] = {}  # where what of it lies, by its name

    def __enter__(self) -> Self:
        self._places = {str(self._folder): ".", os.path.realpath(self._folder): "."}
        self._opened = _Opened()
        for place, folders, files in _walked(self._folder):
            name = os.path.relpath(place, self._folder)
            for entry in (*folders, *files):
                path = os.path.join(place, entry)
                if os.path.islink(path) and os.path.exists(path):
                    own = os.path.normpath(os.path.join(name, entry))
                    self._places.setdefault(os.path.realpath(path), own)
                    if entry in files:
                        self._opened.watch(path, own)
            self._opened.watch(place, name)
        self._places = dict(sorted(self._places.items(), key=lambda place: len(place[0]), reverse=True))
        _listen()
        self._asks = {name: getattr(os, name) for name in _ASKS}
        for name, ask in self._asks.items():
            noting = self._noting(ask)
            setattr(os, name, noting)
            for capable in _CAPABLE:
                capable.update({noting} if ask in capable else ())
        self._finder = _Finder(self)
        sys.meta_path.insert(0, self._finder)
        _entered.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _entered.remove(self)
        sys.meta_path.remove(self._finder)
        for name, ask in self._asks.items():
            for capable in _CAPABLE:
                capable.discard(getattr(os, name))
            setattr(os, name, ask)
        opened = self._opened.close()
        if opened is None:
            self.names.update(name for name in sources(stamps_of(self._folder)) if name != MANIFEST)
        else:
            self.names.update(name for name in opened if name != MANIFEST)  # which other servers read as well
        self.names = {own for name in self.names if (own := _counting(name)) is not None}
        self.listed = {name for name in self.listed if name.split("/")[0] != COMPILED}

    def note(self, path: Any, into: set[str]) -> None:
        """Note that the code of a network, or a library that it calls, looked at a path; not what is done for it."""
        name = self._name_of(path)
        if name is not None and not _asked_by_us(sys._getframe(2)):
            into.add(name)

    def _name_of(self, path: Any) -> str | None:
        """What a path is called in the folder; None where it lies elsewhere."""
        try:
            place = os.path.abspath(os.fsdecode(path))
        except (TypeError, ValueError, OSError):  # a descriptor, or no path
            return None
        for root, name in self._places.items():
            if place == root or place.startswith(root + os.sep):
                return Path(name, place[len(root) + 1 :]).as_posix()
        return None

    def _noting(self, ask: Any) -> Any:
        def asked(path: Any, *args: Any, **kwargs: Any) -> Any:
            self.note(path, self.names)
            return ask(path, *args, **kwargs)

        return asked


class _Finder:
    """Finds no module, and notes where one is looked for."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads

    def find_spec(self, name: str, path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        last = name.rpartition(".")[2]
        for place in list(sys.path if path is None else path):
            for file in (f"{last}.py", f"{last}/__init__.py"):
                own = self._reads._name_of(os.path.join(place, file))
                if own is not None:
                    self._reads.names.add(own)
        return None


class _Opened:
    """What anybody opens, of the files and folders that are watched, as Linux says."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        self._descriptor = -1 if self._libc is None else self._libc.inotify_init1(_NON_BLOCKING)
        self._complete = self._descriptor >= 0
        self._watched: dict[int, list[str]] = {}

    def watch(self, path: str, name: str) -> None:
        """Watch a folder or a file, which is called `name`."""
        if not self._complete or self._libc is None:
            return
        number = self._libc.inotify_add_watch(self._descriptor, os.fsencode(path), _OPENED)
        self._complete = number >= 0 and len(self._watched) < _MOST_FOLDERS
        self._watched.setdefault(number, []).append(name)

    def close(self) -> set[str] | None:
        """Watch no more: the names of what was opened, or None where some may be missing."""
        if self._descriptor < 0:
            return None
        try:
            names = set(self._names()) if self._complete else set()
        finally:
            os.close(self._descriptor)
        return names if self._complete else None

    def _names(self) -> Iterator[str]:
        while True:
            try:
                events = os.read(self._descriptor, _READ_AT_ONCE)
            except BlockingIOError:
                return
            at = 0
            while at < len(events):
                number, mask, _, size = _EVENT.unpack_from(events, at)
                inner = events[at + _EVENT.size : at + _EVENT.size + size].rstrip(b"\0")
                at += _EVENT.size + size
                if mask & _OVERFLOWED:
                    self._complete = False
                elif not mask & _IS_FOLDER:
                    yield from (
                        os.path.normpath(os.path.join(name, os.fsdecode(inner))) for name in self._watched[number]
                    )


def _listen() -> None:
    """Hear of what Python opens and lists; a hook can never be taken away, so that there is one."""
    global _hooked
    if not _hooked:
        _hooked = True
        sys.addaudithook(_heard)


def _heard(event: str, args: tuple[Any, ...]) -> None:
    if not _entered or event not in ("open", "os.listdir", "os.scandir"):
        return
    for reads in _entered:
        if event == "open":
            reads.note(args[0], reads.names)
        elif sys._getframe(1).f_globals.get("__name__") not in _IMPORT_SYSTEM:  # which lists what it need not import
            reads.note("." if args[0] is None else args[0], reads.listed)


def _asked_by_us(frame: FrameType | None) -> bool:
    """Whether, behind functions of Python's own, it is this package that asks."""
    while frame is not None and frame.f_globals.get("__name__") in (*_LIBRARY, __name__):
        frame = frame.f_back
    return frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == _OWN


def _walked(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """The folders below one, links followed, each once; hidden ones too, but not what compiling writes."""
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen or len(seen) > _MOST_FOLDERS:
            folders.clear()
            continue
        seen.add(real)
        if place == str(folder):
            folders[:] = [name for name in folders if name != COMPILED]
        yield place, folders, files


def _counting(name: str) -> str | None:
    """What stands for a file that was looked at: of bytecode its source; None for what compiling writes."""
    first, parts = name.split("/")[0], name.split("/")
    if first in (COMPILED, ".", "") or first.startswith(f".{COMPILED}-"):
        return None
    if "__pycache__" not in parts:
        return name
    try:
        return source_from_cache(name)
    except ValueError:
        return None
