"""Elsewhere: numbers that Python and NumPy draw while a network runs, for which no mask can stand."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

PYTHON, NUMPY = "Python's random", "numpy.random"


class Elsewhere:
    """Notices that the generators which all of Python, and all of NumPy, share have moved."""

    def __init__(self) -> None:
        self._before = _places()

    def moved(self) -> list[str]:
        """Those that have moved since they were last looked at."""
        before, self._before = self._before, _places()
        return [name for name, place in self._before.items() if place != before[name]]


@contextmanager
def seeded(seed: int) -> Iterator[Elsewhere]:
    """Let both draw from `seed` on, and leave them as they were."""
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield Elsewhere()
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _places() -> dict[str, Any]:
    """Where each is in its sequence: whatever draws moves its position, or has new words made."""
    _, words, gauss = random.getstate()
    numpy: Any = np.random.get_state(legacy=False)
    inner = numpy["state"]
    key = inner.get("key", inner)  # of another generator than the usual one, whatever its state is
    first = int(key[0]) if isinstance(key, np.ndarray) else str(key)
    return {
        PYTHON: (words[-1], words[0], gauss),
        NUMPY: (inner.get("pos"), first, numpy.get("has_gauss"), numpy.get("gauss")),
    }
