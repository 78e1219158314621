"""Groups: rows of requests that go through their passes side by side, until each has what it needs."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mcdropout.engine.cohort import Cohort
from mcdropout.engine.statistics import Rows, take
from mcdropout.engine.steps import Outcome
from mcdropout.engine.stopping import PRIOR, is_look, next_look
from mcdropout.scheduling.answer import Part
from mcdropout.scheduling.clients import Client, Ticket
from mcdropout.scheduling.request import Request


@dataclass(eq=False)
class Group:
    """Rows of one or more requests that go through their passes side by side.

    Attributes:
        cohort: the rows.
        requests: whose they are.
        owners: `[rows]`, which of `requests` each belongs to.
        rows: `[rows]`, each row's index in its request.
        ticket: its place in the order of turns.
    """

    cohort: Cohort
    requests: list[Request]
    owners: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    ticket: Ticket = (0.0, 0)

    def __post_init__(self) -> None:
        plan = self.requests[0].plan
        self.passes, self.fewest = plan.passes, plan.fewest
        self._stops = plan.tolerance is not None
        self._hurries = plan.deadline is not None

    @property
    def left(self) -> int:
        """The passes that its rows lack at most."""
        return self.passes - self.cohort.passes

    @property
    def clients(self) -> dict[Client, int]:
        """Whose rows they are: how many each client has."""
        found: dict[Client, int] = {}
        counts = np.bincount(self.owners, minlength=len(self.requests)).tolist()
        for request, rows in zip(self.requests, counts, strict=True):
            found[request.client] = found.get(request.client, 0) + rows
        return found

    def drop(self, keep: npt.NDArray[np.bool_]) -> None:
        """Go on with some rows only, and keep no requests but theirs."""
        kept, owners = np.unique(self.owners[keep], return_inverse=True)
        cohort, rows = self.cohort.take(keep), self.rows[keep]  # where memory is short, before anything is changed
        self.requests = [self.requests[owner] for owner in kept.tolist()]
        self.owners, self.cohort, self.rows = owners, cohort, rows

    def drop_ended(self) -> None:
        """Let go of the rows whose requests nobody awaits any more."""
        awaited = np.array([request.awaited for request in self.requests], bool)
        if not awaited.all():
            self.drop(awaited[self.owners])

    def finished(self, now: float) -> npt.NDArray[np.bool_]:
        """Which rows need no more passes."""
        count = len(self.cohort)
        if not self.left:
            return np.ones(count, bool)
        done = np.zeros(count, bool)
        if self.cohort.passes < self.fewest:
            return done
        if self._stops and is_look(self.cohort.passes, self.fewest):
            tolerances = self._of_each([request.plan.tolerance for request in self.requests])
            errors = self._std_errors().reshape(count, -1).max(axis=1)
            done |= errors <= tolerances
        if self._hurries:
            done |= self._of_each([request.plan.deadline for request in self.requests]) <= now
        return done

    def late(self, now: float) -> list[Request]:
        """The awaited requests whose deadline has come, though their rows lack the fewest passes."""
        if not self._hurries or self.cohort.passes >= self.fewest:
            return []
        return [request for request in self.requests if request.is_late(now) and request.awaited]

    def next_passes(self, most: int) -> int:
        """How many passes it takes in its next turn, of at most so many.

        Rows that may stop by themselves are looked at after the same numbers of passes whatever shares their steps, so
        that the same seed gives the same answer.
        """
        most = min(most, self.left)
        return min(most, next_look(self.cohort.passes, self.fewest) - self.cohort.passes) if self._stops else most

    def parts(self, rows: Rows) -> Iterable[tuple[Request, Part]]:
        """What was found of some rows, for each request."""
        cohort = self.cohort if isinstance(rows, slice) else self.cohort.take(rows)
        prediction = cohort.prediction()
        if self._stops:
            prediction = replace(prediction, values={**prediction.values, "std_error": self._std_errors()[rows]})
        outcome = Outcome(prediction, cohort.all_samples(), cohort.faults)
        return split_by_owner(self.requests, self.owners[rows], self.rows[rows], outcome)

    def _std_errors(self) -> npt.NDArray[np.float64]:
        tolerances = self._of_each([request.plan.tolerance for request in self.requests])
        return self.cohort.statistics.std_error(PRIOR * tolerances)

    def _of_each(self, values: list[float | None]) -> npt.NDArray[np.float64]:
        """A value of each request, for each row."""
        return np.array([np.inf if value is None else value for value in values])[self.owners]


def split_by_owner(
    requests: list[Request], owners: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], outcome: Outcome
) -> Iterable[tuple[Request, Part]]:
    """What was found of rows, a request at a time; rows of one request are next to one another."""
    if len(requests) == 1:
        yield requests[0], Part(rows, outcome.prediction, outcome.samples, outcome.faults)
        return
    starts = np.flatnonzero(np.diff(owners, prepend=-1)).tolist()
    for start, end in zip(starts, [*starts[1:], len(owners)], strict=True):
        some = slice(start, end)
        samples = None if outcome.samples is None else outcome.samples[some]
        yield requests[owners[start]], Part(rows[some], take(outcome.prediction, some), samples, outcome.faults[some])
