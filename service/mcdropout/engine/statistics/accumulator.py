"""The accumulator of all of a task's statistics, and the deterministic baseline."""

from collections.abc import Sequence

import numpy as np

from mcdropout.engine.arrays import Array
from mcdropout.engine.reading import Reading
from mcdropout.engine.statistics.block import Block, Floats, Rows
from mcdropout.engine.statistics.class_block import in_place
from mcdropout.engine.statistics.faults import Faults, faults_of
from mcdropout.engine.statistics.field import State, Summary
from mcdropout.engine.statistics.prediction import Prediction
from mcdropout.engine.statistics.running_moments import RunningMoments
from mcdropout.engine.statistics.tasks import TASKS, Task


class Statistics:
    """What the passes of some rows say.

    Attributes:
        task: which statistics there are.
    """

    def __init__(self, reading: Reading, states: Sequence[type[State]] | None = None) -> None:
        """
        Args:
            reading: what outputs mean.
            states: as `Task.states` gives them, for who makes many of the same reading.
        """
        self.task = TASKS[reading.task]
        self._reading = reading
        self._moments = RunningMoments()
        kinds = self.task.states(reading) if states is None else states
        self._states: dict[type[State], State] = {kind: kind() for kind in kinds}

    def update(self, outputs: Sequence[Array]) -> Block:
        """Take in the outputs `[rows, passes, ...]` of some passes, and return what they were read as."""
        block = self.task.read(outputs, self._reading)
        self._moments.update(block.moments)
        for state in self._states.values():
            state.update(block)
        return block

    def samples(self, block: Block) -> Floats:
        """The samples of what `update` returned, `[rows, passes, ...]`, with classes where the network has them."""
        return self.task.samples_of(block, self._reading)

    def faults(self, outputs: Sequence[Array], block: Block) -> Faults:
        """What is wrong with outputs that `update` returned this block of."""
        return faults_of(outputs, self._reading, block.wrong)

    def take(self, rows: Rows) -> "Statistics":
        """The same of some rows."""
        taken = Statistics(self._reading, list(self._states))
        if self._moments.count:
            taken._moments = self._moments.take(rows)
            taken._states = {kind: state.take(rows) for kind, state in self._states.items()}
        return taken

    def std_error(self, prior: Floats) -> Floats:
        """The standard error of each mean, `[rows, ...]`, as `RunningMoments.std_error` has it."""
        return np.ascontiguousarray(in_place(self._moments.std_error(prior), self._reading, 1))

    def prediction(self) -> Prediction:
        """Sum up the passes so far; there is at least one."""
        summary = Summary(self.task.by_name, self._reading, self._moments, self._states)
        return _summed_up(self.task, summary, len(self._moments.mean))


def deterministic(reading: Reading, outputs: Sequence[Array]) -> tuple[Prediction, Faults]:
    """The prediction of one pass without dropout, whose outputs are `[rows, 1, ...]`; and what is wrong with these."""
    task = TASKS[reading.task]
    block = task.read(outputs, reading)
    summary = Summary(task.by_name, reading, RunningMoments(), {}, block)
    return _summed_up(task, summary, len(outputs[0])), faults_of(outputs, reading, block.wrong)


def _summed_up(task: Task, summary: Summary, rows: int) -> Prediction:
    # Values in the order of their entries in memory, as those who write them want them.
    values: dict[str, Array | None] = {}
    for name, field in task.by_name.items():
        found = summary[name]
        if found is not None and field.per_class:
            found = in_place(found, summary.reading, 1)
        values[name] = None if found is None else np.ascontiguousarray(found)
    return Prediction(task.name, np.full(rows, summary.passes), values)
