"""Datatypes: the protocol's names for them, and NumPy's."""

from typing import Any

import numpy as np

from mcdropout.api.oip.tensor import Tensor
from mcdropout.catalogue.checks import RowsError

BYTES, BF16 = "BYTES", "BF16"
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{f"FP{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
    **{f"INT{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
}
"""The datatypes that NumPy has, as they lie in a body: little-endian."""

_NAMES = {(dtype.kind, dtype.itemsize): name for name, dtype in DTYPES.items()}
_SHOWN = 100
_FLOAT32 = DTYPES["FP32"]  # which holds every number of BF16


def name_of(dtype: np.dtype[Any]) -> str:
    """What the protocol calls a dtype."""
    return _NAMES[dtype.kind, dtype.itemsize]


def dtype_of(tensor: Tensor) -> np.dtype[Any]:
    """The dtype of a tensor's values, once they are read.

    Raises:
        RowsError: it has no such datatype.
    """
    found = _FLOAT32 if tensor.datatype == BF16 else DTYPES.get(tensor.datatype)
    if found is None:
        raise RowsError(
            f"inputs.{tensor.name} has the datatype {tensor.datatype[:_SHOWN]!r}; one of {', '.join(DTYPES)} or {BF16} "
            "is accepted"
        )
    return found
