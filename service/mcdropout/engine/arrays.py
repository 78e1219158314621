"""Arrays: what runtimes take and give."""

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[Any]
Frontier = tuple[Any, ...]
"""What a runtime's `prefix` hands to its `suffix`, in whatever form the runtime keeps it."""

AnyArray = TypeVar("AnyArray", Array, "Tensor")


def with_rows(x: AnyArray, rows: int) -> AnyArray:
    """The rows of `x`, `[any, ...]`, cut or repeated in turn to `[rows, ...]`."""
    return x[np.arange(rows) % len(x)]
