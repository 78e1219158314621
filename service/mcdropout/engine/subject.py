"""Subjects: what is prepared for serving, a PyTorch network or an ONNX graph, in the form that preparation sees."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

from mcdropout.engine.arrays import Array
from mcdropout.engine.checks import Check
from mcdropout.engine.errors import InvalidInputError
from mcdropout.engine.findings import Finding
from mcdropout.engine.inputs import InputSpec
from mcdropout.engine.program import Cost, Outline
from mcdropout.engine.runtimes import Runtime
from mcdropout.engine.runtimes.sessions import SessionOptions
from mcdropout.engine.sites import Site, SiteOff

RuntimeName = Literal["auto", "sparse", "onnx", "torch", "eager"]
EXAMPLE_ROWS = 3
"""How many example rows a network is prepared with: torch.export specializes on the sizes 0 and 1."""


@dataclass(frozen=True)
class Candidate:
    """A way to run a network.

    Attributes:
        strategy: as a `Program` has it.
        outline: what is known of the program.
        cost: counts its operations.
        build: sets it up; raises whatever an exporter or a runtime does.
    """

    strategy: str
    outline: Outline
    cost: Callable[[], Cost]
    build: Callable[[], Runtime]


@dataclass(frozen=True)
class Target:
    """Where a network is to run.

    Attributes:
        device: "cpu", "cuda" or "cuda:N".
        runtime: what to run it on; "auto" for the fastest that passes its checks.
        options: of ONNX Runtime's sessions.
    """

    device: str = "cpu"
    runtime: RuntimeName = "auto"
    options: SessionOptions = field(default_factory=SessionOptions)

    def check(self) -> None:
        """Raise InvalidInputError for the first attribute that cannot be used."""
        if self.runtime not in get_args(RuntimeName):
            *names, last = (f'"{name}"' for name in get_args(RuntimeName))
            raise InvalidInputError(f"runtime is {self.runtime!r}; {', '.join(names)} or {last} would be accepted")
        _check_device(self.device)
        if self.device != "cpu" and self.runtime in ("sparse", "onnx"):
            raise InvalidInputError(
                f'runtime is {self.runtime!r}, which runs on the CPU; on {self.device!r}, "torch" is accepted'
            )
        self.options.check()

    @property
    def prefers_sparse(self) -> bool:
        """Whether the native runtime is taken where it is expected to be faster."""
        return self.runtime == "auto" and self.device == "cpu" and self.options.provider == "cpu"


class Subject(Protocol):
    """A network whose randomness is known: `f(x, masks)`, and what it is checked against.

    Attributes:
        sites: what takes a mask, in the order in which a pass meets it.
        off: the sites that are off, with the reasons.
        inputs: what it takes.
        arrays: example inputs, `[EXAMPLE_ROWS, ...]` each, whose rows differ.
        eager: the network itself under masks, run in the plainest way there is.
        plain: the same with nothing dropped; `eager` itself where there are masks that keep everything.
        tolerance: how far a program may be from the network itself under the same masks.
        advice: what may mend it, where with nothing dropped it is not what it is in inference.
    """

    sites: tuple[Site, ...]
    off: tuple[SiteOff, ...]
    inputs: tuple[InputSpec, ...]
    arrays: tuple[Array, ...]
    eager: Runtime
    plain: Runtime
    tolerance: float
    advice: str | None

    def eval_outputs(self) -> tuple[Array, ...]:
        """What the network as its owner has it answers to `arrays` in inference, `[EXAMPLE_ROWS, ...]` each."""

    def own_checks(self) -> list[Check]:
        """What is to be checked of the network itself, after it was run."""

    def candidates(self, target: Target, reasons: list[str]) -> Iterator[Candidate]:
        """The ways to run it under masks, fastest first; why one is left out is added to `reasons`."""

    def baseline_candidates(self, target: Target) -> Iterator[Candidate]:
        """The ways to run it with nothing dropped, where no masks stand for that."""

    def findings(self) -> tuple[list[Finding], str | None]:
        """What is worth knowing about its dropout, and why the flow of data could not be looked at, where not."""


def _check_device(device: str) -> None:
    if device == "cpu":
        return
    if not re.fullmatch(r"cuda(:\d+)?", device):
        raise InvalidInputError(f'device is {device!r}; "cpu", "cuda" or "cuda:N" would be accepted')
    try:
        import torch
    except ImportError as error:
        raise InvalidInputError(f'device is {device!r}, which takes PyTorch; "cpu" works without it') from error
    if not torch.cuda.is_available():
        raise InvalidInputError(f'device is {device!r}, but PyTorch finds no CUDA device; "cpu" would be accepted')
