"""The answer to a prediction, typed: a statistic is an array of all rows, and a row has its value of each."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from mcdropout.client.errors import UnexpectedAnswerError

Statistic = npt.NDArray[Any] | list[Any] | None

_BESIDE = ("passes", "samples")  # what a row holds beside its statistics
_PER_CLASS = ("mean", "variance", "std_error")  # of a classification
_BOUNDS = ("lower", "upper")
_SHOWN_ROWS = 6


@dataclass(frozen=True)
class Timing:
    """Where the server's time went, in seconds.

    Attributes:
        queue_seconds: waiting for the engine.
        compute_seconds: the run that the request was part of.
    """

    queue_seconds: float
    compute_seconds: float


@dataclass(frozen=True, eq=False)
class PredictedRow:
    """What was predicted of one row: each statistic is an attribute, `row.mean`, and an item, `row["mean"]`.

    Attributes:
        index: which row of the request.
        passes: the stochastic passes that it used.
        values: its statistics by their names.
        samples: every pass's output, `[passes, ...]`, where asked for.
    """

    index: int
    passes: int
    values: Mapping[str, Any]
    samples: Any = field(default=None, repr=False)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def __getattr__(self, name: str) -> Any:
        return _attribute(self, name)

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *self.values})


@dataclass(frozen=True, eq=False, repr=False)
class PredictResponse:
    """The answer to a prediction, a row after another.

    Each statistic is an attribute, `response.mean`, and an item, `response["mean"]`: an array `[rows, ...]`, with NaN
    for what a number of passes cannot tell; a list of arrays where rows differ in size; a list, for `label`; None where
    no row has it, as with `mc=0`. An integer as an item is a row, and to iterate is over the rows.

    Attributes:
        model, version: which model answered.
        mc: the stochastic passes asked for; 0 for the deterministic baseline.
        seed: ask again with it for the same answer.
        timing: where the server's time went.
        passes: `[rows]`, those that each row used.
        values: the statistics by their names.
        samples: `[rows, passes, ...]`, every pass's output, where asked for.
        tolerance: with `mc="auto"`, the standard error asked for.
        reduced_to: the passes given instead of `mc`, where the server was overloaded.
        p: what the sites dropped with in place of their own, where asked for.
        task: of the model; None where it could not be asked for.
        labels: of the model's classes; None where they have no names, or these could not be asked for.
        content: the answer as it came, JSON.
    """

    model: str
    version: str
    mc: int | Literal["auto"]
    seed: int
    timing: Timing
    passes: npt.NDArray[np.int64]
    values: Mapping[str, Statistic]
    samples: Statistic
    tolerance: float | None
    reduced_to: int | None
    p: float | None
    task: str | None
    labels: tuple[str, ...] | None
    content: bytes

    def __len__(self) -> int:
        return len(self.passes)

    def __iter__(self) -> Iterator[PredictedRow]:
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, key: str) -> Statistic: ...

    @overload
    def __getitem__(self, key: int) -> PredictedRow: ...

    def __getitem__(self, key: str | int) -> Statistic | PredictedRow:
        if isinstance(key, str):
            return self.values[key]
        index = range(len(self))[key]
        of_row = {name: None if value is None else value[index] for name, value in self.values.items()}
        samples = None if self.samples is None else self.samples[index]
        return PredictedRow(index, int(self.passes[index]), of_row, samples)

    def __getattr__(self, name: str) -> Any:
        return _attribute(self, name)

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *self.values})

    def keys(self) -> tuple[str, ...]:
        """The names of the statistics."""
        return tuple(self.values)

    def to_pandas(self) -> Any:
        """A DataFrame of a row for each row.

        A statistic of several numbers becomes as many columns: `mean.cat` by the model's labels where they are known,
        else `mean.0`; `interval.lower` and `interval.upper`. One of more dimensions, or of a size that differs from row
        to row, stays one column of arrays. Samples are left out.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "to_pandas takes pandas, which is not installed; pip install 'mcdropout[client-all]' mends it",
                name=error.name,
            ) from error
        columns: dict[str, Any] = {}
        for name, value in self._with_passes().items():
            columns |= self._columns(name, value)
        return pandas.DataFrame(columns, index=range(len(self)))

    def __repr__(self) -> str:
        reduced = "" if self.reduced_to is None else f", reduced_to={self.reduced_to}"
        head = (
            f"PredictResponse(model={self.model!r}, version={self.version!r}, mc={self.mc!r}{reduced}, "
            f"seed={self.seed}, rows={len(self)})"
        )
        shown = {name: value for name, value in self._with_passes().items() if _dimensions(value) == 1}
        lines = [["", *map(str, range(min(len(self), _SHOWN_ROWS)))]]
        lines += [[name, *map(_brief, value[:_SHOWN_ROWS])] for name, value in shown.items() if value is not None]
        widths = [max(map(len, line)) for line in lines]
        table = ["  ".join(map(str.rjust, cells, widths)) for cells in zip(*lines, strict=True)]
        more = [f"... {len(self) - _SHOWN_ROWS} more rows"] if len(self) > _SHOWN_ROWS else []
        return "\n  ".join([head, *table, *more, *self._larger(shown)])

    def _larger(self, shown: Mapping[str, Statistic]) -> list[str]:
        """For people, the statistics of more than a number a row, and their shapes."""
        by_shape: dict[str, list[str]] = {}
        for name, value in {**self.values, "samples": self.samples}.items():
            if value is not None and name not in shown:
                shape = f"array {list(value.shape)}" if isinstance(value, np.ndarray) else f"list of {len(value)}"
                by_shape.setdefault(shape, []).append(name)
        return [f"{', '.join(names)}: {shape}" for shape, names in by_shape.items()]

    def _with_passes(self) -> dict[str, Statistic]:
        """The statistics and the passes, in the order of an answer."""
        first = {name: value for name, value in self.values.items() if name == "label"}
        return {**first, "passes": self.passes, **self.values}

    def _columns(self, name: str, value: Statistic) -> dict[str, Any]:
        if value is None:
            return {name: [None] * len(self)}
        sizes = {len(one) for one in value} if _dimensions(value) == 2 else set()
        if len(sizes) == 1:
            suffixes = self._suffixes(name, sizes.pop())
            return {f"{name}.{suffix}": [one[place] for one in value] for place, suffix in enumerate(suffixes)}
        return {name: list(value)}

    def _suffixes(self, name: str, size: int) -> tuple[str, ...]:
        per_class = self.task == "multilabel" or (self.task == "classification" and name in _PER_CLASS)
        if per_class and self.labels is not None and len(self.labels) == size:
            return self.labels
        return _BOUNDS if name == "interval" and size == 2 else tuple(map(str, range(size)))


def read_response(
    document: Mapping[str, Any], content: bytes, task: str | None, labels: tuple[str, ...] | None
) -> PredictResponse:
    """The answer that a JSON document holds.

    Args:
        document: as the service's OpenAPI document describes `PredictResponse`.
        content: what it was parsed from.
        task, labels: of the model, where they are known.

    Raises:
        UnexpectedAnswerError: it holds something else.
    """
    try:
        rows, timing = document["predictions"], document["timing"]
        names = [name for name in (rows[0] if rows else {}) if name not in _BESIDE]
        columns = {name: [row[name] for row in rows] for name in names}
        return PredictResponse(
            model=document["model"],
            version=document["version"],
            mc=document["mc"],
            seed=document["seed"],
            timing=Timing(timing["queue_seconds"], timing["compute_seconds"]),
            passes=np.asarray([row["passes"] for row in rows], np.int64),
            values={name: _statistic(name, values) for name, values in columns.items()},
            samples=_statistic("samples", [row.get("samples") for row in rows]),
            tolerance=document.get("tolerance"),
            reduced_to=document.get("reduced_to"),
            p=document.get("p"),
            task=task,
            labels=labels,
            content=content,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UnexpectedAnswerError(
            f"the answer is no prediction ({type(error).__name__}: {error}); that of an mcdropout service is accepted"
        ) from error


def _statistic(name: str, values: list[Any]) -> Statistic:
    """A statistic of all rows: one array, or one a row; a list for what is no number; None where no row has it."""
    if all(value is None for value in values):
        return None
    if name == "label":
        return values
    for gathered in (_array, lambda rows: [_array(row) for row in rows]):
        try:
            found: Statistic = gathered(values)
        except (TypeError, ValueError):  # sizes differ, or it holds no numbers
            continue
        return found
    return values


def _array(values: Any) -> npt.NDArray[np.float64]:
    """Nested lists of numbers, with NaN for null."""
    return np.asarray(values, np.float64)


def _attribute(holder: Any, name: str) -> Any:
    values = holder.__dict__.get("values", {})
    if name in values:
        return values[name]
    raise AttributeError(f"{type(holder).__name__} has no {name!r}; the statistics {list(values)} are there")


def _dimensions(value: Statistic) -> int:
    """How many dimensions a statistic has, that of the rows among them; 0 for None."""
    depth, one = 0, value
    while isinstance(one, (list, np.ndarray)):
        depth += 1
        one = one[0] if len(one) else None
    return depth


def _brief(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
