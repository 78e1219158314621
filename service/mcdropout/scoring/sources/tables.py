"""Tables in files: the columns that inputs are read from, and those that an output keeps."""

from collections.abc import Sequence
from pathlib import Path

from mcdropout.catalogue import tables
from mcdropout.catalogue.checks import RowsError
from mcdropout.catalogue.inputs import Input
from mcdropout.catalogue.tables import Binding, Column
from mcdropout.scoring.errors import ScoringError


def bound(path: Path, columns: Sequence[Column], takes: Sequence[Input], keep: Sequence[str]) -> list[Binding]:
    """Which columns of a file each input is read from.

    Raises:
        ScoringError: the file lacks one.
    """
    names = [column.name for column in columns]
    if lacks := [name for name in keep if name not in names]:
        raise ScoringError(f"{path}: it has no column {lacks[0]!r} to keep; of {tables.shown(names)} some are accepted")
    try:
        return tables.bound(str(path), columns, takes, keep)
    except RowsError as error:
        raise ScoringError(str(error)) from error
