"""Tasks: how each reads a network's outputs, and which statistics its answer has, in that order."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from mcdropout.engine.arrays import Array
from mcdropout.engine.reading import Reading
from mcdropout.engine.statistics.bernoulli_block import BernoulliBlock
from mcdropout.engine.statistics.block import Block, Floats
from mcdropout.engine.statistics.class_block import ClassBlock, in_place
from mcdropout.engine.statistics.entropy import ENTROPY, LABEL_ENTROPY
from mcdropout.engine.statistics.expected_entropy import EXPECTED_ENTROPY, LABEL_EXPECTED_ENTROPY
from mcdropout.engine.statistics.field import Field, State
from mcdropout.engine.statistics.gaussian_entropy import GAUSSIAN_ENTROPY
from mcdropout.engine.statistics.interval import INTERVAL
from mcdropout.engine.statistics.joint import JOINT_ENTROPY, JOINT_EXPECTED_ENTROPY, JOINT_MUTUAL_INFORMATION
from mcdropout.engine.statistics.label import BINARY_LABEL, LABEL, LABELS
from mcdropout.engine.statistics.moments import (
    CLASS_MEAN,
    CLASS_STD_ERROR,
    CLASS_VARIANCE,
    EPISTEMIC_VARIANCE,
    LABEL_MEAN,
    LABEL_STD_ERROR,
    LABEL_VARIANCE,
    VALUE_MEAN,
    VALUE_STD_ERROR,
)
from mcdropout.engine.statistics.mutual_information import MUTUAL_INFORMATION
from mcdropout.engine.statistics.noise import ALEATORIC_VARIANCE, TOTAL_VARIANCE
from mcdropout.engine.statistics.predicted_quantiles import PREDICTED_QUANTILES
from mcdropout.engine.statistics.value_block import read_values
from mcdropout.engine.statistics.variation_ratio import LABEL_VARIATION_RATIO, VARIATION_RATIO


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: in Python, JSON and `model.yaml`.
        read: the block of the outputs `[rows, passes, ...]` of some passes.
        row: what an answer's row is, for the API's documentation.
        samples: what the samples are, for the API's documentation.
        fields: what an answer has for each row, in its order.
        options: the attributes of a reading that it heeds, by the names that model.yaml and answers have for them.
    """

    name: str
    read: Callable[[Sequence[Array], Reading], Block]
    row: str
    samples: str
    fields: tuple[Field, ...]
    options: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def by_name(self) -> dict[str, Field]:
        """Its fields by their names."""
        return {one.name: one for one in self.fields}

    @cached_property
    def histograms(self) -> dict[str, str]:
        """By the names of its fields that are counted in histograms, which ones."""
        return {one.name: one.histogram for one in self.fields if one.histogram is not None}

    @cached_property
    def leading(self) -> tuple[str, ...]:
        """The names of its fields that an answer has first of all."""
        return tuple(one.name for one in self.fields if one.leads)

    @cached_property
    def class_fields(self) -> tuple[str, ...]:
        """The names of its fields whose integers are classes."""
        return tuple(one.name for one in self.fields if one.is_class)

    def states(self, reading: Reading) -> list[type[State]]:
        """What has to gather the passes for its fields, each once, where outputs mean that."""
        wanted = (one.state for one in self.fields if one.state is not None and one.known_for(reading))
        return list(dict.fromkeys(wanted))

    def described(self) -> list[dict[str, str | None]]:
        """Its statistics, for people and programs that ask what an answer holds."""
        return [{"name": one.name, "description": one.description, "unit": one.unit} for one in self.fields]

    def samples_of(self, block: Block, reading: Reading) -> Floats:
        """The samples of a block, `[rows, passes, ...]`, with classes where the network has them."""
        return in_place(block.samples, reading, 2)


def _of_each_label(one: Field) -> Field:
    return replace(one, shape="[rows, labels, ...]", json_type=list[Any], per_class=True)


_CLASSES = {"as": "form", "classes": "class_axis", "temperature": "temperature"}
_LABELS = {**_CLASSES, "threshold": "threshold"}

TASKS = {
    task.name: task
    for task in (
        Task(
            "classification",
            ClassBlock,
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
            _CLASSES,
        ),
        Task(
            "binary",
            BernoulliBlock,
            "One row's yes or no. Null: what a deterministic pass, or a single one (variance), cannot tell.",
            "Probability in each pass",
            (
                BINARY_LABEL,
                LABEL_MEAN,
                LABEL_VARIANCE,
                LABEL_STD_ERROR,
                LABEL_ENTROPY,
                LABEL_EXPECTED_ENTROPY,
                MUTUAL_INFORMATION,
                LABEL_VARIATION_RATIO,
            ),
            _LABELS,
        ),
        Task(
            "multilabel",
            BernoulliBlock,
            "One row's labels. Null: what a deterministic pass, a single one, or too many labels, cannot tell.",
            "Probability of each label in each pass",
            (
                *map(
                    _of_each_label,
                    (
                        LABELS,
                        LABEL_MEAN,
                        LABEL_VARIANCE,
                        LABEL_STD_ERROR,
                        LABEL_ENTROPY,
                        LABEL_EXPECTED_ENTROPY,
                        MUTUAL_INFORMATION,
                        LABEL_VARIATION_RATIO,
                    ),
                ),
                JOINT_ENTROPY,
                JOINT_EXPECTED_ENTROPY,
                JOINT_MUTUAL_INFORMATION,
            ),
            _LABELS,
        ),
        Task(
            "regression",
            read_values,
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
                PREDICTED_QUANTILES,
            ),
            {
                "noise": "noise",
                "likelihood": "likelihood",
                "df": "df",
                "noise_variance": "noise_variance",
                "interval": "interval",
                "quantiles": "quantiles",
                "along": "quantile_axis",
            },
        ),
    )
}
"""The tasks by their names."""


def described_reading(reading: Reading) -> dict[str, Any]:
    """How outputs are read, for people and programs: what its task heeds, and how it was found where nobody said."""
    heeded = {name: getattr(reading, attribute) for name, attribute in TASKS[reading.task].options.items()}
    return {"task": reading.task, **heeded, "because": reading.because}


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
