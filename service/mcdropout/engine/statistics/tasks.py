"""Tasks: how each reads a network's outputs, and which statistics its answer has, in that order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array
from mcdropout.engine.reading import Reading
from mcdropout.engine.statistics.block import Block, not_finite
from mcdropout.engine.statistics.class_block import read_logits
from mcdropout.engine.statistics.entropy import ENTROPY
from mcdropout.engine.statistics.expected_entropy import EXPECTED_ENTROPY
from mcdropout.engine.statistics.field import Field, State
from mcdropout.engine.statistics.gaussian_entropy import GAUSSIAN_ENTROPY
from mcdropout.engine.statistics.interval import INTERVAL
from mcdropout.engine.statistics.label import LABEL
from mcdropout.engine.statistics.moments import (
    CLASS_MEAN,
    CLASS_STD_ERROR,
    CLASS_VARIANCE,
    EPISTEMIC_VARIANCE,
    VALUE_MEAN,
    VALUE_STD_ERROR,
)
from mcdropout.engine.statistics.mutual_information import MUTUAL_INFORMATION
from mcdropout.engine.statistics.noise import ALEATORIC_VARIANCE, TOTAL_VARIANCE
from mcdropout.engine.statistics.value_block import read_values, unusable_values
from mcdropout.engine.statistics.variation_ratio import VARIATION_RATIO


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: in Python, JSON and `model.yaml`.
        read: the block of the outputs `[rows, passes, ...]` of some passes.
        unusable: `[rows]`, whether such outputs hold what no statistic can use.
        row: what an answer's row is, for the API's documentation.
        samples: what the samples are, for the API's documentation.
        fields: what an answer has for each row, in its order.
    """

    name: str
    read: Callable[[Sequence[Array], Reading], Block]
    unusable: Callable[[Sequence[Array]], npt.NDArray[np.bool_]]
    row: str
    samples: str
    fields: tuple[Field, ...]

    @cached_property
    def by_name(self) -> dict[str, Field]:
        """Its fields by their names."""
        return {field.name: field for field in self.fields}

    def states(self, reading: Reading) -> list[type[State]]:
        """What has to gather the passes for its fields, each once, where outputs mean that."""
        wanted = (field.state for field in self.fields if field.state is not None and field.known_for(reading))
        return list(dict.fromkeys(wanted))

    def described(self) -> list[dict[str, str | None]]:
        """Its statistics, for people and programs that ask what an answer holds."""
        return [{"name": field.name, "description": field.description, "unit": field.unit} for field in self.fields]

    def cleared(self, outputs: Sequence[Array]) -> tuple[list[Array], npt.NDArray[np.bool_]]:
        """Outputs `[rows, passes, ...]` with 0 in the rows that are unusable, and `[rows]`, which these are."""
        wrong = self.unusable(outputs)
        if not wrong.any():
            return list(outputs), wrong
        return [np.where(wrong.reshape(-1, *[1] * (output.ndim - 1)), 0, output) for output in outputs], wrong


TASKS = {
    task.name: task
    for task in (
        Task(
            "classification",
            read_logits,
            not_finite,
            "One row's classes. Null: what a deterministic pass (mc=0), or a single one (variance), cannot tell.",
            "Class probabilities of each pass",
            (
                LABEL,
                CLASS_MEAN,
                CLASS_VARIANCE,
                CLASS_STD_ERROR,
                ENTROPY,
                EXPECTED_ENTROPY,
                MUTUAL_INFORMATION,
                VARIATION_RATIO,
            ),
        ),
        Task(
            "regression",
            read_values,
            unusable_values,
            "One row's values. Null: what a deterministic pass, or a network that knows no noise, cannot tell.",
            "Predicted mean of each pass",
            (
                VALUE_MEAN,
                TOTAL_VARIANCE,
                VALUE_STD_ERROR,
                EPISTEMIC_VARIANCE,
                ALEATORIC_VARIANCE,
                GAUSSIAN_ENTROPY,
                INTERVAL,
            ),
        ),
    )
}
"""The tasks by their names."""

_TAKEN = ("task", "passes", "values", "seed", "samples")  # by a prediction, and by an answer


def register(task: str, field: Field) -> None:
    """Let a task's answers have another field, the last one. Before any model of the task is loaded.

    Raises:
        ValueError: there is no such task, or its answers have a field of that name.
    """
    if task not in TASKS:
        raise ValueError(f"there is no task {task!r} for the field {field.name!r}; one of {list(TASKS)} is accepted")
    taken = [*_TAKEN, *TASKS[task].by_name]
    if field.name in taken or not field.name.isidentifier():
        raise ValueError(f"a field of {task} is named {field.name!r}; an identifier other than {taken} is accepted")
    TASKS[task] = replace(TASKS[task], fields=(*TASKS[task].fields, field))
