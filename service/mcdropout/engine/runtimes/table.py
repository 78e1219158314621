"""The table of runtimes: which there are, in the order in which they are tried, what each accepts, and how it is built.

A runtime is a row of the table, registered in its own file; nothing else knows its name. `register` adds one from
outside just as well.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from mcdropout.engine.errors import InvalidInputError
from mcdropout.engine.runtimes.forms import Form, Runnable
from mcdropout.engine.runtimes.protocol import Runtime
from mcdropout.engine.runtimes.sessions import SessionOptions

AUTO = "auto"
"""In place of a runtime's name: the first of all that passes its checks."""


@dataclass(frozen=True)
class Refusal:
    """Why something is not run.

    Attributes:
        reason: as a sentence, without its full stop.
    """

    reason: str


@dataclass(frozen=True)
class RuntimeKind:
    """A runtime, as the table has it.

    Attributes:
        name: what it is called, wherever runtimes are named.
        rank: its place among the others: those with less are tried first.
        takes: the form of a program that it takes.
        build: sets it up for a program on a target; raises whatever it does.
        accepts: why it does not run a program, which has that form, on a target; None where it does.
        cpu_only: whether it has no use for another device than the CPU.
        note: what its name does not say, for those who read the names; may be empty.
    """

    name: str
    rank: int
    takes: Form
    build: "Callable[[Runnable, Target], Runtime]"
    accepts: "Callable[[Runnable, Target], Refusal | None]" = lambda program, target: None
    cpu_only: bool = False
    note: str = ""


TABLE: dict[str, RuntimeKind] = {}
"""The runtimes that there are, by name."""


def register(kind: RuntimeKind) -> RuntimeKind:
    """Add a runtime to the table.

    Raises:
        ValueError: its name is taken.
    """
    if kind.name == AUTO or kind.name in TABLE:
        raise ValueError(f"a runtime is called {kind.name!r}, which is taken; another name than {names()} is accepted")
    TABLE[kind.name] = kind
    return kind


def by_rank() -> list[RuntimeKind]:
    """The runtimes in the order in which they are tried."""
    return sorted(TABLE.values(), key=lambda kind: kind.rank)


def names() -> tuple[str, ...]:
    """What may be asked for: "auto", and the runtimes by name."""
    return AUTO, *(kind.name for kind in by_rank())


def described() -> str:
    """The runtimes by name, with their notes, in the order in which they are tried; a phrase for documents."""
    parts = [f'"{kind.name}"' + (f" ({kind.note})" if kind.note else "") for kind in by_rank()]
    return _listed(parts)


@dataclass(frozen=True)
class Target:
    """Where a network is to run.

    Attributes:
        device: "cpu", "cuda" or "cuda:N".
        runtime: what to run it on, by name; "auto" for the first that passes its checks.
        options: of ONNX Runtime's sessions.
    """

    device: str = "cpu"
    runtime: str = AUTO
    options: SessionOptions = field(default_factory=SessionOptions)

    @property
    def by_name(self) -> bool:
        """Whether one runtime is asked for, instead of the first that will do."""
        return self.runtime != AUTO

    @property
    def kinds(self) -> list[RuntimeKind]:
        """The runtimes that may be used, in the order in which they are tried."""
        if self.by_name:
            return [TABLE[self.runtime]]
        return [kind for kind in by_rank() if self.device == "cpu" or not kind.cpu_only]

    @property
    def forms(self) -> frozenset[Form]:
        """The forms that these take."""
        return frozenset(kind.takes for kind in self.kinds)

    def check(self) -> None:
        """Raise InvalidInputError for the first attribute that cannot be used."""
        if self.runtime not in names():
            known = _listed([f'"{name}"' for name in names()])
            raise InvalidInputError(f"runtime is {self.runtime!r}; {known} would be accepted")
        _check_device(self.device)
        if not all(self.device == "cpu" or not kind.cpu_only for kind in self.kinds):
            other = next(kind.name for kind in by_rank() if not kind.cpu_only)
            raise InvalidInputError(
                f'runtime is {self.runtime!r}, which runs on the CPU; on {self.device!r}, "{other}" is accepted'
            )
        if not isinstance(self.options, SessionOptions):
            raise InvalidInputError(f"sessions is {self.options!r}; SessionOptions are accepted")
        self.options.check()


def _listed(parts: list[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} or {last}" if first else last


def _check_device(device: object) -> None:
    if device == "cpu":
        return
    if not isinstance(device, str) or not re.fullmatch(r"cuda(:\d+)?", device):
        raise InvalidInputError(f'device is {device!r}; "cpu", "cuda" or "cuda:N" would be accepted')
    try:
        import torch
    except ImportError as error:
        raise InvalidInputError(f'device is {device!r}, which takes PyTorch; "cpu" works without it') from error
    if not torch.cuda.is_available():
        raise InvalidInputError(f'device is {device!r}, but PyTorch finds no CUDA device; "cpu" would be accepted')
