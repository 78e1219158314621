"""Workers: one engine a process, all behind one address, and the supervisor that starts them anew where they end.

The supervisor listens, and hands each connection to the ready worker that has the fewest. It keeps no request: after
that, client and worker talk to each other. Two ways without it were measured first, by how many of the connections that
a client opened at once, and kept, each of four workers got:

    connections   one socket, whoever wakes first   SO_REUSEPORT, by hash   handed over
    8             7 1 0 0                           4 3 1 0                 2 2 2 2
    100           84 15 1 0                         30 28 27 15             25 25 25 25

Neither knows which worker is still loading, or hangs; and a socket that is a worker's own takes with it, when that
worker ends, the connections that it had not come to yet. Handing one over took 0.3 ms of a client's time, once, and
0.13 ms of the supervisor's.

Imports no ONNX Runtime: the supervisor is small, and stays alive whatever a model does.
"""

import math
import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import structlog

from mcdropout import log
from mcdropout.machine import signal_or_status
from mcdropout.metrics import forget_process, record_start, restart_counter, share, shared_folder
from mcdropout.processes.listening import BACKLOG, address_of, listeners_of, scheme_of, stop_signals
from mcdropout.processes.outcome import say_ready
from mcdropout.processes.wire import (
    CONNECTION,
    ENDED,
    LEAVING,
    LET_GO,
    MODEL,
    READY,
    STARTED,
    TAKEN,
    Assignment,
)
from mcdropout.processes.worker_process import WorkerProcess, launch
from mcdropout.settings import Settings

_log = structlog.get_logger("workers")

_MOST_ACCEPTED = 64  # at once, before anything else is looked at
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0  # seconds before a worker is started again that keeps ending
_SETTLED_SECONDS = 10.0  # of a life that was no failure
_TRIES = 5
_WRONG_SETTINGS = 2  # the status of a worker that cannot serve what its settings name
_LEFT_SECONDS = 15.0  # beyond the time for requests, for a worker to end in


def supervise(settings: Settings) -> int:
    """Serve with a worker for each of the settings' devices, until a signal says to stop.

    Returns:
        The exit status: 0 after a signal; 1 where it cannot listen, or no worker stays alive; 2 where there is nothing
        to serve, and nothing that could come to be while the server runs.
    """
    log.configure(settings.log_format, settings.log_level)
    with ExitStack() as stack:
        listeners = listeners_of(settings)
        if listeners is None:
            return 1
        for listener in listeners:
            stack.enter_context(listener)
        try:
            folder = stack.enter_context(shared_folder())
        except OSError as error:
            _log.error("there is no folder for the metrics of several processes", error=str(error))
            return 1
        share(folder, "supervisor")
        record_start()
        return _Supervisor(settings, listeners, folder).run()


class _Supervisor:
    """Listens, hands over, restarts; in one thread, which never waits for a worker."""

    def __init__(self, settings: Settings, listeners: Sequence[socket.socket], metrics: Path) -> None:
        self._settings = settings
        self._listeners = listeners
        self._scheme = scheme_of(settings)
        self._metrics = metrics
        self._workers = [WorkerProcess(number, device) for number, device in enumerate(settings.devices, start=1)]
        self._restarts = restart_counter(str(worker.number) for worker in self._workers)
        self._selector = selectors.DefaultSelector()
        self._signals: deque[int] = deque()
        self._waiting: deque[socket.socket] = deque()  # accepted, but for nobody to take yet
        self._accepting = False
        self._others_started = False
        self._loaded_once = self._said_ready = False
        self._deadline = math.inf  # of the end, once a signal said to stop
        self._status: int | None = None

    def run(self) -> int:
        """Supervise until all workers have ended; the exit status."""
        woken, waker = socket.socketpair()
        for end in (woken, waker):
            end.setblocking(False)
        with woken, waker, self._selector:
            self._selector.register(woken, selectors.EVENT_READ)
            signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
            for number in (*stop_signals(), signal.SIGCHLD):
                signal.signal(number, lambda number, _: self._signals.append(number))
            _log.info("listening", urls=self._urls(), workers=len(self._workers))
            # The first one loads alone: what has to be compiled is compiled once, and the others find it.
            self._start(self._workers[0])
            while not self._done():
                self._turn(woken)
            signal.set_wakeup_fd(-1)
        return self._status or 0

    def _urls(self) -> list[str]:
        return [address_of(listener, self._scheme) for listener in self._listeners]

    def _turn(self, woken: socket.socket) -> None:
        """Wait until something happens, and see to it."""
        for key, _ in self._selector.select(self._timeout()):
            if isinstance(key.data, WorkerProcess):
                self._hear(key.data)
            elif key.fileobj is woken:
                with suppress(BlockingIOError):
                    woken.recv(4096)
            elif isinstance(key.fileobj, socket.socket):
                self._accept(key.fileobj)
        while self._signals:
            number = self._signals.popleft()
            if number != signal.SIGCHLD:
                self._stop(number)
        now = time.monotonic()
        for worker in self._workers:
            if worker.process is not None and worker.process.poll() is not None:
                self._ended(worker, worker.process.returncode)
            if worker.due is not None and worker.due <= now:
                self._restarts.labels(worker.number).inc()
                self._start(worker)
        if now >= self._deadline:
            self._kill()
        self._listen_or_not()

    def _timeout(self) -> float | None:
        times = [worker.due for worker in self._workers if worker.due is not None]
        first = min([*times, self._deadline])
        return None if first == math.inf else max(0.0, first - time.monotonic())

    def _done(self) -> bool:
        return self._stopping and all(worker.process is None for worker in self._workers)

    @property
    def _stopping(self) -> bool:
        return self._status is not None

    def _start(self, worker: WorkerProcess) -> None:
        settings = self._settings.model_copy(update={"device": worker.device, "workers": len(self._workers)})
        assignment = Assignment(settings, worker.number, os.getpid(), self._metrics)
        worker.due = None
        worker.models = 0
        worker.begun = time.monotonic()
        try:
            worker.process, worker.channel = launch(assignment)
        except OSError as error:  # the machine has no more processes, memory or files
            self._failed(worker, f"before it began: {error}")
            return
        self._selector.register(worker.channel, selectors.EVENT_READ, worker)
        _log.info("worker started", worker=worker.number, pid=worker.process.pid, device=worker.device)

    def _start_others(self) -> None:
        if not self._others_started and not self._stopping:
            self._others_started = True
            for worker in self._workers[1:]:
                self._start(worker)

    def _hear(self, worker: WorkerProcess) -> bool:
        """Take in what a worker has sent; whether it had sent anything."""
        if worker.channel is None:
            return False
        try:
            received = worker.channel.recv(4096)
        except BlockingIOError:
            return False
        except OSError:
            received = b""
        if not received:
            self._hang_up(worker)
        for code in received:
            what = bytes([code])
            if what == TAKEN:
                worker.untaken.popleft()[1].close()
            elif what == ENDED:
                worker.connections -= 1
            elif what == MODEL:
                worker.models += 1
            elif what == LEAVING:
                worker.stage = None
            else:
                self._advanced(worker, what)
        return bool(received)

    def _advanced(self, worker: WorkerProcess, stage: bytes) -> None:
        """A worker is further than it was, or no longer ready."""
        joins = stage == READY and worker.stage != READY
        worker.stage = stage
        if stage == STARTED:
            return
        self._loaded_once = True
        self._start_others()
        if joins:
            _log.info("worker ready", worker=worker.number, seconds=round(time.monotonic() - worker.begun, 3))
            self._say_ready()
            self._level()

    def _say_ready(self) -> None:
        """Say that the server is ready, once: when each worker is, but for those that have failed meanwhile."""
        ready = [worker for worker in self._workers if worker.stage == READY]
        if self._said_ready or not ready or any(x.stage != READY and not x.failures for x in self._workers):
            return
        self._said_ready = True
        say_ready(self._urls(), min(worker.models for worker in ready), workers=len(ready))

    def _level(self) -> None:
        """Let workers that have more than their share of connections close some, so that clients open them anew.

        Clients keep theirs for as long as they can: without this, one that starts again would find no work.
        """
        ready = [worker for worker in self._workers if worker.stage == READY]
        share_of_each = math.ceil(sum(worker.connections for worker in ready) / len(ready))
        for worker in ready:
            if worker.connections > share_of_each:
                worker.send(LET_GO * (worker.connections - share_of_each))

    def _listen_or_not(self) -> None:
        """Accept where a worker can take a connection; until then they wait in the kernel's queue."""
        while self._waiting and any(worker.takes for worker in self._workers):
            self._hand_over(self._waiting.popleft())
        wanted = not self._stopping and any(worker.takes for worker in self._workers)
        if wanted != self._accepting:
            self._accepting = wanted
            for listener in self._listeners:
                if wanted:
                    self._selector.register(listener, selectors.EVENT_READ)
                else:
                    self._selector.unregister(listener)

    def _accept(self, listener: socket.socket, most: int = _MOST_ACCEPTED, last: bool = False) -> None:
        """Accept connections and hand them over; `last` ones whether or not a worker has many to take already."""
        for _ in range(most):
            if not last and not any(worker.takes for worker in self._workers):
                return
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                return
            except ConnectionError:  # the client has gone already
                continue
            except OSError as error:
                _log.error("a connection cannot be accepted", error=str(error))
                time.sleep(0.01)  # there may be too many open files, on the machine; then there is no hurry
                return
            self._hand_over(connection, last)

    def _hand_over(self, connection: socket.socket, last: bool = False) -> None:
        """Hand a connection to a worker, and keep it until that has it: one that ends before has not read from it."""
        now = time.monotonic()
        takers = [worker for worker in self._workers if worker.takes or (last and worker.stage is not None)]
        for worker in sorted(takers, key=lambda x: x.rank(now)):
            if worker.send(CONNECTION, connection):
                worker.connections += 1
                worker.untaken.append((now, connection))
                worker.handed = now
                return
            worker.stage = None  # it is ending; what is left to know comes with its status
        if self._stopping:
            connection.close()
        else:
            self._waiting.append(connection)

    def _hang_up(self, worker: WorkerProcess) -> None:
        """Hear no more of a worker, whose end of the channel is closed; others get what it has not taken."""
        if worker.channel is not None:
            self._selector.unregister(worker.channel)
            worker.channel.close()
            worker.channel = None
        worker.stage = None
        worker.connections = 0
        untaken, worker.untaken = worker.untaken, deque()
        for _, connection in untaken:
            self._hand_over(connection)

    def _ended(self, worker: WorkerProcess, status: int) -> None:
        """A worker's process is no more."""
        while self._hear(worker):
            pass
        self._hang_up(worker)
        worker.process = None
        forget_process(self._metrics, str(worker.number))
        lived = time.monotonic() - worker.begun
        if self._stopping:
            # Before it has set its handlers, a signal ends it at once.
            if status not in (0, -signal.SIGTERM, -signal.SIGINT):
                _log.error("worker did not stop well", worker=worker.number, how=signal_or_status(status))
                self._status = self._status or 1
            return
        if lived > _SETTLED_SECONDS:
            worker.failures = 0
        if status == _WRONG_SETTINGS and not self._loaded_once:
            self._give_up(worker, signal_or_status(status), _WRONG_SETTINGS)
        else:
            self._failed(worker, signal_or_status(status))

    def _failed(self, worker: WorkerProcess, how: str) -> None:
        """Start a worker again, the later the more often that was in vain; or give up, where no other is left."""
        worker.failures += 1
        rivals = self._workers if self._others_started else [worker]
        if all(x.process is None and x.failures >= _TRIES for x in rivals):
            self._give_up(worker, how, 1)
            return
        delay = 0.0 if worker.failures == 1 else min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** (worker.failures - 2))
        worker.due = time.monotonic() + delay
        _log.error("worker ended, and is started again", worker=worker.number, how=how, delay_seconds=delay)
        self._say_ready()
        self._start_others()  # whatever keeps this one from loading may be its device's own

    def _give_up(self, worker: WorkerProcess, how: str, status: int) -> None:
        _log.error("no worker stays alive", worker=worker.number, how=how, failures=worker.failures)
        self._end(status)

    def _stop(self, number: int) -> None:
        if self._stopping:  # a second signal: whoever sent it means it
            self._signal(number)
            return
        _log.info("stopping", signal=signal.Signals(number).name)
        for listener in self._listeners:  # these clients have been let in already
            self._accept(listener, BACKLOG, last=True)
            self._forget(listener)
        self._end(0)

    def _end(self, status: int) -> None:
        """Let all workers end; `status` is to be the supervisor's own."""
        for listener in self._listeners:
            self._forget(listener)
        self._accepting = False
        for connection in self._waiting:
            connection.close()
        self._waiting.clear()
        self._status = status
        self._deadline = time.monotonic() + self._settings.grace_seconds + _LEFT_SECONDS
        for worker in self._workers:
            worker.due = None
            if worker.channel is not None:
                with suppress(OSError):
                    worker.channel.shutdown(socket.SHUT_WR)
        self._signal(signal.SIGTERM)

    def _forget(self, listener: socket.socket) -> None:
        """Listen no more, at once: who comes between the last that was accepted and this is reset."""
        if listener.fileno() >= 0:
            if self._accepting:
                self._selector.unregister(listener)
            listener.close()

    def _signal(self, number: int) -> None:
        for worker in self._workers:
            if worker.process is not None:
                worker.process.send_signal(number)

    def _kill(self) -> None:
        self._deadline = math.inf
        for worker in self._workers:
            if worker.process is not None:
                _log.error("worker does not stop, and is killed", worker=worker.number)
                worker.process.kill()
