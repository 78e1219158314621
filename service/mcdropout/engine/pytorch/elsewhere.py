"""Elsewhere: numbers that Python and NumPy draw while a network runs, for which no mask can stand."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

PYTHON, NUMPY, OWN = "Python's random", "numpy.random", "a generator of its own"


class Elsewhere:
    """Notices that the generators which all of Python, and all of NumPy, share have moved, and a network's own."""

    def __init__(self, own: Iterable[Any] = ()) -> None:
        self._own = [each for each in own if not isinstance(each, torch.Generator)]  # whose draws PyTorch tells of
        self._before = _places(self._own)

    def moved(self) -> list[str]:
        """Those that have moved since they were last looked at."""
        before, self._before = self._before, _places(self._own)
        return [name for name, place in self._before.items() if place != before[name]]


@contextmanager
def seeded(seed: int, own: Iterable[Any] = ()) -> Iterator[Elsewhere]:
    """Let both draw from `seed` on, and leave them as they were. `own` are a network's own generators."""
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield Elsewhere(own)
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _places(own: Iterable[Any]) -> dict[str, Any]:
    """Where each is in its sequence: whatever draws moves its position, or has new words made."""
    return {
        PYTHON: _of_python(random.getstate()),
        NUMPY: _of_numpy(np.random.get_state(legacy=False)),
        OWN: [_place(each) for each in own],
    }


def _place(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return _of_numpy(generator.bit_generator.state)
    if isinstance(generator, np.random.RandomState):
        return _of_numpy(generator.get_state(legacy=False))
    return _of_python(generator.getstate())


def _of_python(state: Any) -> Any:
    _, words, gauss = state
    return words[-1], words[0], gauss


def _of_numpy(state: Any) -> Any:
    inner = state["state"]
    key = inner.get("key", inner)  # of another generator than the usual one, whatever its state is
    first = int(key[0]) if isinstance(key, np.ndarray) else str(key)
    left = {name: value for name, value in state.items() if name not in ("state", "bit_generator")}
    return inner.get("pos"), first, str(left)
