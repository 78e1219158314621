"""A model that predicts rows of a file: each row's masks follow from the seed and its index in the file alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mcdropout.catalogue.checks import RowsError
from mcdropout.catalogue.model import Model
from mcdropout.engine import Engine
from mcdropout.engine.arrays import Array, with_rows
from mcdropout.engine.errors import FailedRowsError, InvalidInputError
from mcdropout.engine.ragged import Batch, Rows, batches_of
from mcdropout.engine.statistics import Prediction, View
from mcdropout.engine.steps import Outcome
from mcdropout.engine.stopping import until
from mcdropout.scoring.chunks import Chunk, readable
from mcdropout.scoring.errors import ScoringError
from mcdropout.scoring.job import Passes

# Rows whose prefix runs at once: as many as have all their passes in one step, within these.
_FEWEST_ROWS, _MOST_ROWS = 64, 512
_FEW = 1  # passes, to see what an answer has


@dataclass(frozen=True)
class Scored:
    """What is known of the rows of a chunk.

    Attributes:
        first: the index in the file of the first.
        known: `[rows]`, which have an answer; of the others, values are void.
        passes: `[rows]`, how many each used.
        values: the statistics by their names, `[rows, ...]` each, or an array for each row where sizes differ.
        kept: the columns that come from the file.
    """

    first: int
    known: npt.NDArray[np.bool_]
    passes: npt.NDArray[np.int64]
    values: dict[str, Array | list[Array | None]]
    kept: dict[str, object]

    @property
    def skipped(self) -> int:
        """How many rows have no answer."""
        return int(np.count_nonzero(~self.known))


@dataclass(frozen=True)
class Scorer:
    """Predicts rows of a file.

    Attributes:
        model: which predicts.
        passes: that each row gets.
        seed: what the masks are drawn from.
        view: what of a prediction is shown.
        name: of the file, for messages.
        skip_bad: whether rows that cannot be used are left out, instead of ending it.
    """

    model: Model
    passes: Passes
    seed: int
    view: View
    name: str
    skip_bad: bool

    @cached_property
    def example(self) -> Prediction:
        """What is shown of the prediction for a row of the bundle's examples, to know which columns there are."""
        bundle, engine = self.model.bundle, self.model.engine
        rows = [with_rows(x, 1) for x in bundle.examples(1)]
        found = engine.predict(bundle.manifest.for_network(rows), min(_FEW, self.passes.most), seed=0)
        return self.view.of(found, engine.reading)

    @property
    def differs(self) -> bool:
        """Whether an answer's size may differ from row to row."""
        engine = self.model.engine
        return engine.sizing is not None and bool(engine.places) and self.view.reduction is None

    def score(self, chunk: Chunk) -> Scored:
        """Predict the rows of a chunk.

        Raises:
            RowsError: a row cannot be used, and is not to be skipped.
            ScoringError: the network fails for some rows.
        """
        found = readable(chunk, self._check, skip_bad=self.skip_bad)
        known = np.zeros(chunk.count, bool)
        passes = np.zeros(chunk.count, np.int64)
        values: dict[str, Array | list[Array | None]] = {}
        for rows, outcome in self._outcomes(found.inputs, found.places, chunk.first):
            shown = self.view.of(outcome.prediction, self.model.engine.reading)
            good = self._check_faults(chunk.first, rows, outcome)
            known[rows[good]] = True
            passes[rows[good]] = shown.passes[good]
            for name, value in shown.values.items():
                if value is not None:
                    self._put(values, name, value[good], rows[good], chunk.count)
        return Scored(chunk.first, known, passes, values, dict(chunk.kept))

    def _put(
        self,
        values: dict[str, Array | list[Array | None]],
        name: str,
        value: Array,
        rows: npt.NDArray[np.int64],
        count: int,
    ) -> None:
        if self.differs:
            listed = values.setdefault(name, [None] * count)
            for row, one in zip(rows.tolist(), value, strict=True):
                listed[row] = one
            return
        whole = values.setdefault(name, np.zeros((count, *value.shape[1:]), value.dtype))
        assert isinstance(whole, np.ndarray)
        whole[rows] = value

    def _check(self, inputs: tuple[Rows, ...]) -> None:
        """Raise RowsError where the sizes of a row's inputs do not go together."""
        sizing = self.model.engine.sizing
        if sizing is None:
            return
        try:
            for batch in batches_of(inputs, sizing):
                member = self.model.engine.at(batch.sizes)
                if self.view.reduction is not None:
                    self.view.check(member.reading, member.places)
        except InvalidInputError as error:
            raise RowsError(f"a row of {self.name} cannot be predicted: {error}") from error

    def _check_faults(self, first: int, rows: npt.NDArray[np.int64], outcome: Outcome) -> npt.NDArray[np.bool_]:
        """`[rows]`, which the network answered with something of use."""
        failed = outcome.failed
        if failed.any() and not self.skip_bad:
            place = int(np.flatnonzero(failed)[0])
            raise RowsError(f"{self.name}: {outcome.faults[place].of(first + int(rows[place]))}")
        return ~failed

    def _outcomes(
        self, inputs: tuple[Rows, ...], places: npt.NDArray[np.int64], first: int
    ) -> Iterator[tuple[npt.NDArray[np.int64], Outcome]]:
        """What was found of some rows at a time, with their places in the chunk."""
        if not len(places):
            return
        for engine, batch in self._batches(inputs):
            rows = places[batch.rows]
            most = min(_MOST_ROWS, max(_FEWEST_ROWS, engine.steps.most_pairs // max(1, self.passes.most)))
            for start in range(0, len(rows), most):
                block = slice(start, start + most)
                some = tuple(x[block] for x in batch.inputs)
                indices = (rows[block] + first).astype(np.uint64)
                try:
                    yield from self._run(engine, some, rows[block], indices)
                except FailedRowsError as error:
                    raise ScoringError(f"{self.name}, rows {indices[0]} to {indices[-1]}: {error}") from error

    def _batches(self, inputs: tuple[Rows, ...]) -> Sequence[tuple[Engine, Batch]]:
        engine = self.model.engine
        if engine.sizing is None:
            arrays = tuple(np.asarray(x) for x in inputs)
            return [(engine, Batch({}, np.arange(len(arrays[0]), dtype=np.int64), arrays))]
        return [(engine.at(batch.sizes), batch) for batch in batches_of(inputs, engine.sizing)]

    def _run(
        self, engine: Engine, inputs: tuple[Array, ...], rows: npt.NDArray[np.int64], indices: npt.NDArray[np.uint64]
    ) -> Iterator[tuple[npt.NDArray[np.int64], Outcome]]:
        seeds = np.full(len(rows), self.seed, np.uint64)
        if self.passes.tolerance is None:
            yield rows, engine.run(inputs, seeds, indices, self.passes.most)
            return
        for found, outcome in until(engine.steps, inputs, seeds, indices, self.passes.most, self.passes.tolerance):
            yield rows[found], outcome
