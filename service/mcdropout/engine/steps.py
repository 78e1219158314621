"""Steps: some next passes of rows that may belong to many requests, run as one batch."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array, Frontier
from mcdropout.engine.cohort import Cohort
from mcdropout.engine.errors import EngineError, FailedRowsError
from mcdropout.engine.faults import described
from mcdropout.engine.masks import Undrawn
from mcdropout.engine.preparation import Prepared
from mcdropout.engine.runtimes import drawing_of
from mcdropout.engine.runtimes.protocol import run_passes
from mcdropout.engine.statistics import TASKS, Faults, Prediction, Statistics, deterministic
from mcdropout.engine.verify import run_pairs

STEP_BYTES = 64 * 2**20
"""The memory that one step may take, in bytes."""
_MOST_PAIRS = 4096
# Masks that all rows of a pass share are drawn for so many passes that they stay in the caches, in bytes.
_SHARED_BYTES = 8 * 2**20
_MOST_ROWS_KEPT = 4  # of a frontier, for each that is still needed


@dataclass(frozen=True)
class Outcome:
    """What was found for some rows.

    Attributes:
        prediction: the statistics of each row.
        samples: `[rows, passes, ...]`, where they were asked for.
        faults: `[rows]`, what of an output was of no use, such as NaN; None where nothing was. What the prediction says
            of such a row is void.
    """

    prediction: Prediction
    samples: npt.NDArray[np.float64] | None
    faults: Faults

    @property
    def failed(self) -> npt.NDArray[np.bool_]:
        """`[rows]`, which have a fault."""
        return self.faults.astype(bool)


@dataclass(frozen=True)
class Seconds:
    """Where the time of a step went; that of a suffix that draws its masks itself is all the suffix's."""

    masks: float
    suffix: float
    statistics: float


class _Answering:
    """While it is entered, what a network raises is told as an error of the engine: it has answered other rows.

    A class, since a function that yields takes ten times as long to enter.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, (EngineError, MemoryError)):
            raise FailedRowsError(
                f"the network fails for these rows: {described(error)}; rows that it was made for are accepted"
            ) from error


_ANSWERING = _Answering()


class Steps:
    """Runs a prepared network a step at a time. Thread-safe, but for a cohort, which is in one step at a time.

    Attributes:
        most_pairs: how many passes, each of one row, a step may take.
        shares_rows: whether rows of requests with different seeds may be run together.
    """

    def __init__(self, prepared: Prepared, step_bytes: int) -> None:
        self._source, self._runtime, self._baseline = prepared.source, prepared.runtime, prepared.baseline
        self._drawing = drawing_of(self._runtime)
        self._reading = prepared.reading
        self._states = TASKS[prepared.reading.task].states(prepared.reading)
        self._per_row = [value.per_row for value in prepared.outline.frontier]
        self.shares_rows = prepared.source.shares_rows
        self.most_pairs = max(1, min(_MOST_PAIRS, step_bytes // max(1, prepared.pair_bytes)))

    def most_passes(self, rows: int) -> int:
        """How many passes of so many rows a step may take; at least 1."""
        most = max(1, self.most_pairs // rows)
        return most if self.shares_rows else max(1, min(most, _SHARED_BYTES // self._source.shared_bytes))

    def admit(self, inputs: tuple[Array, ...]) -> Frontier:
        """What no mask touches, once a row. `inputs` are `[rows, ...]` each."""
        with _ANSWERING:
            return self._runtime.prefix(inputs)

    def cohort(
        self,
        frontier: Frontier,
        places: npt.NDArray[np.int64],
        seeds: npt.NDArray[np.uint64],
        indices: npt.NDArray[np.uint64],
        *,
        samples: bool = False,
    ) -> Cohort:
        """Rows that are about to begin.

        Args:
            frontier: as `admit` returned it.
            places: `[rows]`, which of its rows they are.
            seeds: `[rows]`, the seed of each row's request. They must be equal unless `shares_rows`.
            indices: `[rows]`, each row's index in its request.
            samples: whether to keep the samples, which takes memory for every pass.
        """
        return Cohort(frontier, places, seeds, indices, Statistics(self._reading, self._states), samples)

    def is_sparse(self, cohort: Cohort, needed: int) -> bool:
        """Whether so many rows are few of those of a cohort's frontier."""
        return needed * _MOST_ROWS_KEPT < self._rows_of(cohort.frontier)

    def compact(self, cohort: Cohort) -> None:
        """Let go of the frontier's rows that are not the cohort's: those may be done long before it is."""
        per_row = self._per_row or [True] * len(cohort.frontier)
        values = zip(cohort.frontier, per_row, strict=True)
        cohort.frontier = tuple(self._runtime.take(value, cohort.places) if own else value for value, own in values)
        cohort.places = np.arange(len(cohort), dtype=np.int64)

    def run(self, work: Sequence[tuple[Cohort, int]]) -> Seconds:
        """Run so many next passes of each of some cohorts: one step.

        Where rows cannot be shared, each cohort has to be of one request.
        """
        started = time.perf_counter()
        if not self.shares_rows:
            outputs = [self._run_apart(cohort, passes) for cohort, passes in work]
            ran = time.perf_counter()
            for (cohort, _), blocks in zip(work, outputs, strict=True):
                cohort.update(blocks)
            return Seconds(0.0, ran - started, time.perf_counter() - ran)
        masks = self._masks(work)
        drawing = self._drawing
        given = [] if drawing else masks.draw(overwrite=True)
        drawn = time.perf_counter()
        frontier, rows = self._gathered(work)
        with _ANSWERING:
            found = drawing(frontier, rows, masks) if drawing else self._runtime.suffix(frontier, rows, given)
        outputs = self._parted(found, work)
        ran = time.perf_counter()
        for (cohort, _), blocks in zip(work, outputs, strict=True):
            cohort.update(blocks)
        return Seconds(drawn - started, ran - drawn, time.perf_counter() - ran)

    def deterministic(self, inputs: tuple[Array, ...]) -> Outcome:
        """The baseline, in which nothing is dropped, of inputs `[rows, ...]`."""
        count = len(inputs[0])
        masks = self._source.baseline(count)
        with _ANSWERING:
            outputs = run_pairs(self._baseline, inputs, masks)
        prediction, faults = deterministic(self._reading, [out[:, None] for out in outputs])
        return Outcome(prediction, None, faults)

    def _masks(self, work: Sequence[tuple[Cohort, int]]) -> Undrawn:
        """Of all pairs."""
        if len(work) == 1:
            ((cohort, passes),) = work
            return self._source.undrawn(cohort.seeds, cohort.indices, cohort.passes, passes)
        cohorts = [cohort for cohort, _ in work]
        sizes = [len(cohort) for cohort in cohorts]
        seeds = np.concatenate([cohort.seeds for cohort in cohorts])
        indices = np.concatenate([cohort.indices for cohort in cohorts])
        firsts = np.repeat([cohort.passes for cohort in cohorts], sizes)
        counts = np.repeat([passes for _, passes in work], sizes)
        return self._source.undrawn(seeds, indices, firsts, counts)

    def _gathered(self, work: Sequence[tuple[Cohort, int]]) -> tuple[Frontier, npt.NDArray[np.int64]]:
        """One frontier for all cohorts, and which of its rows each pair takes."""
        if len(work) == 1:
            ((cohort, passes),) = work
            return cohort.frontier, cohort.places.repeat(passes)
        frontiers: list[Frontier] = []
        starts: list[int] = []
        taken: list[npt.NDArray[np.int64]] = []
        end = 0
        for cohort, passes in work:
            known = [index for index, frontier in enumerate(frontiers) if frontier is cohort.frontier]
            if not known:
                frontiers.append(cohort.frontier)
                starts.append(end)
                known = [len(starts) - 1]
                end += self._rows_of(cohort.frontier)
            taken.append(np.repeat(cohort.places + starts[known[0]], passes))
        rows = taken[0] if len(taken) == 1 else np.concatenate(taken)
        if len(frontiers) == 1:
            return frontiers[0], rows
        values = zip(*frontiers, strict=True)
        per_row = self._per_row or [True] * len(frontiers[0])
        join = self._runtime.join
        return tuple(join(parts) if own else parts[0] for parts, own in zip(values, per_row, strict=True)), rows

    def _rows_of(self, frontier: Frontier) -> int:
        per_row = self._per_row or [True] * len(frontier)
        return next((len(value) for value, own in zip(frontier, per_row, strict=True) if own), 0)

    @staticmethod
    def _parted(outputs: tuple[Array, ...], work: Sequence[tuple[Cohort, int]]) -> list[list[Array]]:
        """The outputs `[rows, passes, ...]` of each cohort."""
        parts: list[list[Array]] = []
        start = 0
        for cohort, passes in work:
            end = start + len(cohort) * passes
            parts.append([out[start:end].reshape(len(cohort), passes, *out.shape[1:]) for out in outputs])
            start = end
        return parts

    def _run_apart(self, cohort: Cohort, passes: int) -> list[Array]:
        """The outputs `[rows, passes, ...]` of one cohort, whose rows share masks."""
        drawn = self._source.draw_each(cohort.seeds, cohort.indices, cohort.passes, passes)
        with _ANSWERING:
            runs = run_passes(self._runtime, cohort.frontier, cohort.places, drawn)
        return [np.stack(outputs, axis=1) for outputs in zip(*runs, strict=True)]
