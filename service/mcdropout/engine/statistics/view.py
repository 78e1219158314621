"""Views: what of a prediction an answer shows, since a map of every statistic is more than anybody reads."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mcdropout.engine.arrays import Array
from mcdropout.engine.errors import InvalidInputError
from mcdropout.engine.reading import Reading
from mcdropout.engine.statistics.field import Field
from mcdropout.engine.statistics.prediction import Prediction
from mcdropout.engine.statistics.reduction import Reduction
from mcdropout.engine.statistics.tasks import TASKS


@dataclass(frozen=True)
class View:
    """What an answer shows.

    Attributes:
        fields: the names of its statistics; None for all.
        reduction: what becomes of many places; None where they stay.
    """

    fields: tuple[str, ...] | None = None
    reduction: Reduction | None = None

    def check(self, reading: Reading, places: tuple[int, ...]) -> None:
        """Raise InvalidInputError where answers of such a reading, with so many places, cannot be seen so."""
        if self.reduction is not None:
            self.reduction.check(places)
        task = TASKS[reading.task]
        for name in self.fields or ():
            if name not in task.by_name:
                raise InvalidInputError(
                    f"fields names {name!r}; of {task.name}, {', '.join(task.by_name)} are accepted"
                )
            if self.reduction is not None and not _is_reducible(task.by_name[name]):
                raise InvalidInputError(
                    f"fields names {name!r}, which reduce cannot reduce: it holds classes; other fields are accepted"
                )

    def of(self, prediction: Prediction, reading: Reading) -> Prediction:
        """A prediction as it is shown."""
        if self.fields is None and self.reduction is None:
            return prediction
        fields = TASKS[prediction.task].by_name
        shown: dict[str, Array | None] = {}
        for name, value in prediction.values.items():
            if self.fields is not None and name not in self.fields:
                continue
            if self.reduction is None or value is None:
                shown[name] = value
            elif _is_reducible(fields[name]):
                shown[name] = self.reduction.reduced(fields[name], value, reading)
        return replace(prediction, values=shown)


ALL = View()
"""All statistics, in all places."""


def _is_reducible(field: Field) -> bool:
    return not field.is_class


def places_of(shape: Sequence[int], reading: Reading) -> tuple[int, ...]:
    """The sizes of the dimensions of an output's places, beside its rows and classes; empty where it has one a row."""
    kept = [0, *(axis for axis in (reading.class_axis, reading.quantile_axis) if axis is not None)]
    return tuple(size for axis, size in enumerate(shape) if axis not in kept)
