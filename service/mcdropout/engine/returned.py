"""Returned: what a network returns, in words, and the entries of it that `outputs` may name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.reading import Entry, Reading

Kind = Literal["key", "attribute", "position", "path", "output"]


@dataclass(frozen=True)
class Returned:
    """What a network returns.

    Attributes:
        kind: what its entries are called; None where it has none.
        entries: the name or position of each, and its shape where it is a tensor, else what it is.
        what: what it is, where it has no entries.
    """

    kind: Kind | None
    entries: tuple[tuple[Entry, tuple[int, ...] | str], ...] = ()
    what: str = ""

    def __str__(self) -> str:
        if not self.entries:
            return self.what
        shown = [f"{name!r} ({list(value) if isinstance(value, tuple) else value})" for name, value in self.entries]
        if len(shown) == 1:
            return f"the {self.kind} {shown[0]}"
        return f"the {self.kind}s {', '.join(shown[:-1])} and {shown[-1]}"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its entries, where each has one and is a tensor; none else."""
        named = self.kind in ("key", "attribute") and all(isinstance(value, tuple) for _, value in self.entries)
        return tuple(str(name) for name, _ in self.entries) if named else ()

    def one_for(self, rows: int) -> Entry | None:
        """The entry that is a tensor with as many entries in some dimension as rows; of several, the first of those
        that hold more than a number a row. None where none is."""
        fitting = [(name, shape) for name, shape in self.entries if isinstance(shape, tuple) and rows in shape]
        return next((name for name, shape in fitting if len(shape) > 1), fitting[0][0] if fitting else None)


def check_count(reading: Reading, shapes: Sequence[tuple[int, ...]], returned: Returned, rows: int) -> None:
    """Raise UnsupportedModelError where a network returns more than a task takes, and some of it may be named.

    Args:
        reading: what its outputs mean.
        shapes: of the outputs that count.
        returned: all that it returns.
        rows: how many rows it was given.
    """
    levels = len(reading.quantiles or ())
    counts = {1} if reading.task != "regression" else {1, levels} if levels else {1, 2}
    unlike = reading.task == "regression" and reading.noise is None and len(set(shapes)) > 1
    entry = returned.one_for(rows)
    a_row_each = len(shapes) == rows and all(len(shape) == 1 for shape in shapes)  # of which none is to be taken
    if entry is None or a_row_each or (len(shapes) in counts and not unlike):
        return
    takes = "one output"
    if reading.task == "regression":
        takes = f"one output, or one for each of its {levels} quantiles" if levels else "the mean, or the mean and its "
        takes += "" if levels else "noise in the same shape"
    several = "" if reading.task != "regression" or levels else ', or output={"mean": ..., "variance": ...} for two'
    raise UnsupportedModelError(
        f"for {rows} rows the network returns {returned}; {reading.task} takes {takes}: output that names what to "
        f"take is accepted, such as output={entry!r}{several}"
    )
