"""Sources: what a bundle is to be made of, and what its user says of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from mcdropout.catalogue.inputs import Dtype
from mcdropout.engine.reading import Task


class SourceError(Exception):
    """No bundle can be made of a source. The message says why, and which option or form would be accepted."""


@dataclass(frozen=True)
class Source:
    """What a bundle is to be made of.

    Attributes:
        text: as it was given: a path, `module:function`, `timm:name`.
        task, labels: of what the network answers; None where nobody says.
        shapes: of one row of each input, as `given_shape` reads them.
        sizes: for each name in these, the least and the most size.
        weights: a checkpoint; None for the source's own.
        module: for a checkpoint alone, `module:Class` of what it belongs to.
        arguments: what makes the network is called with them.
        output: which of what the network returns counts.
        inject: the probability of dropout to add; None for none.
    """

    text: str
    task: Task | None = None
    labels: tuple[str, ...] | None = None
    shapes: tuple[str, ...] = ()
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    weights: Path | None = None
    module: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    output: str | None = None
    inject: float | None = None

    @property
    def path(self) -> Path:
        """It as a path."""
        return Path(self.text)


@dataclass(frozen=True)
class GivenShape:
    """The shape of one row of an input, as a user gives it.

    Attributes:
        name: of the input; None where it is not said.
        shape: sizes, and names of sizes that differ from row to row.
        dtype: None where it is not said.
    """

    name: str | None
    shape: tuple[int | str, ...]
    dtype: str | None


def given_shape(text: str) -> GivenShape:
    """`[NAME=]SIZES[:DTYPE]`, such as `3,224,224`, `tokens:int64` or `mask=128:bool`; SIZES may be empty.

    Raises:
        SourceError: it is something else.
    """
    before, named, rest = text.partition("=")
    sizes, typed, dtype = (rest if named else before).partition(":")
    parts = [part.strip() for part in sizes.split(",") if part.strip()]
    shape = tuple(int(part) if part.isdecimal() else part for part in parts)
    if any(
        (isinstance(part, int) and part < 1) or (isinstance(part, str) and not part.isidentifier()) for part in shape
    ):
        raise SourceError(
            f"--shape is {text!r}; sizes with commas between, such as 3,224,224, names for those that differ from row "
            "to row, such as tokens:int64, and the input's own name before it, mask=128:bool, are accepted"
        )
    if typed and dtype not in get_args(Dtype):
        raise SourceError(f"--shape is {text!r}, of the dtype {dtype!r}; {', '.join(get_args(Dtype))} are accepted")
    return GivenShape(before if named else None, shape, dtype or None)
