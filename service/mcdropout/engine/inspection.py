"""Inspection: all that can be said of a network before it serves."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mcdropout.engine.engine import Engine
from mcdropout.engine.errors import EngineError
from mcdropout.engine.faults import refusing
from mcdropout.engine.findings import Finding
from mcdropout.engine.inputs import Inputs
from mcdropout.engine.reading import Reading
from mcdropout.engine.runtimes import Target
from mcdropout.engine.subject import Subject

TIMED_ROWS = 8
_TIMED_SECONDS = 0.3


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        engine: the network, ready to serve; None where it is refused.
        error: why it is refused.
        findings: what is worth knowing about its dropout.
        not_analysed: why the flow of data around the sites could not be looked at.
        passes: how many passes were timed.
        seconds: the time of `passes` passes of 8 rows, and of the deterministic baseline.
    """

    engine: Engine | None
    error: str | None = None
    findings: tuple[Finding, ...] = ()
    not_analysed: str | None = None
    passes: int = 0
    seconds: tuple[float, float] | None = None


def inspect(
    understand: Callable[[], Subject], reading: Reading, target: Target | None = None, *, passes: int = 50
) -> Inspection:
    """Make an engine of a network, look for what is known to go wrong, and time it.

    Args:
        understand: finds out what in the network is random.
        reading: what its outputs mean.
        target: where to run it.
        passes: how many to time.
    """
    try:
        subject = understand()
        engine = Engine.prepare(subject, reading, target)
        with refusing("the network fails while it is inspected"):
            findings, reason = subject.findings()
            seconds = _seconds(engine, subject, passes), _seconds(engine, subject, 0)
    except EngineError as error:
        return Inspection(None, str(error))
    return Inspection(engine, None, tuple(findings), reason, passes, seconds)


def _seconds(engine: Engine, subject: Subject, passes: int) -> float:
    """The median time of some predictions of 8 rows."""
    rows = np.arange(TIMED_ROWS) % len(subject.arrays[0])
    arrays = [np.moveaxis(x[rows], 0, spec.row_axis) for x, spec in zip(subject.arrays, engine.inputs, strict=True)]
    names = [spec.name for spec in engine.inputs]
    x: Inputs = tuple(arrays)
    if names[0] is not None:
        x = dict(zip(map(str, names), arrays, strict=True))
    engine.predict(x, passes, 0)
    times: list[float] = []
    while not times or sum(times) < _TIMED_SECONDS:
        start = time.perf_counter()
        engine.predict(x, passes, 0)
        times.append(time.perf_counter() - start)
    return float(np.median(times))
