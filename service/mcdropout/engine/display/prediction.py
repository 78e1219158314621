"""A prediction as a table of text, as HTML, as a DataFrame, and as a drawing."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arrays import Array

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

_SHOWN_ROWS = 10
_DRAWN_ROWS, _DRAWN_CLASSES = 8, 20
_CELL = "padding:2px 8px;text-align:right"
_BAR = "display:inline-block;height:0.7em;background:currentColor;opacity:0.5"
_BAR_EM = 6.0


class Summed(Protocol):
    """A `Prediction`."""

    @property
    def task(self) -> str: ...

    @property
    def passes(self) -> npt.NDArray[np.int64]: ...

    @property
    def values(self) -> Mapping[str, Array | None]: ...

    @property
    def seed(self) -> int | None: ...


def as_text(prediction: Summed) -> str:
    """A line for each of the first rows with the statistics of one number, and the shapes of the others."""
    columns = _columns(prediction)
    lines = [["row", *columns]]
    shown = min(_SHOWN_ROWS, len(prediction.passes))
    lines += [[str(row), *(_brief(values[row]) for values in columns.values())] for row in range(shown)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(map(str.rjust, line, widths)) for line in lines]
    return "\n  ".join([f"Prediction({_title(prediction)})", *table, *_rest(prediction)])


def as_html(prediction: Summed) -> str:
    """The same for a notebook, with a bar for the probability of each class that is predicted."""
    columns = _columns(prediction)
    head = "".join(f'<th style="{_CELL}">{escape(name)}</th>' for name in ["row", *columns])
    body = []
    for row in range(min(_SHOWN_ROWS, len(prediction.passes))):
        cells = [f'<td style="{_CELL}">{row}</td>']
        for name, values in columns.items():
            bar = ""
            if name == "probability":
                bar = f'<span style="{_BAR};width:{_BAR_EM * float(values[row]):.2f}em"></span> '
            cells.append(f'<td style="{_CELL}">{bar}{escape(_brief(values[row]))}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    rest = "".join(f"<div>{escape(line)}</div>" for line in _rest(prediction))
    return (
        f"<div><b>Prediction</b>: {escape(_title(prediction))}"
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>{rest}</div>"
    )


def as_frame(prediction: Summed) -> "pandas.DataFrame":
    """A line a row: a statistic of one number is a column, one of a few several, `mean.0`; one of more an object.

    Raises:
        ModuleNotFoundError: pandas is not installed.
    """
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "to_pandas takes pandas, which is not installed; pip install pandas mends it", name=error.name
        ) from error
    found: dict[str, Any] = {"passes": prediction.passes}
    for name, value in prediction.values.items():
        if value is None:
            found[name] = [None] * len(prediction.passes)
        elif value.ndim == 1:
            found[name] = value
        elif value.ndim == 2:
            found |= {f"{name}.{place}": value[:, place] for place in range(value.shape[1])}
        else:
            found[name] = list(value)
    return pandas.DataFrame(found, index=pandas.RangeIndex(len(prediction.passes), name="row"))


def plot(prediction: Summed, axes: "Axes | None" = None) -> "Axes":
    """Draw the first rows: probabilities of classes, or values, with twice the deviation over passes on each side.

    Args:
        prediction: of one number a row, or of one for each class or label.
        axes: where to draw; new ones where not given.

    Raises:
        ModuleNotFoundError: Matplotlib is not installed.
        ValueError: it has more dimensions than can be drawn so.
    """
    try:
        from matplotlib import pyplot
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "plot takes Matplotlib, which is not installed; pip install matplotlib mends it", name=error.name
        ) from error
    mean, variance = prediction.values["mean"], prediction.values.get("variance")
    assert mean is not None
    if mean.ndim > 2:
        raise ValueError(f"mean has the shape {list(mean.shape)}; [rows] or [rows, classes] is what can be drawn")
    if axes is None:
        axes = pyplot.subplots(layout="constrained")[1]
    reach = np.zeros_like(mean) if variance is None else 2.0 * np.sqrt(np.nan_to_num(variance))
    if mean.ndim == 1:
        rows = np.arange(len(mean))
        axes.errorbar(rows, mean, yerr=reach, fmt="o", capsize=3)
        axes.set_xlabel("row")
    else:
        _draw_rows(axes, mean[:_DRAWN_ROWS, :_DRAWN_CLASSES], reach[:_DRAWN_ROWS, :_DRAWN_CLASSES])
    axes.set_ylabel("value" if prediction.task == "regression" else "probability")
    axes.set_title(_title(prediction))
    return axes


def _draw_rows(axes: "Axes", mean: Array, reach: Array) -> None:
    """A bar for each class, the rows side by side."""
    rows, classes = mean.shape
    width = 0.8 / rows
    for row in range(rows):
        places = np.arange(classes) + (row - (rows - 1) / 2) * width
        axes.bar(places, mean[row], width, yerr=reach[row], label=f"row {row}")
    axes.set_xticks(np.arange(classes))
    axes.set_xlabel("class")
    if rows > 1:
        axes.legend()


def _title(prediction: Summed) -> str:
    rows, passes = len(prediction.passes), prediction.passes
    used = (
        f"{passes.min()} to {passes.max()}" if len(passes) and passes.min() != passes.max() else f"{passes[:1].sum()}"
    )
    seed = "" if prediction.seed is None else f", seed={prediction.seed}"
    return f"{prediction.task}, {rows} {'row' if rows == 1 else 'rows'}, passes={used}{seed}"


def _columns(prediction: Summed) -> dict[str, npt.NDArray[Any]]:
    """The statistics of one number a row, and of a classification the probability of what is predicted."""
    found: dict[str, npt.NDArray[Any]] = {}
    for name, value in prediction.values.items():
        if value is None or value.ndim != 1:
            continue
        found[name] = value
        mean = prediction.values.get("mean")
        if name == "label" and prediction.task == "classification" and mean is not None and mean.ndim == 2:
            found["probability"] = np.take_along_axis(mean, value[:, None].astype(np.int64), axis=1)[:, 0]
    if len(set(prediction.passes.tolist())) > 1:
        found["passes"] = prediction.passes
    return found


def _rest(prediction: Summed) -> Sequence[str]:
    """How many more rows there are, and the statistics of more than a number a row by their shapes."""
    more = len(prediction.passes) - _SHOWN_ROWS
    lines = [f"... {more} more {'row' if more == 1 else 'rows'}"] if more > 0 else []
    shapes: dict[str, list[str]] = {}
    for name, value in prediction.values.items():
        if value is not None and value.ndim > 1:
            shapes.setdefault(str(list(value.shape)), []).append(name)
    return lines + [f"{', '.join(names)}: {shape}" for shape, names in shapes.items()]


def _brief(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
