"""Layouts: which columns an output has, and what of the scored rows goes into each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array
from mcdropout.engine.statistics import TASKS
from mcdropout.scoring.errors import ScoringError
from mcdropout.scoring.scorer import Scored, Scorer

Values = Array | list[Array | None]
"""`[rows]` of numbers, or an array for each row."""

PASSES = "passes"
_MOST_WIDE = 4096
_ENDS = ("lower", "upper")


@dataclass(frozen=True)
class Item:
    """A statistic in an output.

    Attributes:
        name: of the statistic.
        dtype: of its numbers.
        shape: of one row; None where that differs from row to row.
        columns: their names: one, or one for each entry of a shape of one dimension.
        depth: of the lists in its one column; 0 where it holds no lists.
        labels: the names of the classes that its numbers are; None where numbers are written.
        leads: whether it comes before the passes.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...] | None
    columns: tuple[str, ...]
    depth: int = 0
    labels: tuple[str, ...] | None = None
    leads: bool = False


@dataclass(frozen=True)
class Layout:
    """The columns of an output, in their order: those that are kept, the label, the passes, and the rest.

    Attributes:
        kept: the types of those that come from the file.
        items: the statistics.
        numbers: how many numbers the answer to a row has, as far as its examples tell.
    """

    kept: Mapping[str, Any]
    items: tuple[Item, ...]
    numbers: int

    @property
    def in_order(self) -> list[Item]:
        """The statistics, and the passes among them."""
        passes = Item(PASSES, np.dtype(np.int64), (), (PASSES,), leads=True)
        return sorted((*self.items, passes), key=lambda item: not item.leads)

    def columns(self, scored: Scored) -> Iterator[tuple[str, Item, Values]]:
        """The name of each column that is not kept, its statistic, and its values: `[rows]`, or an array for each
        row; of those without an answer, they are void."""
        rows = len(scored.known)
        for item in self.in_order:
            values: Values | None = scored.passes if item.name == PASSES else scored.values.get(item.name)
            if values is None:
                values = [None] * rows if item.shape is None else np.zeros((rows, *item.shape), item.dtype)
            if len(item.columns) > 1 or (item.shape is not None and len(item.shape) == 1 and not item.depth):
                for place, name in enumerate(item.columns):
                    yield name, item, np.asarray(values)[:, place]
            else:
                yield item.columns[0], item, values


def layout_of(scorer: Scorer, kept: Mapping[str, Any], fields: Sequence[str] | None) -> Layout:
    """The columns of what a model's predictions become.

    Args:
        scorer: makes them.
        kept: the types of the columns that come from the file.
        fields: the statistics that were asked for by name.

    Raises:
        ScoringError: one that was asked for is null, or a column that is kept has the name of another.
    """
    values = scorer.example.values
    if unknown := [name for name in fields or () if values.get(name) is None]:
        raise ScoringError(
            f"fields names {unknown[0]!r}, which is null for this model with mc {scorer.passes.mc}; other fields are "
            "accepted"
        )
    leading = TASKS[scorer.model.engine.task].leading
    items = [
        replace(_item(scorer, name, value), leads=name in leading)
        for name, value in values.items()
        if value is not None
    ]
    layout = Layout(kept, tuple(items), sum(value.size for value in values.values() if value is not None))
    names = {name for item in layout.in_order for name in item.columns}
    if taken := [name for name in kept if name in names]:
        raise ScoringError(
            f"keep names {taken[0]!r}, which is a column of the output too; other names, or --fields without it, are "
            "accepted"
        )
    return layout


def _item(scorer: Scorer, name: str, value: Array) -> Item:
    model, shape = scorer.model, value.shape[1:]
    field = TASKS[model.engine.task].by_name[name]
    labels = None if model.bundle.manifest.labels is None else tuple(model.bundle.manifest.labels)
    if scorer.differs:
        return Item(name, value.dtype, None, (name,), len(shape))
    if not shape:
        return Item(name, value.dtype, shape, (name,), labels=labels if field.is_class else None)
    if len(shape) > 1 or shape[0] > _MOST_WIDE:
        return Item(name, value.dtype, shape, (name,), len(shape))
    ends: Sequence[object] = range(shape[0])
    if field.per_class and labels is not None and len(labels) == shape[0]:
        ends = labels
    elif field.trailing and name == "interval":
        ends = _ENDS
    elif field.trailing and name == "quantiles":
        ends = model.engine.reading.quantiles or ends
    return Item(name, value.dtype, shape, tuple(f"{name}.{end}" for end in ends))


def known_values(values: npt.NDArray[Any], known: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """`[rows]`, whether a value says something: a single pass has no variance, which is NaN."""
    return known & ~np.isnan(values) if values.dtype.kind == "f" else known
