"""Networks: what there is to say of a PyTorch network that is at hand, whichever kind of source has made it."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mcdropout.catalogue.making.answers import check_sizes, task_of
from mcdropout.catalogue.making.asking import Ask, Question
from mcdropout.catalogue.making.checkpoints import State, write_weights
from mcdropout.catalogue.making.draft import Draft, DraftInput, Write
from mcdropout.catalogue.making.examples import example_of, prepared
from mcdropout.catalogue.making.probing import Examples, Seen, output_of, probe
from mcdropout.catalogue.making.source import GivenShape, Source, SourceError, given_shape

NETWORK, WEIGHTS = "network.py", "weights.safetensors"
ROWS = 3
"""How many rows a network is tried on."""


@dataclass(frozen=True)
class Network:
    """A network, and how a bundle makes it again.

    Attributes:
        module: it, with its weights.
        name: what the bundle may be called.
        function: the function or class in `network.py` that makes it.
        files: that file, and what it takes.
        arguments: what it is called with.
        inputs: what it takes; None where the source does not say.
        examples: rows that came with it; None where none did.
        labels, description, offers, notes: as `Draft` has them.
    """

    module: nn.Module
    name: str
    function: str
    files: dict[str, Write]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[DraftInput, ...] | None = None
    examples: Examples | None = None
    labels: tuple[str, ...] | None = None
    description: str = ""
    offers: str = ""
    notes: tuple[str, ...] = ()


def draft_of(made: Network, source: Source, ask: Ask, saved: dict[str, Any] | None = None) -> Draft:
    """The bundle of a network: what it takes and answers is seen where it is run, and asked for where that is not so.

    Args:
        made: the network.
        source: what it was made of.
        ask: answers what cannot be seen.
        saved: the fields that name the network, where a file of its own holds it; None where code and weights do.
    """
    inputs, examples = _inputs(made, source, ask)
    seen = probe(made.module, examples, source.text)
    inputs = _with_words(inputs, seen)
    output, shape = output_of(seen, source, ask)
    task = _several(seen, source) or task_of(shape, source, ask)
    example = _as_sent(examples, inputs) if made.examples is examples else example_of(inputs, source.sizes)
    return Draft(
        made.name,
        inputs,
        saved or {"network": f"{NETWORK}:{made.function}", "arguments": dict(made.arguments), "weights": WEIGHTS},
        made.files if saved else {**made.files, WEIGHTS: partial(write_weights, _state(made, source))},
        task,
        _labels(made, task, source, shape, ask),
        isinstance(examples, dict),
        dict(source.sizes),
        output if task != "regression" or len(seen.returned) != 2 or source.output is not None else None,
        example=example,
        description=made.description,
        add=added(source, seen.place),
        offers=made.offers,
        notes=made.notes,
    )


def _state(made: Network, source: Source) -> State:
    state: State = {name: value for name, value in made.module.state_dict().items() if isinstance(value, Tensor)}
    if not state:
        raise SourceError(f"{source.text} has no weights; a network with parameters is accepted")
    return state


def _several(seen: Seen, source: Source) -> Any:
    """The task of a network that returns a mean and its noise, two of one shape without names; None for others."""
    shapes = list(seen.returned.values())
    alike = len(shapes) == 2 and shapes[0] == shapes[1] and set(seen.returned) == {"0", "1"}
    return "regression" if alike and source.task is None and not source.labels and source.output is None else None


def _labels(made: Network, task: str, source: Source, shape: tuple[int, ...], ask: Ask) -> tuple[str, ...] | None:
    if source.labels or task == "regression":
        return source.labels
    if made.labels:
        return made.labels
    classes = "two answers, no first" if task == "binary" else f"{shape[1] if len(shape) > 1 else ''} classes".strip()
    given = ask(
        Question(f"Names of its {classes}, with commas between (none: their numbers)?", "--labels", optional=True)
    )
    return tuple(name.strip() for name in given.split(",")) if given.strip() else None


def added(source: Source, place: str | None) -> dict[str, float]:
    """The dropout that is to be added: behind the module whose output the last linear layer takes."""
    if source.inject is None:
        return {}
    if place is None:
        raise SourceError(
            f"--inject is {source.inject:g}, and {source.text} has no layer before a last linear one to put it behind; "
            "`dropout: add:` in a model.yaml of your own names any module"
        )
    return {place: source.inject}


def _inputs(made: Network, source: Source, ask: Ask) -> tuple[tuple[DraftInput, ...], Examples]:
    names = _names(made.module)
    if made.examples is not None and not source.shapes:
        return _inputs_of(made.examples, names), made.examples
    if made.inputs is not None and not source.shapes:
        found = made.inputs
    else:
        texts = source.shapes or (_ask_shape(source, names, ask),)
        given = [given_shape(text) for text in texts]
        found = tuple(_declared(one, place, names) for place, one in enumerate(given))
        if made.inputs and len(made.inputs) == len(found) == 1:  # another size of the same
            found = (_resized(made.inputs[0], found[0]),)
    check_sizes(found, source)
    arrays = [torch.from_numpy(x) for x in prepared(found, source.sizes, ROWS)]
    by_keyword = bool(source.shapes) and all(given_shape(text).name for text in source.shapes) and len(found) > 1
    return found, {one.name: x for one, x in zip(found, arrays, strict=True)} if by_keyword else tuple(arrays)


def _ask_shape(source: Source, names: Sequence[str], ask: Ask) -> str:
    called = f" ({', '.join(names)})" if names else ""
    needed = f"{source.text} does not say what sizes a row of its input{called} has"
    example = "such as --shape 3,224,224, or --shape 128:int64, for each input one"
    return ask(
        Question(
            "What sizes has one row of its input, such as 3,224,224 or 128:int64?",
            "--shape",
            needed=f"{needed}, {example}",
        )
    )


def _names(module: nn.Module) -> list[str]:
    """The inputs that a network has to be given, by the names of its own code."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [each.name for each in parameters if each.kind in kinds and each.default is inspect.Parameter.empty]


def _declared(given: GivenShape, place: int, names: Sequence[str]) -> DraftInput:
    name = given.name or (names[place] if place < len(names) else "input" if place == 0 else f"input{place}")
    return DraftInput(name, given.shape, given.dtype or "float32")


def _resized(known: DraftInput, given: DraftInput) -> DraftInput:
    """An input whose rows have another size, such as images for a network that takes any."""
    image = {name: value for name, value in known.image.items() if name != "shorter"}
    return replace(known, shape=given.shape, image=image)


def _inputs_of(examples: Examples, names: Sequence[str]) -> tuple[DraftInput, ...]:
    """Inputs as the rows that came with a network show them."""
    named = (
        examples.items()
        if isinstance(examples, dict)
        else [(names[i] if i < len(names) else f"input{i}", x) for i, x in enumerate(examples)]
    )
    return tuple(DraftInput(name, tuple(x.shape[1:]), str(x.dtype).removeprefix("torch.")) for name, x in named)


def _with_words(inputs: tuple[DraftInput, ...], seen: Seen) -> tuple[DraftInput, ...]:
    """The same, whole numbers that go into an embedding within what that knows."""
    return tuple(
        DraftInput(one.name, one.shape, one.dtype, 0, seen.words[place] - 1)
        if place in seen.words and one.maximum is None and "int" in one.dtype
        else one
        for place, one in enumerate(inputs)
    )


def _as_sent(examples: Examples, inputs: Sequence[DraftInput]) -> Any:
    """Rows that came with a network as a client would send them."""
    values = examples.values() if isinstance(examples, dict) else examples
    rows = [x[:ROWS].float() if x.dtype in (torch.bfloat16, torch.float16) else x[:ROWS] for x in values]
    named = {one.name: x.detach().numpy() for one, x in zip(inputs, rows, strict=True)}
    return named if len(named) > 1 or isinstance(examples, dict) else named[inputs[0].name]
