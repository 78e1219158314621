"""Programs: a network cut where its masks enter, its graphs in files, and what is known of both."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcdropout.engine.chain import Chain
from mcdropout.engine.checks import Check


@dataclass(frozen=True)
class FrontierValue:
    """A tensor that crosses from prefix to suffix.

    Attributes:
        shape: without the row dimension, where it has one.
        per_row: whether its first dimension is the row; one that has none is shared by all pairs.
        input: which of the network's inputs it is; None where the prefix computes it.
        merged: whether inside the network the row shares a dimension with the first of `shape`.
    """

    shape: tuple[int, ...]
    per_row: bool
    input: int | None
    merged: bool = False


@dataclass(frozen=True)
class Cost:
    """Floating-point operations of products, convolutions and attention, which is where the time goes.

    Attributes:
        prefix: of what runs once a row.
        suffix: of what runs once for each pass of a row.
    """

    prefix: int
    suffix: int

    @property
    def share_once(self) -> float:
        """The share of one forward pass that runs once a row, 0 to 1; 0 where nothing is counted."""
        return self.prefix / (self.prefix + self.suffix) if self.prefix + self.suffix else 0.0

    def in_deterministic_passes(self, passes: int) -> float:
        """What so many passes cost, in forward passes of the whole network."""
        return self.share_once + passes * (1.0 - self.share_once)


@dataclass(frozen=True)
class Outline:
    """What is known of a program before it is built.

    Attributes:
        frontier: the tensors that cross from prefix to suffix.
        prefix_operations: operations that run once a row.
        suffix_operations: operations that run once a pass.
        suffix_bytes: memory of the suffix's intermediate values for one pair, in bytes; an upper estimate.
    """

    frontier: tuple[FrontierValue, ...] = ()
    prefix_operations: int = 0
    suffix_operations: int = 0
    suffix_bytes: int = 0

    @property
    def has_prefix(self) -> bool:
        """Whether anything is left to compute once a row."""
        return any(value.input is None for value in self.frontier)


@dataclass(frozen=True)
class Program:
    """How a network runs.

    Attributes:
        strategy: "split": what no mask touches runs once a row; "whole": all of it runs once a pass; "mapped",
            "repeated" and "loop": so it does, with every row a batch of its own, all at once, some passes of a row at
            once, or one after another.
        runtime: its name in the table of runtimes.
        device: "cpu" or a CUDA device, or, of ONNX Runtime, its execution provider.
        reason: why nothing faster was used; None where nothing faster was tried.
        frontier: the tensors that cross from prefix to suffix.
        prefix_operations: operations that run once a row.
        suffix_operations: operations that run once a pass.
        cost: the floating-point operations of both.
        checks: what was verified: of the network when it was prepared, and of its program whenever it is loaded.
    """

    strategy: str
    runtime: str
    device: str
    reason: str | None
    frontier: tuple[FrontierValue, ...]
    prefix_operations: int
    suffix_operations: int
    cost: Cost
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Graph:
    """An ONNX graph in a file.

    Attributes:
        path: the file; tensors may lie in others beside it.
        inputs: the names of its inputs, in the order in which values are given. It may lack some: they are left out.
    """

    path: Path
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Graphs:
    """A program as ONNX.

    Attributes:
        prefix: `(*inputs) -> frontier`; each frontier value `[rows, ...]`. None where the frontier is inputs.
        suffix: `(rows, *frontier, *masks) -> outputs`; `rows` is `[pairs]` int64, outputs are `[pairs, ...]`.
        outline: what crosses, and what it costs.
        chain: what the suffix is, where it is one; None otherwise.
        keeper: whatever removes the files once nobody needs them; None where they are to stay.
    """

    prefix: Graph | None
    suffix: Graph
    outline: Outline
    chain: Chain | None = None
    keeper: Any = field(default=None, compare=False)
