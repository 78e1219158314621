"""Stages: what is being done while a network is prepared, for whoever shows it; nobody else hears of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Told = Callable[[str], object]
"""Takes what begins, in a few words."""

_LISTENER: ContextVar[Told | None] = ContextVar("listener", default=None)


@contextmanager
def listening(told: Told) -> Iterator[None]:
    """While it is entered, `told` is called with each stage that begins in this context."""
    token = _LISTENER.set(told)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def begin(stage: str) -> None:
    """Say what begins."""
    told = _LISTENER.get()
    if told is not None:
        told(stage)
