"""Arrays: what runtimes take and give."""

from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]
Frontier = tuple[Any, ...]
"""What a runtime's `prefix` hands to its `suffix`, in whatever form the runtime keeps it."""
