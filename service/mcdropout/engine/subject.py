"""Subjects: what is prepared for serving, a PyTorch network or an ONNX graph, in the form that preparation sees."""

from collections.abc import Iterator
from typing import Protocol

from mcdropout.engine.arrays import Array
from mcdropout.engine.checks import Check
from mcdropout.engine.findings import Finding
from mcdropout.engine.inputs import InputSpec
from mcdropout.engine.returned import Returned
from mcdropout.engine.runtimes import Refusal, Runnable, Runtime, Target
from mcdropout.engine.settling import Evidence
from mcdropout.engine.sites import Site, SiteOff
from mcdropout.engine.sizes import Sizes, Sizing
from mcdropout.engine.trials import Trial

EXAMPLE_ROWS = 3
"""How many example rows a network is prepared with: torch.export specializes on the sizes 0 and 1."""


class Subject(Protocol):
    """A network whose randomness is known: `f(x, masks)`, and what it is checked against.

    Attributes:
        sites: what takes a mask, in the order in which a pass meets it.
        off: the sites that are off, with the reasons.
        inputs: what it takes.
        arrays: example inputs, `[EXAMPLE_ROWS, ...]` each, whose rows differ.
        trials: what it answers to rows unlike these, in which a row alone is answered as beside the others.
        eager: the network itself under masks, run in the plainest way there is.
        plain: the same with nothing dropped; `eager` itself where there are masks that keep everything.
        tolerance: how far a program may be from the network itself under the same masks.
        sizing: which sizes of the inputs may differ from row to row; None where none may.
        evidence: what it says of its output, but for its answers.
        mixes: whether its rows were seen to influence one another with nothing dropped.
        mixers: what in it is known to let rows influence one another, in words; None where nothing is.
        advice: what may mend it, where with nothing dropped it is not what it is in inference.
    """

    sites: tuple[Site, ...]
    off: tuple[SiteOff, ...]
    inputs: tuple[InputSpec, ...]
    arrays: tuple[Array, ...]
    trials: tuple[Trial, ...]
    eager: Runtime
    plain: Runtime
    tolerance: float
    sizing: Sizing | None
    evidence: Evidence
    mixes: bool
    mixers: str | None
    advice: str | None

    def at(self, sizes: Sizes) -> "Subject":
        """The same network with examples of other sizes, where these may differ; to be compared with, no more."""

    def eval_outputs(self, arrays: tuple[Array, ...] | None = None) -> tuple[Array, ...]:
        """What the network as its owner has it answers in inference to rows, or to its `arrays`, `[rows, ...]` each.

        It may raise whatever its code does of rows that it does not take, such as those of other sizes.
        """

    def returned(self) -> Returned:
        """All that the network returns, for messages."""

    def own_checks(self) -> list[Check]:
        """What is to be checked of the network itself, after it was run."""

    def programs(self, target: Target) -> Iterator[Runnable | Refusal]:
        """The programs that it can be made into, in forms that the target's runtimes take, and why there are no others.

        Those with the most in their prefix come first.
        """

    def baseline_programs(self, target: Target) -> Iterator[Runnable | Refusal]:
        """The same with nothing dropped, where no masks stand for that."""

    def findings(self) -> tuple[list[Finding], str | None]:
        """What is worth knowing about its dropout, and why the flow of data could not be looked at, where not."""
