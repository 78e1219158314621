"""The log: no line is lost between those who write and the thread that puts them out."""

import io
import logging
import sys
import threading

import pytest

from mcdropout.log import _Gathered

_LINES = 20_000


def test_no_line_is_lost_while_lines_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    handler = _Gathered()
    done = threading.Event()

    def flush() -> None:
        while not done.is_set():
            handler.flush()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    flushing = threading.Thread(target=flush)
    try:
        flushing.start()
        for number in range(_LINES):
            handler.emit(logging.LogRecord("test", logging.INFO, "", 0, str(number), (), None))
    finally:
        sys.setswitchinterval(before)
        done.set()
        flushing.join()
    handler.flush()
    assert out.getvalue().split() == [str(number) for number in range(_LINES)]
