"""CSV: a column for each number of a row, lists as JSON, and nothing for what is not known."""

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from mcdropout.scoring.layout import Item, Layout, Values, known_values
from mcdropout.scoring.scorer import Scored


class CsvOutput:
    """Writes CSV in UTF-8, its columns named in the first line."""

    suffix = ".csv"

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def write(self, scored: Scored, path: Path) -> None:
        """As `Output.write`; parts have no line of names."""
        columns = [_kept(scored.kept[name]) for name in self._layout.kept]
        columns += [_column(item, values, scored.known) for _, item, values in self._layout.columns(scored)]
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(zip(*columns, strict=True))

    def join(self, parts: Sequence[Path], path: Path) -> None:
        """As `Output.join`."""
        names = [*self._layout.kept, *(name for item in self._layout.in_order for name in item.columns)]
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(names)
        with path.open("ab") as whole:
            for part in parts:
                with part.open("rb") as one:
                    shutil.copyfileobj(one, whole)


def _kept(values: Any) -> list[Any]:
    if isinstance(values, np.ndarray):
        return list(values.tolist())
    return list(values.to_pylist() if hasattr(values, "to_pylist") else values)


def _column(item: Item, values: Values, known: npt.NDArray[np.bool_]) -> list[Any]:
    if item.depth:
        return [
            str(orjson.dumps(np.asarray(row).tolist()), "utf-8") if is_known else None
            for row, is_known in zip(values, known, strict=True)
        ]
    numbers = np.asarray(values)
    if item.labels is not None:
        numbers, said = np.array(item.labels, object)[numbers], known
    else:
        said = known_values(numbers, known)
    return [value if is_known else None for value, is_known in zip(numbers.tolist(), said.tolist(), strict=True)]
