"""pyarrow: an extra of the package, imported when it is needed."""

from functools import cache
from importlib import import_module
from typing import Any

from mcdropout.scoring.errors import ScoringError


@cache
def pyarrow(module: str | None = None) -> Any:
    """pyarrow, or a module of it.

    Raises:
        ScoringError: it is not installed.
    """
    try:
        return import_module("pyarrow" if module is None else f"pyarrow.{module}")
    except ModuleNotFoundError as error:
        raise ScoringError(
            "Parquet, Arrow and Feather files take pyarrow (pip install 'mcdropout[score]'); .npy, .npz and .csv are "
            "accepted without"
        ) from error
