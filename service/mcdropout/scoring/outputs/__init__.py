"""Outputs: a kind of file each. Parts are written as they come, and put together at the end."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from mcdropout.scoring.errors import ScoringError
from mcdropout.scoring.layout import Layout
from mcdropout.scoring.scorer import Scored


class Output(Protocol):
    """Writes predictions in a kind of file."""

    @property
    def suffix(self) -> str:
        """How the names of parts end."""

    def write(self, scored: Scored, path: Path) -> None:
        """Write a part."""

    def join(self, parts: Sequence[Path], path: Path) -> None:
        """Put parts together, without having more than one in memory."""


Make = Callable[[Layout, Mapping[str, str]], Output]


def _parquet(layout: Layout, about: Mapping[str, str]) -> Output:
    from mcdropout.scoring.outputs.arrow import ParquetOutput

    return ParquetOutput(layout, about)


def _arrow(layout: Layout, about: Mapping[str, str]) -> Output:
    from mcdropout.scoring.outputs.arrow import ArrowOutput

    return ArrowOutput(layout, about)


def _csv(layout: Layout, about: Mapping[str, str]) -> Output:
    from mcdropout.scoring.outputs.csv import CsvOutput

    return CsvOutput(layout)


def _npz(layout: Layout, about: Mapping[str, str]) -> Output:
    from mcdropout.scoring.outputs.npz import NpzOutput

    return NpzOutput(layout)


OUTPUTS: Mapping[str, Make] = {
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".feather": _arrow,
    ".csv": _csv,
    ".npz": _npz,
}
"""By the end of a file's name, what writes it."""


def check_output(path: Path) -> None:
    """Raise ScoringError where nothing is written under such a name."""
    if path.suffix.lower() not in OUTPUTS:
        raise ScoringError(f"{path}: a name that ends in {', '.join(OUTPUTS)} is accepted for the output")
    if not path.absolute().parent.is_dir():
        raise ScoringError(f"{path}: its folder is missing; one that exists is accepted")
    if path.is_dir():
        raise ScoringError(f"{path}: is a folder; the name of a file is accepted for the output")


def output_of(path: Path, layout: Layout, about: Mapping[str, str]) -> Output:
    """What writes a file of such a name.

    Args:
        path: its name.
        layout: its columns.
        about: what it says of itself, where it can.

    Raises:
        ScoringError: it takes a package that is not installed, or cannot hold that.
    """
    return OUTPUTS[path.suffix.lower()](layout, about)
