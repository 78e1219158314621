"""Inspection: all that can be told of a network before it serves."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from service.engine.candidates import first_line
from service.engine.engine import Engine
from service.engine.errors import EngineError
from service.engine.findings import Finding, findings_of_graph, findings_of_sites
from service.engine.inputs import Inputs, Task
from service.engine.masks import MaskSource
from service.engine.preparation import Understood, understand
from service.engine.program import export

TIMED_ROWS = 8
_TIMED_SECONDS = 0.3
_UNDERSTANDING = ("row_axis", "outputs", "output_row_axis", "selection")


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
    module: nn.Module,
    example_inputs: Inputs,
    task: Task = "classification",
    *,
    passes: int = 50,
    **options: Any,
) -> Inspection:
    """Make an engine of a network, look for what is known to go wrong, and time it.

    Args:
        module, example_inputs, task: as for `Engine.from_module`.
        passes: how many to time.
        options: as for `Engine.from_module`.
    """
    try:
        engine = Engine.from_module(module, example_inputs, task, **options)
    except EngineError as error:
        return Inspection(None, str(error))
    understood = understand(
        module, example_inputs, **{name: value for name, value in options.items() if name in _UNDERSTANDING}
    )
    findings, reason = _findings(understood)
    seconds = _seconds(engine, understood, passes), _seconds(engine, understood, 0)
    return Inspection(engine, None, tuple(findings), reason, passes, seconds)


def _findings(understood: Understood) -> tuple[list[Finding], str | None]:
    network = understood.network
    found = findings_of_sites(network.sites, understood.off)
    if network.alone:
        return found, "its dropout mixes rows"
    inputs = tuple(torch.from_numpy(x) for x in understood.arrays)
    try:
        graph = export(network, inputs, MaskSource(network.sites))
    except Exception as error:  # whatever the exporter raises
        return found, f"torch.export cannot follow the network: {first_line(error)}"
    return found + findings_of_graph(graph, len(inputs), network.sites), None


def _seconds(engine: Engine, understood: Understood, passes: int) -> float:
    """The median time of some predictions of 8 rows."""
    rows = np.arange(TIMED_ROWS) % len(understood.arrays[0])
    arrays = [np.moveaxis(x[rows], 0, spec.row_axis) for x, spec in zip(understood.arrays, engine.inputs, strict=True)]
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
