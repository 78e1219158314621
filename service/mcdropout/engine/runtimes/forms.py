"""Forms: what a program can be handed to a runtime as. A network is found in one of them, and brought into others."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Protocol, cast

from mcdropout.engine.program import Cost, Graphs, Outline
from mcdropout.engine.runtimes.protocol import Runtime

if TYPE_CHECKING:
    from torch import nn


class Form(Enum):
    """A form that a program may have."""

    GRAPHS = auto()
    """Prefix and suffix as ONNX: `Graphs`."""
    MODULES = auto()
    """Prefix and suffix as modules of PyTorch: `Modules`."""
    EAGER = auto()
    """The network itself, which its own framework runs: a function that makes its `Runtime` for a device."""


class FormError(Exception):
    """A program cannot be brought into a form; the message says why."""


class Modules(Protocol):
    """A program as modules of PyTorch."""

    @property
    def prefix(self) -> "nn.Module":
        """`(*inputs) -> frontier`; each frontier value `[rows, ...]`."""

    @property
    def suffix(self) -> "nn.Module":
        """`(rows, *frontier, *masks) -> outputs`; `rows` is `[pairs]` int64, outputs are `[pairs, ...]`."""


@dataclass(frozen=True)
class Runnable:
    """A program that a runtime may run: a network, cut where masks enter or not, and the forms that it has.

    Attributes:
        strategy: as a `Program` has it.
        outline: what crosses from prefix to suffix, and what it costs.
        cost: counts its operations.
        forms: what gives it in each form, at once or, where it takes converting, when first asked; raises `FormError`.
    """

    strategy: str
    outline: Outline
    cost: Callable[[], Cost]
    forms: Mapping[Form, Callable[[], Any]]

    def graphs(self) -> Graphs:
        """The program as ONNX."""
        return cast(Graphs, self.forms[Form.GRAPHS]())

    def modules(self) -> Modules:
        """The program as modules of PyTorch."""
        return cast(Modules, self.forms[Form.MODULES]())

    def eager(self, device: str) -> Runtime:
        """The network itself, on a device."""
        return cast(Runtime, self.forms[Form.EAGER]()(device))
