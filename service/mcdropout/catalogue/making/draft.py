"""Drafts: what is known of a bundle before it is written."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcdropout.engine.reading import Task

Write = Callable[[Path], object]
"""Writes a file, or a folder, at a path."""


@dataclass(frozen=True)
class DraftInput:
    """An input, as `model.yaml` is to declare it.

    Attributes:
        name, shape, dtype, minimum, maximum: as `catalogue.inputs.Input` has them.
        preprocessing, image: the same, as they are written; empty for none.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"
    minimum: float | None = None
    maximum: float | None = None
    preprocessing: dict[str, Any] = field(default_factory=dict)
    image: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Draft:
    """A bundle before it is written.

    Attributes:
        name: what it may be called.
        inputs: what clients send.
        network: the fields that name the network: `model`, or `network`, `arguments` and `weights`.
        files: what lies in the folder beside `model.yaml` and the example, by name.
        task: what it answers; None where the source does not say.
        labels: of the classes; None for their numbers.
        by_keyword: whether the network takes its inputs by keyword.
        sizes: for each name in the shapes, the least and the most.
        output: what counts of what the network returns; None for all of it.
        preprocess: the bundle's own code that makes rows of what clients send.
        example: what a client would send as `inputs`; None to have values drawn.
        description: a sentence.
        add: dropout that is added, for each pattern of modules.
        offers: what else than added dropout helps where there is none, as a phrase; empty for nothing.
        notes: what its user should know.
    """

    name: str
    inputs: tuple[DraftInput, ...]
    network: dict[str, Any]
    files: dict[str, Write]
    task: Task | None = None
    labels: tuple[str, ...] | None = None
    by_keyword: bool = False
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    output: Any = None
    preprocess: str | None = None
    example: Any = None
    description: str = ""
    add: dict[str, float] = field(default_factory=dict)
    offers: str = ""
    notes: tuple[str, ...] = ()
