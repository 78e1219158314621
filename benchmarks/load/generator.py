"""The load: a process that sends requests over keep-alive connections, and notes when each was due, sent and answered.

Requests are encoded beforehand, and of an answer only the status line, its length and whether the connection closes are
read. uvloop writes to all connections at the end of a turn of its loop, so that the server wakes once and not for each
request: a plain epoll loop that sends at once took three times the processor for the same requests.

A closed loop sends a request when the one before it was answered. An open loop sends when requests are due, whether or
not the server keeps up, and time counts from then: what waits for a free connection waits for the server.
"""

import asyncio
import ctypes
import gc
import os
import pickle
import random
import resource
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import uvloop

HOST = "127.0.0.1"
CLOSED, UNANSWERED = 0, -1  # in the place of a status
_WARM_UP_AT_MOST = 20.0  # seconds
_RECONNECT_AFTER = 0.02  # seconds
_TICKS = os.sysconf("SC_CLK_TCK")
_now = time.perf_counter


@dataclass(frozen=True)
class Stream:
    """Requests of one kind.

    Attributes:
        requests: whole HTTP requests, sent in turn.
        connections: the most that are in flight; the number of clients of a closed loop.
        rate: requests a second of an open loop; a closed loop where None.
        even: whether they are due at equal distances; else as a Poisson process.
        begin: when it starts, in seconds after what is measured begins; where 0, with the warm-up before.
        end: when it ends; with the job where None.
        once: whether each request is sent once only.
        keep: whether bodies of answers are kept.
    """

    requests: tuple[bytes, ...]
    connections: int
    rate: float | None = None
    even: bool = False
    begin: float = 0.0
    end: float | None = None
    once: bool = False
    keep: bool = False


@dataclass(frozen=True)
class Job:
    """What to send.

    Attributes:
        port: of the server, on the loopback interface.
        streams: sent at the same time.
        seconds: how long is measured; less where streams whose requests are sent once are done.
        warm_up: seconds before that; more where a client of a closed loop has no answer yet.
        drain: seconds that answers are waited for in the end.
        pids: processes whose use of the processors is told.
    """

    port: int
    streams: tuple[Stream, ...]
    seconds: float
    warm_up: float = 0.5
    drain: float = 30.0
    pids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Answers:
    """What became of a stream's requests, in order of their answers: `[requests]` each, times in `perf_counter`'s.

    Attributes:
        number: which of the stream's requests.
        due: when it should have been sent.
        sent: when it was.
        done: when its answer was complete.
        status: of HTTP, or `CLOSED` where the connection was, or `UNANSWERED`.
        bodies: of the answers, where kept.
        unsent: requests that were due, and for which no connection was free until the end.
        refused: attempts to connect that failed.
    """

    number: npt.NDArray[np.int64]
    due: npt.NDArray[np.float64]
    sent: npt.NDArray[np.float64]
    done: npt.NDArray[np.float64]
    status: npt.NDArray[np.int64]
    bodies: list[bytes]
    unsent: int
    refused: int

    @property
    def latency(self) -> npt.NDArray[np.float64]:
        """Seconds from when it was due."""
        return self.done - self.due

    def answered(self, begin: float, end: float, status: int = 200) -> npt.NDArray[np.bool_]:
        """Which were answered so, between these times."""
        return np.asarray((self.status == status) & (self.done >= begin) & (self.done < end))

    def asked(self, begin: float, end: float, status: int = 200) -> npt.NDArray[np.bool_]:
        """Which were due between these times, and answered so."""
        return np.asarray((self.status == status) & (self.due >= begin) & (self.due < end))


@dataclass(frozen=True)
class Run:
    """A job that is done.

    Attributes:
        begin: when what is measured began, in `perf_counter`'s time.
        end: when it ended.
        streams: the answers of each, those of the warm-up among them.
        own_seconds: processor time of this process while it measured.
        server_seconds: that of the processes that were asked about.
    """

    begin: float
    end: float
    streams: tuple[Answers, ...]
    own_seconds: float
    server_seconds: float


class Generator:
    """The process that sends; it runs one job at a time."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-c", "from benchmarks.load.generator import serve; serve()"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self, job: Job) -> Run:
        """Send a job's requests, and return when they are answered."""
        self.start(job)
        return self.wait()

    def start(self, job: Job) -> None:
        """Begin a job, and return at once."""
        assert self._process.stdin is not None
        pickle.dump(job, self._process.stdin)
        self._process.stdin.flush()

    def wait(self) -> Run:
        """What became of the job that was begun."""
        assert self._process.stdout is not None
        run: Run = pickle.load(self._process.stdout)
        return run


def serve() -> None:
    """Run jobs from the standard input until it ends."""
    while True:
        try:
            job: Job = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        gc.collect()
        gc.disable()  # a collection would be taken for latency
        run = uvloop.run(_run(job))
        gc.enable()
        with open(sys.stdout.fileno(), "wb", closefd=False) as out:  # with PYTHONUNBUFFERED, sys.stdout writes in part
            pickle.dump(run, out, protocol=pickle.HIGHEST_PROTOCOL)


def encode(
    path: str,
    body: bytes,
    method: str = "POST",
    request_id: str | None = None,
    media_type: str = "application/json",
    accept: str = "*/*",
) -> bytes:
    """A whole HTTP request, with an id where one is given."""
    head = f"{method} {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: {media_type}\r\naccept: {accept}"
    head += f"\r\ncontent-length: {len(body)}"
    if request_id is not None:
        head += f"\r\nx-request-id: {request_id}"
    return head.encode() + b"\r\n\r\n" + body


async def _run(job: Job) -> Run:
    drivers = [_Closed(job.port, stream) if stream.rate is None else _Open(job.port, stream) for stream in job.streams]
    for driver in drivers:
        await driver.connect()
    first = [driver for driver in drivers if driver.stream.begin <= 0]
    began = _now()
    for driver in first:
        driver.start()
    await asyncio.sleep(job.warm_up)
    while not all(driver.warm for driver in first) and _now() - began < _WARM_UP_AT_MOST:
        await asyncio.sleep(0.01)
    own, others, begin = _own_seconds(), seconds_of(job.pids), _now()
    await asyncio.gather(*(_drive(driver, begin, job.seconds) for driver in drivers))
    end, own, others = _now(), _own_seconds() - own, seconds_of(job.pids) - others
    while any(driver.busy for driver in drivers) and _now() - end < job.drain:
        await asyncio.sleep(0.01)
    return Run(begin, end, tuple(driver.close() for driver in drivers), own, others)


async def _drive(driver: "_Driver", begin: float, seconds: float) -> None:
    stream = driver.stream
    if stream.begin > 0:
        await asyncio.sleep(begin + stream.begin - _now())
        driver.start()
    end = begin + (seconds if stream.end is None else stream.end)
    try:
        async with asyncio.timeout(end - _now()):
            await driver.exhausted.wait()
    except TimeoutError:
        driver.stop()


class _Driver:
    """A stream's connections, and what becomes of its requests."""

    def __init__(self, port: int, stream: Stream) -> None:
        self.stream = stream
        self.running = False
        self.exhausted = asyncio.Event()
        self.refused = 0
        self._port = port
        self._closing = False
        self._next = 0
        self._connections: list[_Connection] = []
        self._records: list[tuple[int, float, float, float, int]] = []
        self._bodies: list[bytes] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def connect(self) -> None:
        self._connections = [_Connection(self) for _ in range(self.stream.connections)]
        for connection in self._connections:
            await self._connect(connection)

    def start(self) -> None:
        self.running = True
        for connection in self._connections:
            if connection.transport is not None:
                self.free(connection)

    def stop(self) -> None:
        self.running = False

    def close(self) -> Answers:
        """Close the connections; what was never answered is told as such."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        for connection in self._connections:
            if connection.busy:
                self.done(connection, UNANSWERED, b"")
            if connection.transport is not None:
                connection.transport.abort()
        number, due, sent, done, status = zip(*self._records, strict=True) if self._records else [()] * 5
        return Answers(
            np.array(number, np.int64),
            np.array(due, np.float64),
            np.array(sent, np.float64),
            np.array(done, np.float64),
            np.array(status, np.int64),
            self._bodies,
            self.unsent,
            self.refused,
        )

    @property
    def busy(self) -> bool:
        return any(connection.busy for connection in self._connections)

    @property
    def warm(self) -> bool:
        """Whether what follows is no longer the start."""
        return True

    @property
    def unsent(self) -> int:
        return 0

    def free(self, connection: "_Connection") -> None:
        """A connection has nothing to do."""
        raise NotImplementedError

    def send(self, connection: "_Connection", due: float) -> None:
        number = self._next
        if number == len(self.stream.requests):
            if self.stream.once:
                self.running = False
                self.exhausted.set()
                return
            number = 0
        self._next = number + 1
        connection.send(number, self.stream.requests[number], due)

    def done(self, connection: "_Connection", status: int, body: bytes) -> None:
        """A request was answered, or never will be."""
        connection.busy = False
        self._records.append((connection.number, connection.due, connection.sent, _now(), status))
        if self.stream.keep:
            self._bodies.append(body)

    def lost(self, connection: "_Connection") -> None:
        """A connection was closed by the server."""
        if not self._closing:
            task = asyncio.create_task(self._reconnect(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _reconnect(self, connection: "_Connection") -> None:
        while not await self._connect(connection):
            await asyncio.sleep(_RECONNECT_AFTER)
        if self.running:
            self.free(connection)

    async def _connect(self, connection: "_Connection") -> bool:
        try:
            await asyncio.get_running_loop().create_connection(lambda: connection, HOST, self._port)
        except OSError:
            self.refused += 1
            return False
        return True


class _Closed(_Driver):
    """Each client sends when it was answered."""

    def __init__(self, port: int, stream: Stream) -> None:
        super().__init__(port, stream)
        self._answered: set[_Connection] = set()

    @property
    def warm(self) -> bool:
        return len(self._answered) == self.stream.connections or self.exhausted.is_set()

    def free(self, connection: "_Connection") -> None:
        self.send(connection, _now())

    def done(self, connection: "_Connection", status: int, body: bytes) -> None:
        super().done(connection, status, body)
        self._answered.add(connection)


class _Open(_Driver):
    """Requests are sent when they are due."""

    def __init__(self, port: int, stream: Stream) -> None:
        super().__init__(port, stream)
        assert stream.rate is not None
        self._rate = stream.rate
        self._random = random.Random(0)
        self._idle: list[_Connection] = []
        self._waiting: deque[float] = deque()
        self._due = 0.0
        self._alarm = _Alarm(self._arrive)

    def start(self) -> None:
        super().start()
        self._due = _now()
        self._arrive()

    def stop(self) -> None:
        super().stop()
        self._alarm.close()

    @property
    def unsent(self) -> int:
        return len(self._waiting)

    def free(self, connection: "_Connection") -> None:
        if self._waiting and self.running:
            self.send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def lost(self, connection: "_Connection") -> None:
        if connection in self._idle:
            self._idle.remove(connection)
        super().lost(connection)

    def _arrive(self) -> None:
        """Send all that is due by now. The connection that was used last comes first: the others may time out."""
        now = _now()
        while self._due <= now and self.running:
            if self._idle:
                self.send(self._idle.pop(), self._due)
            else:
                self._waiting.append(self._due)
            self._due += 1 / self._rate if self.stream.even else self._random.expovariate(self._rate)
        if self.running:
            self._alarm.at(self._due)


class _Connection(asyncio.Protocol):
    """A connection with one request in flight at most."""

    def __init__(self, driver: _Driver) -> None:
        self.transport: asyncio.Transport | None = None
        self.busy = False
        self.number = 0
        self.due = self.sent = 0.0
        self._driver = driver
        self._keep = driver.stream.keep
        self._received = b""
        self._parts: list[bytes] = []
        self._missing = 0  # bytes of the body
        self._status = 0
        self._closes = False

    def connection_made(self, transport: Any) -> None:  # uvloop's transports are none of asyncio's classes
        self.transport = transport
        self._closes = False

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self._received, self._missing, self._parts = b"", 0, []
        if self.busy:
            self._driver.done(self, CLOSED, b"")
        self._driver.lost(self)

    def send(self, number: int, request: bytes, due: float) -> None:
        assert self.transport is not None
        self.busy = True
        self.number, self.due = number, due
        self.sent = _now()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._missing -= len(data)
            if self._keep:
                self._parts.append(data)
        else:
            if self._received:
                data = self._received + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._received = data
                return
            head = data[: end + 2].lower()
            at = head.find(b"content-length: ") + 16
            if at < 16:
                raise ValueError(f"an answer without content-length: {head!r}")
            self._received = b""
            self._status = int(data[9:12])
            self._closes = b"connection: close" in head
            self._missing = int(head[at : head.find(b"\r", at)]) - (len(data) - end - 4)
            self._parts = [data[end + 4 :]] if self._keep else []
        if self._missing == 0 and self.busy:
            self._driver.done(self, self._status, b"".join(self._parts) if self._keep else b"")
            if not self._closes and self._driver.running:
                self._driver.free(self)


class _Alarm:
    """Calls back at a time, to some microseconds; uvloop's own timers know whole milliseconds."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._timer: int = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._timer < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._call = call
        asyncio.get_running_loop().add_reader(self._timer, self._ring)

    def at(self, seconds: float) -> None:
        """Call at that time of `perf_counter`, which is the monotonic clock."""
        nanoseconds = max(1, round(1e9 * seconds))
        setting = (ctypes.c_long * 4)(0, 0, *divmod(nanoseconds, 10**9))
        self._libc.timerfd_settime(self._timer, 1, setting, None)  # 1: an absolute time

    def close(self) -> None:
        if self._timer >= 0:
            asyncio.get_running_loop().remove_reader(self._timer)
            os.close(self._timer)
            self._timer = -1

    def _ring(self) -> None:
        os.read(self._timer, 8)
        self._call()


def _own_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def seconds_of(pids: Sequence[int]) -> float:
    """Processor time that processes have taken, in seconds; those that are gone count for nothing."""
    total = 0.0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total
