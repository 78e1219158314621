"""The `model.yaml` of a draft: the fields that its user may want to change, each with a word on what it is for."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from mcdropout.catalogue.making.draft import Draft, DraftInput
from mcdropout.catalogue.making.examples import fields_of

_BEHIND = 40  # the column at which comments begin, where there is room
_MOST_LINE = 118
_OF_INPUT = {
    "name": "what clients call it",
    "shape": "of one row; a name is a size that differs from row to row",
    "minimum": "values outside are refused",
    "image": "how a PNG or JPEG becomes a row; resize: none, stretch or crop",
    "preprocessing": "(x * scale - mean) / std, before the network",
}


def document_of(draft: Draft, name: str, text: str) -> str:
    """The text of a `model.yaml`.

    Args:
        draft: what the bundle is.
        name: of the bundle.
        text: what it was made of.
    """
    lines = [
        f'# Made by `mcdropout init {text}`. The README, under "Your own network", has all fields.',
        *_lines(draft, name),
    ]
    return "\n".join(lines) + "\n"


def _lines(draft: Draft, name: str) -> Iterator[str]:
    yield _line("name", name, "the folder's name")
    yield _line("version", "1", "any text; every answer carries it")
    if draft.description:
        yield _line("description", draft.description)
    yield _line("task", draft.task, "or classification, binary, multilabel, regression")
    yield from _labels(draft)
    yield from _inputs(draft)
    if draft.sizes:
        sizes = {name: list(bounds) for name, bounds in draft.sizes.items()}
        yield _line("sizes", sizes, "the least and the most that is accepted")
    if draft.by_keyword:
        yield _line("inputs_by", "keyword", "forward(name=...)")
    if draft.output is not None:
        yield _line("output", draft.output, "what of all that the network returns is the answer")
    yield from _passes_and_dropout(draft)
    for key, value in draft.network.items():
        if value:
            yield _line(key, value, "the network is made with these" if key == "arguments" else "")
    if draft.preprocess:
        yield _line("preprocess", draft.preprocess, "makes rows of what clients send; text may be sent then")


def _labels(draft: Draft) -> Iterator[str]:
    if draft.labels:
        yield _line("labels", list(draft.labels), "of the classes, in the order of the network's outputs")
    elif draft.task == "binary":
        yield _behind("# labels: [no, yes]", "names for the two answers")
    elif draft.task != "regression":
        yield _behind("# labels: [cat, dog]", "names for the classes, which are numbers without")
    if draft.task in ("binary", "multilabel"):
        yield _behind("# threshold: 0.5", "the mean probability from which on the answer is yes")


def _inputs(draft: Draft) -> Iterator[str]:
    single = len(draft.inputs) == 1
    yield "input:" if single else "inputs:"
    for given in draft.inputs:
        first, *others = _input(given)
        yield f"  {'' if single else '- '}{first}"
        for line in others:
            yield f"  {'' if single else '  '}{line}"


def _input(given: DraftInput) -> Iterator[str]:
    fields = fields_of(given)
    for key, value in fields.items():
        yield from _line(key, value, _OF_INPUT.get(key, "")).splitlines()
    if "float" in given.dtype and given.minimum is None:
        yield _behind("# minimum: 0", "and maximum: values outside are refused")
        yield _behind("# preprocessing: {mean: 0.5, std: 0.25}", "(x * scale - mean) / std, before the network")


def _passes_and_dropout(draft: Draft) -> Iterator[str]:
    yield _line("passes", {"default": 50, "maximum": 1000}, "of a row, where a request names none, and at most")
    if draft.add:
        yield _line("dropout", {"add": dict(draft.add)}, "new dropout on what this module returns: calibrate it")
    else:
        yield _behind('# dropout: {exclude: ["encoder.*"]}', "which sites are on, by patterns; all without")


def _line(key: str, value: Any, comment: str = "") -> str:
    """A field, with a comment behind it or, where there is no room, above it."""
    line = f"{key}: {_flow(value)}"
    if not comment:
        return line
    behind = _behind(line, comment)
    return behind if len(behind) <= _MOST_LINE else f"# {comment}\n{line}"


def _behind(line: str, comment: str) -> str:
    return f"{line.ljust(_BEHIND)}  # {comment}"


def _flow(value: Any) -> str:
    """A value as YAML, in a line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(name)}: {_flow(each)}" for name, each in value.items()) + "}"
    text: str = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    text = text.removesuffix("\n").removesuffix("\n...")
    return f'"{text[1:-1]}"' if text[:1] == "'" and text[1:-1].isalnum() else text
