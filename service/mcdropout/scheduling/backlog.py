"""Admission: how much may be on its way, in rows, bytes and time, and why a request beyond that is refused."""

import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from mcdropout.metrics import Metrics
from mcdropout.scheduling.clients import ANYBODY, Client
from mcdropout.scheduling.plan import Plan

_LEAST_WAIT, _MOST_WAIT = 1.0, 60.0  # seconds, after which a refused client is asked to come back
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


class TooCostlyError(ValueError):
    """A request's passes would take longer than those of any request may. The message says how long both take."""


@dataclass(frozen=True)
class Capacity:
    """How much may be on its way; one request may in any case, unless it is too costly.

    Attributes:
        rows: how many rows.
        bytes: how much memory their inputs may take.
        seconds: how long their passes may take, by the rate of the steps now; None for any time.
        request_seconds: how long those of one request may take, if it is run alone; None for any time.
        client_share: how much of that a client may have on its way that asks alone, 0 to 1. Each may have so many times
            as much as is still free, and so several leave room for one that comes anew, whatever they ask for (dynamic
            thresholds: Choudhury & Hahne 1998).
    """

    rows: int
    bytes: int = 2**30
    seconds: float | None = None
    request_seconds: float | None = None
    client_share: float = 1.0

    def part(self, rows: int, size: int, seconds: float) -> float:
        """How much of it so much takes; 1 is all."""
        spent = 0.0 if self.seconds is None else seconds / self.seconds
        return max(rows / self.rows, size / self.bytes, spent)


class Claim(NamedTuple):
    """What an admitted request takes of the backlog until it has ended.

    Attributes:
        model: the name of its model.
        rows: how many rows it has.
        bytes: the memory of their inputs.
        pairs: how many it is expected to take.
        seconds: how long they were expected to when it was admitted; 0 where nobody knew.
        client: the name of who asked.
    """

    model: str
    rows: int
    bytes: int
    pairs: float
    seconds: float = 0.0
    client: str = ""


@dataclass
class _Load:
    """What waits for a model, and how fast it goes.

    Attributes:
        pairs: how many wait.
        auto_passes: how many passes a row takes that stops by itself; 0 where none did yet.
        usual: how long a pair takes among many, in seconds; 0 where nobody knows.
    """

    pairs: float = 0.0
    auto_passes: float = 0.0
    usual: float = 0.0
    _rate: float = field(default=0.0, repr=False)
    _weight: float = field(default=0.0, repr=False)

    def learn(self, pairs: int, seconds: float) -> None:
        """Learn that so many pairs took so much time."""
        kept = math.exp(-seconds / _MEMORY_SECONDS)
        self._rate = self._rate * kept + pairs / seconds * (1.0 - kept)
        self._weight = self._weight * kept + 1.0 - kept

    def seconds(self, pairs: float) -> float:
        """How long so many pairs take; 0 where none ran yet and nobody knows.

        Where few ran of late, each took longer than one of many does.
        """
        known = [each for each in (self._weight / self._rate if self._rate else 0.0, self.usual) if each]
        return pairs * min(known, default=0.0)


class _Waiting(NamedTuple):
    """What waits at one time, of all or of a client.

    Attributes:
        rows: how many rows.
        bytes: the memory of their inputs.
        seconds: how long their passes take, by the rate of the steps now; 0 of a client's.
        claimed: how long that was expected when each was admitted, by which seconds are divided among clients.
    """

    rows: int
    bytes: int
    seconds: float
    claimed: float = 0.0

    def and_more(self, rows: int, size: int, claimed: float) -> "_Waiting":
        """With so much more, in so many seconds as before."""
        return _Waiting(self.rows + rows, self.bytes + size, self.seconds, self.claimed + claimed)


_NOTHING = _Waiting(0, 0, 0.0)


class Backlog:
    """How much is on its way: of requests that were admitted and have not ended. Every method is for any thread.

    Those that change it (`admit`, `release`, `ran`, `stopped`) hold its lock. Those that ask (`refusal` and the
    properties) take no lock: they read one snapshot, which never changes and is replaced as a whole.
    """

    def __init__(self, capacity: Capacity, metrics: Metrics) -> None:
        self._capacity, self._metrics = capacity, metrics
        metrics.queue_rows_limit.set(capacity.rows)
        self._lock = threading.Lock()
        self._loads: dict[str, _Load] = {}  # guarded by the lock
        self._now = _NOTHING  # replaced under the lock
        self._clients: dict[str, _Waiting] = {}  # what waits of each; set under the lock
        self._refused: tuple[_Waiting, int, OverloadedError | None] = self._now, 0, None
        self._refused_one: tuple[_Waiting, str, OverloadedError | None] = self._now, "", None  # of one client

    @property
    def rows(self) -> int:
        """How many rows are on their way."""
        return self._now.rows

    @property
    def seconds(self) -> float:
        """How long what is on its way takes, by the rate of the steps of the last second or so.

        What a request has behind it counts until it has ended.
        """
        return self._now.seconds

    @property
    def load(self) -> float:
        """How full the backlog is, 0 to 1."""
        now, capacity = self._now, self._capacity
        return min(1.0, capacity.part(now.rows, now.bytes, now.seconds))

    def refusal(self, coming: int = 0, client: Client = ANYBODY) -> OverloadedError | None:
        """Why not one more row of a client is admitted, where `coming` are about to be before; None where one is.

        All who ask between two changes get the same error: raise a copy of it, which has a traceback of its own.
        """
        now = self._now
        known, known_coming, error = self._refused
        if known is not now or known_coming != coming:  # many ask between two steps
            rows = now.rows + coming
            seconds = now.seconds * rows / now.rows if now.rows else 0.0
            one_more = seconds * (1.0 + 1.0 / rows) if rows else 0.0
            error = self._refusal(_Waiting(rows, now.bytes, seconds), 1, 1, one_more)
            self._refused = now, coming, error
        if error is not None or self._capacity.client_share >= 1.0:
            return error
        known, name, error = self._refused_one
        if known is not now or name != client.name:
            error = self._refusal_of(client, now, 1, 1, now.seconds / now.rows if now.rows else 0.0)
            self._refused_one = now, client.name, error
        return error

    def admit(
        self,
        model: str,
        rows: int,
        size: int,
        plan: Plan,
        now: float,
        *,
        seconds_a_pair: float = 0.0,
        client: Client = ANYBODY,
    ) -> Claim:
        """Count a request in.

        Args:
            model: the name of its model.
            rows: how many rows it has.
            size: the memory of their inputs, in bytes.
            plan: how many passes it gets.
            now: the time, by `time.perf_counter()`.
            seconds_a_pair: how long a pair takes among many, in seconds; 0 where nobody knows.
            client: who asks.

        Returns:
            What it takes of the backlog, which is to be released when it has ended.

        Raises:
            TooCostlyError: its passes take longer than those of any request may.
            OverloadedError: too much is on its way already.
        """
        with self._lock:
            load = self._load_of(model)
            load.usual = seconds_a_pair
            pairs = _expected_pairs(load, rows, plan, now)
            seconds = load.seconds(pairs)
            self._check_cost(seconds, rows, plan)
            waiting = self._now
            error = self._refusal(waiting, rows, size, waiting.seconds + seconds)
            error = error or self._refusal_of(client, waiting, rows, size, seconds)
            if error is not None:
                raise error
            load.pairs += pairs
            claim = Claim(model, rows, size, pairs, seconds, client.name)
            self._count([claim], 1)
        return claim

    def release(self, claims: Iterable[Claim]) -> None:
        """Count requests out that have ended."""
        with self._lock:
            ended = list(claims)
            for claim in ended:
                self._load_of(claim.model).pairs -= claim.pairs
            self._count(ended, -1)

    def ran(self, model: str, pairs: int, seconds: float) -> None:
        """Learn that so many pairs of a model were run in so much time."""
        if pairs and seconds > 0.0:
            with self._lock:
                self._load_of(model).learn(pairs, seconds)
                self._publish(self._now)

    def stopped(self, model: str, passes: float) -> None:
        """Learn how many passes rows took that stopped by themselves, on average."""
        with self._lock:
            load = self._load_of(model)
            load.auto_passes += (_SMOOTHING if load.auto_passes else 1.0) * (passes - load.auto_passes)

    def _check_cost(self, seconds: float, rows: int, plan: Plan) -> None:
        most = self._capacity.request_seconds
        if most is not None and seconds > most:
            passes = f"{plan.passes} passes" if plan.tolerance is None else "as many passes as each needs"
            raise TooCostlyError(
                f"{rows} rows with {passes} would take about {seconds:.3g} s here; {most:g} s are accepted: fewer rows "
                "or passes, or a deadline_ms"
            )

    def _refusal(self, now: _Waiting, rows: int, size: int, seconds: float) -> OverloadedError | None:
        """Why so many rows more are not admitted, after which what waits would take so many seconds."""
        capacity = self._capacity
        if not now.rows:
            return None
        retry_after = min(_MOST_WAIT, max(_LEAST_WAIT, now.seconds))
        if now.rows + rows > capacity.rows or now.bytes + size > capacity.bytes:
            detail = f"{now.rows} rows wait already; {capacity.rows} rows and {capacity.bytes} bytes are accepted"
            return OverloadedError(detail, retry_after)
        if capacity.seconds is not None and seconds > capacity.seconds:
            taken = f"{seconds:.3g} s to go with these; {capacity.seconds:g} s are accepted"
            return OverloadedError(f"{now.rows} rows wait already, {taken}", retry_after, "wait")
        return None

    def _load_of(self, model: str) -> _Load:
        """What waits for a model. With the lock."""
        load = self._loads.get(model)
        if load is None:
            if len(self._loads) >= _MOST_MODELS:
                self._loads = {name: one for name, one in self._loads.items() if one.pairs}
            load = self._loads[model] = _Load()
        return load

    def _refusal_of(
        self, client: Client, now: _Waiting, rows: int, size: int, seconds: float
    ) -> OverloadedError | None:
        """Why so many rows more of a client are not admitted, which take so many seconds, though there is room."""
        capacity, own = self._capacity, self._clients.get(client.name, _NOTHING)
        if capacity.client_share >= 1.0 or not own.rows:
            return None
        own_seconds = now.seconds * own.claimed / now.claimed if now.claimed else 0.0
        used = capacity.part(own.rows + rows, own.bytes + size, own_seconds + seconds)
        free = 1.0 - capacity.part(now.rows + rows, now.bytes + size, now.seconds + seconds)
        if used <= free * client.share * capacity.client_share / (1.0 - capacity.client_share):
            return None
        retry_after = min(_MOST_WAIT, max(_LEAST_WAIT, own_seconds))
        detail = f"{own.rows} rows of this client wait already, of {now.rows} of all; what is free is for others too"
        return OverloadedError(detail, retry_after, "share")

    def _count(self, claims: list[Claim], sign: int) -> None:
        """Let claims wait too, or, with the sign -1, no longer. With the lock."""
        now = self._now
        for claim in claims:
            more = sign * claim.rows, sign * claim.bytes, sign * claim.seconds
            now = now.and_more(*more)
            own = self._clients.get(claim.client, _NOTHING).and_more(*more)
            if own.rows:
                self._clients[claim.client] = own
            else:
                self._clients.pop(claim.client, None)
        self._publish(now)
        self._metrics.queue_rows.set(self._now.rows)
        self._metrics.queue_bytes.set(self._now.bytes)

    def _publish(self, now: _Waiting) -> None:
        """Replace the snapshot, with the time that the passes take now. With the lock."""
        if not now.rows:  # nor anything of theirs; what is left is rounding
            now = _NOTHING
            for load in self._loads.values():
                load.pairs = 0.0
        seconds = 0.0
        for load in self._loads.values():
            if load.pairs:
                seconds += load.seconds(load.pairs)
        self._now = _Waiting(now.rows, now.bytes, seconds, now.claimed)


def _expected_pairs(load: _Load, rows: int, plan: Plan, now: float) -> float:
    """How many pairs a request of so many rows is expected to take, by what those of its model took before."""
    most = plan.passes
    each = max(1, most) if plan.tolerance is None else min(most, max(plan.fewest, load.auto_passes))
    pairs = float(rows * each)
    if plan.deadline is not None:
        left, seconds = max(0.0, plan.deadline - now), load.seconds(pairs)
        if seconds > left:
            pairs *= left / seconds
    return pairs
