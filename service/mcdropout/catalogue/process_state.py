"""Process state: what a bundle's code may set for the whole process, which other bundles run in."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def put_back() -> Iterator[None]:
    """Put back, at the end, what code within sets of the process: PyTorch's defaults, where relative paths begin."""
    folder = os.open(os.curdir, os.O_RDONLY)  # which may have no name any more
    dtype, device, gradients = torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()
    threads, deepest = torch.get_num_threads(), sys.getrecursionlimit()
    strict, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        os.chdir(folder)
        os.close(folder)
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:  # to set it takes time from every call, even if it is the usual one
            torch.set_default_device(None if device.type == "cpu" else device)
        torch.set_grad_enabled(gradients)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        sys.setrecursionlimit(deepest)
        if torch.are_deterministic_algorithms_enabled() != strict:
            torch.use_deterministic_algorithms(strict, warn_only=warns)
