"""A step: what it is to do, what it did, and whom it ended."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array
from mcdropout.engine.steps import Outcome
from mcdropout.scheduling.group import Group
from mcdropout.scheduling.request import Request


class Beginning:
    """Rows that begin in a step, of requests whose rows can go through their passes side by side.

    Attributes:
        requests: whose rows they are.
        slices: of each request, the first of its rows that begin and the one behind the last.
        rows: how many rows.
        passes: how many passes each takes in the step; 0 for the baseline.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.slices: list[tuple[int, int]] = []
        self.rows = 0
        self.passes = 0

    def add(self, request: Request, rows: int) -> None:
        """Let so many more rows of a request begin."""
        first, end = request.admit(rows)
        if self.requests and self.requests[-1] is request:
            self.slices[-1] = self.slices[-1][0], end
        else:
            self.requests.append(request)
            self.slices.append((first, end))
        self.rows += rows

    def inputs(self) -> list[tuple[Array, ...]]:
        """Of each request, the inputs of the rows that begin."""
        return [
            tuple(x[first:end] for x in request.inputs)
            for request, (first, end) in zip(self.requests, self.slices, strict=True)
        ]

    def members(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Which of the requests each row belongs to, and its index in what was asked for, `[rows]` each."""
        counts = [end - first for first, end in self.slices]
        owners = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        return owners, np.concatenate(
            [request.indices_of(*part) for request, part in zip(self.requests, self.slices, strict=True)]
        )


def joined(beginnings: Iterable[Beginning]) -> tuple[Array, ...]:
    """The inputs of all rows that begin, behind one another."""
    pieces = [piece for one in beginnings for piece in one.inputs()]
    return pieces[0] if len(pieces) == 1 else tuple(np.concatenate(parts) for parts in zip(*pieces, strict=True))


@dataclass(eq=False)
class Step:
    """What a step is to do.

    Attributes:
        going: groups that go on, and how many passes each takes.
        beginnings: rows that begin, by what tells which can go through their passes side by side.
        deterministic: rows of the baseline.
        requests: whose rows are in it, each once; known when all turns are planned.
    """

    going: list[tuple[Group, int]] = field(default_factory=list)
    beginnings: dict[tuple[object, ...], Beginning] = field(default_factory=dict)
    deterministic: Beginning = field(default_factory=Beginning)
    requests: list[Request] = field(default_factory=list)

    @property
    def begun(self) -> int:
        """How many rows begin."""
        return self.deterministic.rows + sum(one.rows for one in self.beginnings.values())

    def members(self) -> list[Request]:
        """Whose rows are in it now, each once."""
        beginning = [request for one in (*self.beginnings.values(), self.deterministic) for request in one.requests]
        return list(dict.fromkeys([*beginning, *(request for group, _ in self.going for request in group.requests)]))


@dataclass(frozen=True)
class StepReport:
    """What a step did.

    Attributes:
        rows: how many rows were in it.
        pairs: how many passes they took, summed.
        seconds: how long each stage took.
        started: when it began, by `time.perf_counter()`.
        worked: how long the thread that ran it had worked when it began, by `time.thread_time()`.
        groups: the groups that had passes.
        baseline: what was found of the rows of the baseline; None where there were none.
    """

    rows: int
    pairs: int
    seconds: dict[str, float]
    started: float
    worked: float
    groups: list[Group]
    baseline: Outcome | None


@dataclass(frozen=True)
class Settlement:
    """Whom a step ended, or a deadline.

    Attributes:
        finished: requests all of whose rows are done.
        late: requests whose deadline came before each of their rows had the fewest passes, each once.
    """

    finished: list[Request]
    late: list[Request]
