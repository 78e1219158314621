"""Admission: how much may wait for the engine, in rows, bytes and time, and what is told to requests beyond that."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from mcdropout.metrics import Metrics

_LEAST_WAIT, _MOST_WAIT = 1.0, 60.0  # seconds, of a client that is told to come back
_MEMORY_SECONDS = 1.0  # of steps, that a rate is taken from
_SMOOTHING = 0.1
_MOST_MODELS = 256  # that are remembered while nothing of theirs waits


class OverloadedError(Exception):
    """The request was not taken.

    Attributes:
        retry_after: in how many seconds it may be, by the rate of the steps now.
        reason: a short name.
    """

    def __init__(self, message: str, retry_after: float = _LEAST_WAIT, reason: str = "queue") -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.reason = reason


@dataclass(frozen=True)
class Limits:
    """What may be on its way; one request may in any case.

    Attributes:
        rows: how many rows.
        bytes: how much memory their inputs may take.
        seconds: how long their passes may take, by the rate of the steps now; None for any time.
    """

    rows: int
    bytes: int = 2**30
    seconds: float | None = None


@dataclass
class _Load:
    """What waits for a model, and how fast it goes.

    Attributes:
        passes: what waits, each of one row.
        auto_passes: how many a row takes that stops by itself; 0 where nothing tells.
    """

    passes: float = 0.0
    auto_passes: float = 0.0
    _rate: float = field(default=0.0, repr=False)
    _weight: float = field(default=0.0, repr=False)

    def learn(self, passes: int, seconds: float) -> None:
        """So many passes took so much time."""
        kept = math.exp(-seconds / _MEMORY_SECONDS)
        self._rate = self._rate * kept + passes / seconds * (1.0 - kept)
        self._weight = self._weight * kept + 1.0 - kept

    def seconds(self, passes: float) -> float:
        """How long so many passes take; 0 where nothing tells."""
        return passes * self._weight / self._rate if self._rate else 0.0


class _Waiting(NamedTuple):
    """What waits at one time: rows, the memory of their inputs, and how long their passes take."""

    rows: int
    bytes: int
    seconds: float


class Queue:
    """What is on its way. One thread at a time may change it; any may ask.

    Attributes:
        rows: how many rows.
        bytes: the memory of their inputs.
        seconds: how long their passes take, by the rate of the steps of the last second or so; what a request has
            behind it counts until it is answered.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        metrics.queue_rows_limit.set(limits.rows)
        self.rows = self.bytes = 0
        self.seconds = 0.0
        self._loads: dict[str, _Load] = {}
        self._asked: tuple[_Waiting | None, OverloadedError | None] = None, None

    def passes(self, model: str, rows: int, most: int, fewest: int | None, seconds: float | None) -> float:
        """The passes that a request is expected to take.

        Args:
            model: whose.
            rows: how many rows it has.
            most: the passes of each row, at most.
            fewest: where rows stop by themselves, the passes of each at least; else None.
            seconds: where it has to be answered in some time, that.
        """
        load = self._of(model)
        each = max(1, most) if fewest is None else min(most, max(fewest, load.auto_passes))
        expected = float(rows * each)
        if seconds is not None and (all_of_it := load.seconds(expected)) > (left := max(0.0, seconds)):
            expected *= left / all_of_it
        return expected

    def add(self, model: str, rows: int, size: int, passes: float) -> None:
        """Something came; or left, where the numbers are negative."""
        self.rows += rows
        self.bytes += size
        self._of(model).passes += passes
        self._metrics.queue_rows.set(self.rows)
        self._metrics.queue_bytes.set(self.bytes)
        self._reckon()

    def ran(self, model: str, passes: int, seconds: float) -> None:
        """Learn that so many passes of a model were run in so much time."""
        if passes and seconds > 0.0:
            self._of(model).learn(passes, seconds)
            self._reckon()

    def stopped(self, model: str, passes: float) -> None:
        """Learn how many passes rows took that stopped by themselves, on average."""
        load = self._of(model)
        load.auto_passes += (_SMOOTHING if load.auto_passes else 1.0) * (passes - load.auto_passes)

    @property
    def load(self) -> float:
        """How full it is, 0 to 1."""
        limits = self._limits
        spent = 0.0 if limits.seconds is None else self.seconds / limits.seconds
        return min(1.0, max(self.rows / limits.rows, self.bytes / limits.bytes, spent))

    def refusal(self, coming: int = 0) -> OverloadedError | None:
        """Why not one more row is taken, where `coming` are about to be taken before; None where one is."""
        rows = self.rows
        now = _Waiting(rows + coming, self.bytes, self.seconds * (rows + coming) / rows if rows else 0.0)
        known, error = self._asked
        if known != now:  # many ask between two steps
            one_more = now.seconds * (1.0 + 1.0 / now.rows) if now.rows else 0.0
            error = self._refusal(now, 1, 1, one_more)
            self._asked = now, error
        return error

    def refusal_of(self, model: str, rows: int, size: int, passes: float) -> OverloadedError | None:
        """Why a request of so many rows is not taken; None where it is."""
        now = _Waiting(self.rows, self.bytes, self.seconds)
        return self._refusal(now, rows, size, now.seconds + self._of(model).seconds(passes))

    def _refusal(self, now: _Waiting, rows: int, size: int, seconds: float) -> OverloadedError | None:
        limits = self._limits
        if not now.rows:
            return None
        retry_after = min(_MOST_WAIT, max(_LEAST_WAIT, now.seconds))
        if now.rows + rows > limits.rows or now.bytes + size > limits.bytes:
            told = f"{now.rows} rows wait already; {limits.rows} rows and {limits.bytes} bytes are accepted"
            return OverloadedError(told, retry_after)
        if limits.seconds is not None and seconds > limits.seconds:
            told = f"{now.rows} rows wait already, {seconds:.3g} s to go with these; {limits.seconds:g} s are accepted"
            return OverloadedError(told, retry_after, "wait")
        return None

    def _of(self, model: str) -> _Load:
        load = self._loads.get(model)
        if load is None:
            if len(self._loads) >= _MOST_MODELS:
                self._loads = {name: one for name, one in self._loads.items() if one.passes}
            load = self._loads[model] = _Load()
        return load

    def _reckon(self) -> None:
        if not self.rows:  # nor anything of theirs; what is left is rounding
            for load in self._loads.values():
                load.passes = 0.0
        self.seconds = sum(load.seconds(load.passes) for load in self._loads.values())
