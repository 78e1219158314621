"""Answers: what of a bundle follows from the shapes that a network takes and returns; needs no PyTorch."""

from collections.abc import Sequence

from mcdropout.catalogue.making.asking import Ask, Question
from mcdropout.catalogue.making.draft import DraftInput
from mcdropout.catalogue.making.source import Source, SourceError
from mcdropout.engine.reading import Task


def task_of(shape: tuple[int, ...], source: Source, ask: Ask) -> Task:
    """What a network answers that returns this shape."""
    if source.task is not None:
        return source.task
    one = len(shape) == 1 or shape[1:] == (1,)
    if source.labels:
        return "binary" if one and len(source.labels) == 2 else "classification"
    needed = (
        f"{source.text} returns one number a row ({list(shape)} for {shape[0]} rows), which may be a yes or no, or a "
        "quantity"
    )
    choices = ("binary", "regression") if one else ("classification", "multilabel", "regression")
    default = None if one else "classification"
    answer = ask(Question("What does it answer?", "--task", default, choices, needed if one else ""))
    return answer  # type: ignore[return-value]


def check_sizes(inputs: Sequence[DraftInput], source: Source) -> None:
    """Raise SourceError where names in shapes and `--sizes` differ."""
    used = {size for one in inputs for size in one.shape if isinstance(size, str)}
    if used != set(source.sizes):
        raise SourceError(
            f"the shapes name the sizes {sorted(used) or 'none'}, and --sizes says what is accepted for "
            f"{sorted(source.sizes) or 'none'}; --sizes NAME=LEAST:MOST for each name is accepted"
        )
