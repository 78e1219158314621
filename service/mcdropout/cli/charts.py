"""Predictions as people read them: a line for each row, bars for probabilities."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich import box
from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mcdropout.client import PredictedRow, PredictResponse

_MOST_ROWS, _MOST_CLASSES, _MOST_VALUES, _MOST_LABELS = 40, 40, 4, 3
_BAR_WIDTH, _PARTS = 20, 8  # in characters, each in so many parts
# What follows from others, where these are there too, takes no column.
_FOLLOWS = {
    "expected_entropy": {"entropy", "mutual_information"},
    "joint_expected_entropy": {"joint_entropy", "joint_mutual_information"},
    "variance": {"std_error"},
}


def print_response(console: Console, response: PredictResponse) -> None:
    """Print what was predicted of each row, and how far to trust it."""
    parts: list[RenderableType] = [_rows(response)]
    if len(response) > _MOST_ROWS:
        parts.append(Text(f"{len(response) - _MOST_ROWS} more rows; --json has all", "dim"))
    if len(response) == 1 and (classes := _classes(response, response[0])) is not None:
        parts += [Text(), classes]
    console.print(Panel(Group(*parts), title=Text(_title(response)), title_align="left"))


def _title(response: PredictResponse) -> str:
    tolerance = "" if response.tolerance is None else f", tolerance {response.tolerance:g}"
    reduced = "" if response.reduced_to is None else f", reduced to {response.reduced_to}"
    return f"{response.model} {response.version}: mc {response.mc}{tolerance}{reduced}, seed {response.seed}"


def _rows(response: PredictResponse) -> RenderableType:
    """A line for each row, without the statistics that no row has."""
    rows = [response[index] for index in range(min(len(response), _MOST_ROWS))]
    columns: dict[str, Sequence[RenderableType]] = {"row": [str(row.index) for row in rows]}
    if any(row.passes != response.mc for row in rows):
        columns["passes"] = [str(row.passes) for row in rows]
    for name, value in response.values.items():
        if value is not None and not _FOLLOWS.get(name, {name}) <= response.values.keys() - {name}:
            columns |= _columns(response, rows, name)
    table = _table(*columns)
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    return table


def _columns(response: PredictResponse, rows: list[PredictedRow], name: str) -> dict[str, Sequence[RenderableType]]:
    """The columns of a statistic."""
    if name == "label":
        return {name: [_label(response, row) for row in rows]}
    if name in ("mean", "std_error") and _has_probabilities(response):
        values = [_of_label(response, row, row[name]) for row in rows]
        if name == "std_error":
            return {name: [f"{one:.2g}" for one in values]}
        return {"probability": [_bar(one) for one in values], name: [f"{one:.4f}" for one in values]}
    if len(rows) == 1 and _has_classes(response, rows[0]) and np.shape(rows[0][name]) == np.shape(rows[0]["mean"]):
        return {}  # they have a table of their own
    return {name: [_cell(name, row[name]) for row in rows]}


def _classes(response: PredictResponse, row: PredictedRow) -> RenderableType | None:
    """A line for each class of a row; None where it has none, or too many."""
    if not _has_classes(response, row):
        return None
    mean = row["mean"]
    shown = [name for name, value in row.values.items() if name != "label" and np.shape(value) == mean.shape]
    table = _table("class", "probability", *shown)
    for place, probability in enumerate(mean):
        name = str(place) if response.labels is None else response.labels[place]
        cells = [f"{row[one][place]:.4f}" if one == "mean" else f"{row[one][place]:.2g}" for one in shown]
        table.add_row(name, _bar(probability), *cells)
    return table


def _has_classes(response: PredictResponse, row: PredictedRow) -> bool:
    """Whether a row has a probability for each of some classes, or labels."""
    mean = row.values.get("mean")
    of_classes = response.task in ("classification", "multilabel")
    return of_classes and isinstance(mean, np.ndarray) and mean.ndim == 1 and len(mean) <= _MOST_CLASSES


def _has_probabilities(response: PredictResponse) -> bool:
    """Whether each row has one label, and a probability of it; of yes, where the task is binary."""
    mean, label = response.values.get("mean"), response.values.get("label")
    dimensions = {"classification": 2, "binary": 1}.get(response.task or "")
    return label is not None and isinstance(mean, np.ndarray) and mean.ndim == dimensions


def _of_label(response: PredictResponse, row: PredictedRow, values: Any) -> float:
    """Of a value for each class that of the most probable one."""
    return float(values if response.task == "binary" else values[int(np.argmax(row["mean"]))])


def _label(response: PredictResponse, row: PredictedRow) -> str:
    label = row["label"]
    if not isinstance(label, list):
        return str(label)
    if response.task == "multilabel" and all(isinstance(one, bool) for one in label):
        names = response.labels or tuple(map(str, range(len(label))))
        return ", ".join(name for name, there in zip(names, label, strict=True) if there) or "none"
    counts = Counter(np.asarray(label, object).ravel().tolist())
    total = sum(counts.values())
    return ", ".join(f"{name} {count / total:.0%}" for name, count in counts.most_common(_MOST_LABELS))


def _cell(name: str, value: Any) -> str:
    """A statistic of a row; of many values their mean and their largest."""
    if value is None:
        return ""
    if isinstance(value, np.ndarray) and value.ndim:
        if np.isnan(value).all():
            return ""
        if value.ndim == 1 and value.size <= _MOST_VALUES:
            return (" to " if name == "interval" else ", ").join(f"{one:.4g}" for one in value)
        return f"mean {np.nanmean(value):.3g}, max {np.nanmax(value):.3g}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _bar(probability: float) -> RenderableType:
    parts = _BAR_WIDTH * _PARTS  # rich rounds down
    return Bar(parts, 0, round(float(probability) * parts), width=_BAR_WIDTH, color="cyan")


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table
