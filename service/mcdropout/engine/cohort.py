"""Cohorts: rows that go through their passes side by side, whoever asked for them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array, Frontier
from mcdropout.engine.statistics import Faults, Prediction, Rows, Statistics, none_of


class Cohort:
    """Rows that have had the same passes, and what these said.

    Attributes:
        frontier: what the prefix gave for them, and maybe for others.
        places: `[rows]`, which rows of the frontier are theirs.
        seeds: `[rows]`, the seed of each row's request.
        indices: `[rows]`, each row's index in its request.
        passes: how many passes they have had.
        statistics: what those said.
        faults: `[rows]`, what of an output was of no use, such as NaN; None where nothing was.
        samples: of each block of passes; None where they are not kept.
    """

    def __init__(
        self,
        frontier: Frontier,
        places: npt.NDArray[np.int64],
        seeds: npt.NDArray[np.uint64],
        indices: npt.NDArray[np.uint64],
        statistics: Statistics,
        keep_samples: bool = False,
    ) -> None:
        self.frontier, self.places = frontier, places
        self.seeds, self.indices = seeds, indices
        self.passes = 0
        self.statistics = statistics
        self.faults: Faults = none_of(len(places))
        self.samples: list[npt.NDArray[np.float64]] | None = [] if keep_samples else None

    def __len__(self) -> int:
        return len(self.places)

    def update(self, outputs: Sequence[Array]) -> None:
        """Take in the outputs `[rows, passes, ...]` of its next passes."""
        block = self.statistics.update(outputs)
        if block.wrong is not None:
            faults = self.statistics.faults(outputs, block)
            for row in faults.nonzero()[0]:
                self.faults[row] = self.faults[row] or faults[row]
        if self.samples is not None:
            self.samples.append(self.statistics.samples(block))
        self.passes += outputs[0].shape[1]

    def take(self, rows: Rows) -> "Cohort":
        """Some of its rows, which go on without the others."""
        taken = Cohort(
            self.frontier, self.places[rows], self.seeds[rows], self.indices[rows], self.statistics.take(rows)
        )
        taken.passes, taken.faults = self.passes, self.faults[rows]
        if self.samples is not None:
            taken.samples = [block[rows] for block in self.samples]
        return taken

    def prediction(self) -> Prediction:
        """What its passes say so far; there is at least one."""
        return self.statistics.prediction()

    def all_samples(self) -> npt.NDArray[np.float64] | None:
        """`[rows, passes, ...]`, where they are kept."""
        return None if self.samples is None else np.concatenate(self.samples, axis=1)
