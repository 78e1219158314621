"""Tensors of a request, whatever it came by; their values are read once it is known what the model takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Listed:
    """Values as a JSON text has them, of a list that is long enough to be parsed in parts.

    Attributes:
        text: the list.
    """

    text: bytes


@dataclass(frozen=True)
class Packed:
    """Values as they lie in memory, the last dimension fastest, little-endian."""

    content: memoryview


@dataclass(frozen=True)
class Typed:
    """Values of a message that has a field for each datatype: all that it holds, by the names of these fields."""

    contents: Mapping[str, Sequence[Any]]


Values = list[Any] | Listed | Packed | Typed


@dataclass(frozen=True)
class Tensor:
    """An input.

    Attributes:
        name, datatype, shape: as the request says.
        values: what it holds.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Values


@dataclass(frozen=True)
class Wanted:
    """An output that is asked for; `binary` says how, None where that is left to the request."""

    name: str
    binary: bool | None = None


@dataclass(frozen=True)
class InferRequest:
    """A request.

    Attributes:
        id: what the answer is to carry; empty for nothing.
        parameters: of the prediction, as the query of /predict has them.
        inputs: the tensors.
        outputs: those that are asked for; all where there are none.
        binary: whether outputs that leave it open are to come as they lie in memory.
    """

    id: str
    parameters: Mapping[str, Any]
    inputs: Sequence[Tensor]
    outputs: Sequence[Wanted] = field(default_factory=tuple)
    binary: bool = False
