"""Structured logs, ours and those of the libraries alike, on standard error."""

import atexit
import logging
import sys
import threading
import time
from collections import deque

import structlog

LOG_SECONDS = 0.1
"""How long lines are gathered before they are written, in seconds."""


class _Gathered(logging.Handler):
    """Writes lines to standard error some at a time, from a thread: a write for each would keep the event loop waiting,
    and be much of what a small prediction costs. Errors, and what is left at the end, are written at once."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[str] = deque()
        self._writing = threading.Lock()
        self._some = threading.Event()
        atexit.register(self.flush)
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record))
        except Exception:  # as logging's own handlers do
            self.handleError(record)
            return
        if record.levelno >= logging.ERROR:
            self.flush()
        elif len(self._lines) == 1:
            self._some.set()

    def flush(self) -> None:
        """Write what there is."""
        with self._writing:
            lines: list[str] = []
            while self._lines:  # which others add to meanwhile
                lines.append(self._lines.popleft())
            if lines:
                sys.stderr.write("\n".join([*lines, ""]))
                sys.stderr.flush()

    def _write(self) -> None:
        while True:
            self._some.wait()
            time.sleep(LOG_SECONDS)
            self._some.clear()
            self.flush()


def configure(log_format: str, level: str) -> None:
    """Write log lines for people ("console") or for machines ("json"), from `level` on."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
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
    handler = _Gathered()
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
