"""The log: nobody waits for it, no line is lost while lines can be written, and those that are lost are counted."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import structlog

from mcdropout import log
from mcdropout.log import Lines
from tests.patience import patience, wait_until

_LINES = 20_000


@pytest.fixture
def pipe() -> Iterator[list[int]]:
    """A pipe's two ends; whoever closes one takes it out."""
    ends = list(os.pipe())
    yield ends
    for end in ends:
        os.close(end)


def emit(handler: Lines, text: str, level: int = logging.INFO) -> None:
    handler.emit(logging.LogRecord("test", level, "", 0, text, (), None))


def read(end: int, found: list[bytes]) -> None:
    while part := os.read(end, 65_536):
        found.append(part)


def test_no_line_is_lost_while_lines_are_written(pipe: list[int]) -> None:
    handler, found = Lines(pipe[1]), list[bytes]()
    reading = threading.Thread(target=read, args=(pipe[0], found), daemon=True)
    reading.start()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(target=lambda: [emit(handler, str(number)) for number in range(_LINES // 4)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    wait_until(lambda: b"".join(found).count(b"\n") == _LINES)
    numbers = sorted(int(number) for number in b"".join(found).split())
    assert numbers == sorted(list(range(_LINES // 4)) * 4)
    assert handler.lost == 0


def test_nobody_waits_for_a_pipe_that_is_not_read_and_what_was_lost_is_told(pipe: list[int]) -> None:
    handler, counted = Lines(pipe[1], most_bytes=100_000), list[int]()
    handler.tell_losses(counted.append)
    started = time.monotonic()
    for number in range(_LINES):
        emit(handler, f"line {number:06}", logging.ERROR)
    assert time.monotonic() - started < patience(5.0)
    assert 0 < handler.lost < _LINES
    assert sum(counted) == handler.lost
    held = handler._waiting
    assert held <= 100_000
    found: list[bytes] = []
    threading.Thread(target=read, args=(pipe[0], found), daemon=True).start()
    wait_until(lambda: handler._waiting == 0)
    emit(handler, "after")
    wait_until(lambda: b"after" in b"".join(found))
    wait_until(lambda: b"%d lines of this log were lost" % handler.lost in b"".join(found))
    written = [line for line in b"".join(found).split(b"\n") if line.startswith(b"line ")]
    assert len(written) == _LINES - handler.lost


def test_a_pipe_that_is_closed_ends_nothing(pipe: list[int]) -> None:
    os.close(pipe.pop(0))
    handler = Lines(pipe[0])
    for expected in (1, 2, 3):
        emit(handler, "a line")
        wait_until(lambda expected=expected: handler.lost == expected)
    assert handler._waiting == 0


def test_a_full_disk_ends_nothing() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        handler = Lines(full)
        for _ in range(100):
            emit(handler, "a line")
        wait_until(lambda: handler.lost == 100)
        assert handler._waiting == 0
    finally:
        os.close(full)


def test_what_cannot_be_written_down_is_lost_and_no_more(pipe: list[int]) -> None:
    handler = Lines(pipe[1])
    handler.emit(logging.LogRecord("test", logging.INFO, "", 0, "%d", ("no number",), None))
    assert handler.lost == 1
    emit(handler, "after")
    wait_until(lambda: os.read(pipe[0], 100).startswith(b"after\n"))


def test_the_end_of_a_process_does_not_wait_for_a_pipe_that_is_not_read(pipe: list[int]) -> None:
    program = (
        "from mcdropout import log; import logging; log.configure('console', 'info')\n"
        "for _ in range(3000): logging.getLogger('a').error('x' * 100)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=pipe[1])
    assert process.wait(patience(30)) == 0


@pytest.mark.parametrize("kind", ["console", "json"])
def test_lines_hold_no_control_characters_that_a_client_sent(kind: str) -> None:
    program = (
        f"from mcdropout import log; import structlog; log.configure({kind!r}, 'info')\n"
        "structlog.get_logger('http').info('request', path='/\\x1b[2J\\r\\nforged \\u202e', ok='/ä')"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=patience(60), check=True)
    text = ended.stderr.decode()
    assert text.count("\n") == 1
    assert text.strip().isprintable()
    assert "forged" in text
    assert "/ä" in text or "/\\u00e4" in text


def test_the_log_of_this_process_is_found() -> None:
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    level = root.level
    try:
        log.configure("json", "info")
        found = log.lines()
        assert found is not None
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        structlog.reset_defaults()
    assert log.lines() is not found
