"""A network to try: how it is built, what it is asked, and how its user reads what it returns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from mcdropout.engine.reading import Task

Given = Tensor | tuple[Tensor, ...] | dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A network with random weights.

    Attributes:
        name: its library, and its name there.
        build: makes it.
        inputs: for a number of rows, what it is asked; rows are dimension 0 of each tensor.
        task: what its user wants.
        outputs: which of what it returns counts; None where it returns one tensor.
        axis: the dimension of its output that holds the classes, the rows being 0.
        alone: whether its rows have to do with one another while it drops (masks scaled by their sum over the batch, or
            drawn for another row): the engine answers each as if it were alone, and so must the plain loop be asked.
        options: what else `Engine.from_module` is given.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], Given]
    task: Task = "classification"
    outputs: str | int | None = None
    axis: int = 1
    alone: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """What `Engine.from_module` is given beside the network and its inputs."""
        told = {} if self.task == "regression" or self.axis == 1 else {"class_axis": self.axis}
        read = {} if self.outputs is None else {"output": self.outputs}
        return {"task": self.task, **read, **told, **self.options}


def mapped(change: Callable[[Tensor], Tensor], given: Given) -> Given:
    """The inputs, each of them changed."""
    if isinstance(given, dict):
        return {name: change(value) for name, value in given.items()}
    return tuple(map(change, given)) if isinstance(given, tuple) else change(given)


def tensors(given: Given) -> tuple[Tensor, ...]:
    """The inputs, in order."""
    if isinstance(given, dict):
        return tuple(given.values())
    return given if isinstance(given, tuple) else (given,)
