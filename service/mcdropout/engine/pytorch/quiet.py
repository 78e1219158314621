"""Quiet: exporters speak of their progress, of packages that they would like, and of graphs that they gave up on."""

import contextlib
import logging
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

_LOGGERS = ("torch.onnx", "torch.export", "torch._dynamo", "torch.fx.experimental.symbolic_shapes")
_STREAMS = ("stdout", "stderr")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what PyTorch's exporters print, log and warn of from the user; their errors tell what matters.

    What other threads print meanwhile is printed.
    """
    thread = threading.get_ident()
    with _lock:
        if not _threads:
            _mute()
        _threads[thread] += 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        with _lock:
            _threads[thread] -= 1
            if not _threads[thread]:
                del _threads[thread]
            if not _threads:
                _unmute()


class _ForOthers:
    """A stream in which threads that are quiet write nothing."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        return len(text) if _threads[threading.get_ident()] else self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


_lock = threading.Lock()
_threads: Counter[int] = Counter()  # that are quiet, and how many times each
_levels: dict[logging.Logger, int] = {}  # which loggers had before


def _mute() -> None:
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        _levels[logger] = logger.level
        logger.setLevel(logging.CRITICAL)
    for name in _STREAMS:
        if (stream := getattr(sys, name)) is not None:
            setattr(sys, name, _ForOthers(stream))


def _unmute() -> None:
    for logger, level in _levels.items():
        logger.setLevel(level)
    for name in _STREAMS:
        if isinstance(stream := getattr(sys, name), _ForOthers):  # else somebody put another in its place
            setattr(sys, name, stream.stream)
