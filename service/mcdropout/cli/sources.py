"""Options of `mcdropout init` and `mcdropout serve` that say of a source what cannot be seen in it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Weights = Annotated[Path | None, typer.Option(help="A checkpoint: .safetensors, or what torch.save wrote.")]
Task = Annotated[str | None, typer.Option(help="What it answers: classification, binary, multilabel or regression.")]
Labels = Annotated[str | None, typer.Option(help="Names of the classes in their order, such as cat,dog.")]
Shape = Annotated[
    list[str],
    typer.Option(
        help="Of one row, such as 3,224,224, or 128:int64; for each input one, with its name before it: mask=128:bool."
    ),
]
Sizes = Annotated[
    list[str],
    typer.Option(help="For a name in a shape, the least and the most: tokens=1:128.", metavar="NAME=LEAST:MOST"),
]
Module = Annotated[str | None, typer.Option(help="What makes the network of a checkpoint (.ckpt): module:Class.")]
Argument = Annotated[
    list[str],
    typer.Option(
        help="What the network is made with, such as num_classes=10; several times for several.", metavar="NAME=VALUE"
    ),
]
Output = Annotated[str | None, typer.Option(help="Which of what the network returns is the answer, such as logits.")]
Inject = Annotated[
    float | None,
    typer.Option(help="Add dropout with this p before the last layer, for a network that was trained without any."),
]


def source_of(
    text: str,
    weights: Path | None,
    task: str | None,
    labels: str | None,
    shape: Sequence[str],
    sizes: Sequence[str],
    module: str | None,
    argument: Sequence[str],
    output: str | None,
    inject: float | None,
) -> Any:
    """A source, with what its user says of it.

    Raises:
        SourceError: an option cannot be used.
    """
    from typing import get_args

    from mcdropout.catalogue.making.source import Source, SourceError
    from mcdropout.engine.reading import Task as Tasks

    if task is not None and task not in get_args(Tasks):
        raise SourceError(f"--task is {task!r}; {', '.join(get_args(Tasks))} are accepted")
    if inject is not None and not 0.0 < inject < 1.0:
        raise SourceError(f"--inject is {inject:g}; a probability between 0 and 1, such as 0.1, is accepted")
    return Source(
        text,
        task,  # type: ignore[arg-type]
        None if labels is None else tuple(label.strip() for label in labels.split(",")),
        tuple(shape),
        dict(map(_size, sizes)),
        weights,
        module,
        dict(map(_argument, argument)),
        output,
        inject,
    )


def _size(text: str) -> tuple[str, tuple[int, int]]:
    from mcdropout.catalogue.making.source import SourceError

    name, named, bounds = text.partition("=")
    least, _, most = bounds.partition(":")
    if not named or not least.isdecimal() or not most.isdecimal():
        raise SourceError(f"--sizes is {text!r}; NAME=LEAST:MOST, such as tokens=1:128, is accepted")
    return name, (int(least), int(most))


def _argument(text: str) -> tuple[str, Any]:
    from mcdropout.catalogue.document import DocumentError, parse_document
    from mcdropout.catalogue.making.source import SourceError

    name, named, value = text.partition("=")
    if not named or not name.isidentifier():
        raise SourceError(f"--argument is {text!r}; NAME=VALUE, such as num_classes=10, is accepted")
    try:
        return name, parse_document(value)
    except DocumentError as error:
        raise SourceError(f"--argument is {text!r}, whose value {error}; one as YAML has it is accepted") from error
