"""Admission: how much may wait for the engine, in rows, bytes and time, and what is told to requests beyond that."""

import math
from dataclasses import dataclass

from service.metrics import Metrics

_LEAST_WAIT, _MOST_WAIT = 1.0, 60.0  # seconds, of a client that is told to come back
_MEMORY_SECONDS = 1.0  # of work, that the rate is taken from


class OverloadedError(Exception):
    """The request was not taken.

    Attributes:
        retry_after: in how many seconds it may be, by the rate at which rows are answered now.
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
        seconds: how long these rows may take, by the rate at which rows are answered now; None for any time.
    """

    rows: int
    bytes: int = 2**30
    seconds: float | None = None


class Queue:
    """What is on its way. One thread at a time may change it; any may ask.

    Attributes:
        rows: how many rows.
        bytes: the memory of their inputs.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        self.rows = self.bytes = 0
        self._done_rows = self._done_seconds = 0.0

    def add(self, rows: int, size: int) -> None:
        """Something came; or left, where the numbers are negative."""
        self.rows += rows
        self.bytes += size
        self._metrics.queue_rows.set(self.rows)
        self._metrics.queue_bytes.set(self.bytes)

    def answered(self, rows: int, seconds: float) -> None:
        """Learn that so many rows were answered in so much time, in which there were some all along."""
        kept = math.exp(-seconds / _MEMORY_SECONDS)
        self._done_rows = self._done_rows * kept + rows
        self._done_seconds = self._done_seconds * kept + seconds

    def seconds(self, more: int = 0) -> float:
        """How long it takes until what is on its way, and so many rows more, is answered; 0 where nothing tells."""
        return (self.rows + more) * self._done_seconds / self._done_rows if self._done_rows else 0.0

    @property
    def load(self) -> float:
        """How full it is, 0 to 1."""
        limits = self._limits
        spent = 0.0 if limits.seconds is None else self.seconds() / limits.seconds
        return min(1.0, max(self.rows / limits.rows, self.bytes / limits.bytes, spent))

    def refusal(self, rows: int = 1, size: int = 1, coming: int = 0) -> OverloadedError | None:
        """Why a request is not taken; None where it is.

        Args:
            rows: how many rows it has.
            size: the memory of their inputs, in bytes.
            coming: how many rows are about to be taken before it.
        """
        limits, waiting = self._limits, self.rows + coming
        if not waiting:
            return None
        if waiting + rows > limits.rows or self.bytes + size > limits.bytes:
            told = f"{waiting} rows wait already; {limits.rows} rows and {limits.bytes} bytes are accepted"
            return OverloadedError(told, self._retry_after())
        if limits.seconds is not None and (wait := self.seconds(coming + rows)) > limits.seconds:
            told = f"{waiting} rows wait already, {wait:.3g} s to go with these; {limits.seconds:g} s are accepted"
            return OverloadedError(told, self._retry_after(), "wait")
        return None

    def _retry_after(self) -> float:
        return min(_MOST_WAIT, max(_LEAST_WAIT, self.seconds()))
