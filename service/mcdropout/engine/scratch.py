"""Scratch memory that each thread keeps: fresh pages cost more than most of what is computed on them."""

import threading

import numpy as np
import numpy.typing as npt


class Scratch(threading.local):
    """A thread's memory for one purpose."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def memory(self, size: int) -> npt.NDArray[np.uint8]:
        """`size` bytes at least, with anything in them; what the call before returned is void."""
        if self._memory.size < size:
            self._memory = np.empty(size, np.uint8)
        return self._memory
