"""The accumulator of all of a task's statistics, and the deterministic baseline."""

from collections.abc import Sequence

import numpy as np

from mcdropout.engine.arrays import Array
from mcdropout.engine.reading import Reading
from mcdropout.engine.statistics.block import Floats, Rows
from mcdropout.engine.statistics.class_block import in_place
from mcdropout.engine.statistics.faults import Faults
from mcdropout.engine.statistics.field import State, Summary
from mcdropout.engine.statistics.prediction import Prediction
from mcdropout.engine.statistics.running_moments import RunningMoments
from mcdropout.engine.statistics.tasks import TASKS, Task


class Statistics:
    """What the passes of some rows say.

    Attributes:
        task: which statistics there are.
    """

    def __init__(self, reading: Reading) -> None:
        self.task = TASKS[reading.task]
        self._reading = reading
        self._moments = RunningMoments()
        self._states: dict[type[State], State] = {kind: kind() for kind in self.task.states(reading)}

    def update(self, outputs: Sequence[Array]) -> Floats:
        """Take in the outputs `[rows, passes, ...]` of some passes, and return their samples, `[rows, passes, ...]`."""
        block = self.task.read(outputs, self._reading)
        self._moments.update(block.samples)
        for state in self._states.values():
            state.update(block)
        return self.task.samples_of(block, self._reading)

    def cleared(self, outputs: Sequence[Array]) -> tuple[list[Array], Faults]:
        """As `Task.cleared`."""
        return self.task.cleared(outputs, self._reading)

    def take(self, rows: Rows) -> "Statistics":
        """The same of some rows."""
        taken = Statistics(self._reading)
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


def deterministic(reading: Reading, outputs: Sequence[Array]) -> Prediction:
    """The prediction of one pass without dropout, whose outputs are `[rows, 1, ...]`."""
    task = TASKS[reading.task]
    summary = Summary(task.by_name, reading, RunningMoments(), {}, task.read(outputs, reading))
    return _summed_up(task, summary, len(outputs[0]))


def _summed_up(task: Task, summary: Summary, rows: int) -> Prediction:
    # Values in the order of their entries in memory, as those who write them want them.
    values: dict[str, Array | None] = {}
    for name, field in task.by_name.items():
        found = summary[name]
        if found is not None and field.per_class:
            found = in_place(found, summary.reading, 1)
        values[name] = None if found is None else np.ascontiguousarray(found)
    return Prediction(task.name, np.full(rows, summary.passes), values)
