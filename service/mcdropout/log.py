"""Structured logs, ours and those of the libraries alike, on standard error.

Whoever logs never waits: lines are put out by a thread of their own. Where they cannot be (a pipe that nobody reads, or
that is closed, a full disk) they wait, as many as there is room for; others are lost, and counted.
"""

import atexit
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, MutableMapping
from contextvars import ContextVar
from typing import Any

import structlog

LOG_SECONDS = 0.1
"""How long lines are gathered before they are written, in seconds."""
_MOST_BYTES = 4 * 2**20  # of lines that wait
_MOST_OF_A_LINE = 64 * 1024
_STANDARD_ERROR = 2
_END_SECONDS = 1.0  # for what is left at the end


class Lines(logging.Handler):
    """Writes lines to a file some at a time, from a thread: a write for each would keep the event loop waiting, and be
    much of what a small prediction costs."""

    def __init__(self, descriptor: int, most_bytes: int = _MOST_BYTES) -> None:
        """
        Args:
            descriptor: of the file.
            most_bytes: how much may wait.
        """
        super().__init__()
        self._descriptor, self._most_bytes = descriptor, most_bytes
        self._lines: deque[bytes] = deque()
        self._waiting = 0  # bytes, of those and of what is being written
        self._counting = threading.Lock()
        self._some, self._urgent, self._idle = threading.Event(), threading.Event(), threading.Event()
        self._idle.set()
        self._lost = self._told = 0
        self._on_loss: Callable[[int], object] = lambda _: None
        atexit.register(self.flush)
        threading.Thread(target=self._work, name="log", daemon=True).start()

    @property
    def lost(self) -> int:
        """How many lines were lost."""
        return self._lost

    def tell_losses(self, told: Callable[[int], object]) -> None:
        """Have a function called with how many lines were lost, whenever some are."""
        self._on_loss = told
        if self._lost:
            told(self._lost)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record).encode("utf-8", "backslashreplace")[:_MOST_OF_A_LINE] + b"\n"
        except Exception:  # what was to be logged cannot be written down
            self._lose(1)
            return
        with self._counting:
            full = self._waiting + len(line) > self._most_bytes
            if not full:
                self._waiting += len(line)
                self._lines.append(line)
                self._idle.clear()
        if full:
            self._lose(1)
            return
        if record.levelno >= logging.ERROR:
            self._urgent.set()
        self._some.set()

    def flush(self) -> None:
        """Wait until what there is was written, for a moment at most."""
        self._urgent.set()
        self._idle.wait(_END_SECONDS)

    def _lose(self, lines: int) -> None:
        with self._counting:
            self._lost += lines
        self._on_loss(lines)

    def _work(self) -> None:
        while True:
            self._some.wait()
            self._urgent.wait(LOG_SECONDS)
            self._some.clear()
            self._urgent.clear()
            self._put_out()

    def _put_out(self) -> None:
        """Write what there is."""
        lines: list[bytes] = []
        while self._lines:  # which others add to meanwhile
            lines.append(self._lines.popleft())
        left = self._written(b"".join(lines))
        lost = sum(1 for line in reversed(lines) if (left := left - len(line)) > -len(line))
        if lost:
            self._lose(lost)
        elif self._told != self._lost:
            told, self._told = self._lost - self._told, self._lost
            self._written(b"%d lines of this log were lost: they could not be written as fast as they came\n" % told)
        with self._counting:
            self._waiting -= sum(map(len, lines))
            if not self._waiting:
                self._idle.set()

    def _written(self, data: bytes) -> int:
        """Write this; how many of its bytes could not be."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # somebody has made it so that it does not wait
                time.sleep(LOG_SECONDS)
            except OSError:
                break
        return len(rest)


def _printable(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The event, with no control characters in what clients may have sent: a terminal would do as they say."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = "".join(x if x.isprintable() else x.encode("unicode_escape").decode() for x in value)
    return event


def lines() -> Lines | None:
    """What writes the log of this process; None before `configure`."""
    return next((handler for handler in logging.getLogger().handlers if isinstance(handler, Lines)), None)


class OfRequest:
    """While it is entered, lines tell the id of the request that they are about.

    What structlog has for that takes ten times as long, which a small prediction shows.
    """

    def __init__(self, request_id: str) -> None:
        self._id = request_id

    def __enter__(self) -> None:
        self._token = _request_id.set(self._id)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        _request_id.reset(self._token)


_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


def _about_request(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    request_id = _request_id.get()
    if request_id is not None:
        event.setdefault("request_id", request_id)
    return event


def configure(log_format: str, level: str) -> None:
    """Write log lines for people ("console") or for machines ("json"), from `level` on."""
    shared: list[structlog.typing.Processor] = [
        _about_request,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _printable,
    ]
    last: list[structlog.typing.Processor] = [
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            # The default shows variables too, a client's inputs among them.
            exception_formatter=structlog.dev.plain_traceback,
        )
    ]
    if log_format == "json":
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = Lines(_STANDARD_ERROR)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last], foreign_pre_chain=shared
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("onnxscript", "onnx_ir", "torch"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
