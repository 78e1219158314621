"""Probing: a PyTorch network is run once on example rows, to see what it returns, and where dropout could be added."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mcdropout.catalogue.making.asking import Ask, Question
from mcdropout.catalogue.making.source import Source, SourceError
from mcdropout.engine.faults import refusing

Examples = tuple[Tensor, ...] | dict[str, Tensor]


@dataclass(frozen=True)
class Seen:
    """What a network has shown of itself.

    Attributes:
        returned: the shape of each tensor that it returned, by the path to it; by "" where it is the one thing.
        place: the module whose output the last linear layer takes; None where there is none.
        words: for each input of whole numbers that goes straight into an embedding, how many that knows.
    """

    returned: dict[str, tuple[int, ...]]
    place: str | None
    words: dict[int, int]


def probe(network: nn.Module, examples: Examples, what: str) -> Seen:
    """Run a network in eval mode.

    Args:
        network: it.
        examples: `[rows, ...]` each, by position or by keyword.
        what: what it is called in messages.

    Raises:
        SourceError: it fails.
    """
    values = list(examples.values() if isinstance(examples, dict) else examples)
    called: list[tuple[str, nn.Module]] = []
    words: dict[int, int] = {}

    def seen(path: str, module: nn.Module, given: tuple[Any, ...]) -> None:
        called.append((path, module))
        if isinstance(module, nn.Embedding) and given:
            for place, value in enumerate(values):
                if isinstance(given[0], Tensor) and given[0].data_ptr() == value.data_ptr():
                    words[place] = module.num_embeddings

    handles = [
        part.register_forward_pre_hook(lambda module, given, path=path: seen(path, module, given))
        for path, part in network.named_modules()
        if not any(part.children()) and path
    ]
    accepted = "rows as it takes them are accepted: --shape says their sizes and dtypes, such as --shape 128:int64"
    try:
        with torch.no_grad(), refusing(f"{what} fails in eval mode on {_shapes(values)}", accepted, SourceError):
            network.eval()
            answer = network(**examples) if isinstance(examples, dict) else network(*examples)
    finally:
        for handle in handles:
            handle.remove()
    return Seen(dict(_tensors(answer, "")), _before_last_linear(called), words)


def _shapes(values: list[Tensor]) -> str:
    return " and ".join(f"{str(x.dtype).removeprefix('torch.')} of shape {list(x.shape)}" for x in values)


def _tensors(value: Any, path: str) -> list[tuple[str, tuple[int, ...]]]:
    """The tensors of floating-point numbers in what a network returned."""
    if isinstance(value, Tensor):
        return [(path, tuple(value.shape))] if value.is_floating_point() else []
    inner: Any = value.items() if isinstance(value, Mapping) else ()
    if isinstance(value, tuple | list):
        inner = getattr(value, "_asdict", lambda: dict(enumerate(value)))().items()
    return [found for name, part in inner for found in _tensors(part, f"{path}.{name}" if path else str(name))]


def _before_last_linear(called: list[tuple[str, nn.Module]]) -> str | None:
    layers = [place for place, (_, module) in enumerate(called) if isinstance(module, nn.Linear | nn.Conv2d)]
    return called[layers[-1] - 1][0] if layers and layers[-1] > 0 else None


def output_of(seen: Seen, source: Source, ask: Ask) -> tuple[Any, tuple[int, ...]]:
    """What of the things that a network returns counts, as `model.yaml` says it, and its shape."""
    names = list(seen.returned)
    if not names:
        raise SourceError(f"{source.text} returns no tensor of floating-point numbers; a network that does is accepted")
    if source.output is not None:
        if source.output not in names:
            raise SourceError(
                f"--output is {source.output!r}; the network returns {', '.join(names)}, of which one is accepted"
            )
        return _entry(source.output), seen.returned[source.output]
    if len(names) == 1:
        return (_entry(names[0]) if names[0] else None), seen.returned[names[0]]
    if len(names) == 2 and source.task == "regression":
        return None, seen.returned[names[0]]  # the mean, and its noise: which, is found out
    default = "logits" if "logits" in names else names[0]
    shapes = ", ".join(f"{name} {list(shape)}" for name, shape in seen.returned.items())
    chosen = ask(Question(f"It returns {shapes}. Which of them is the answer?", "--output", default, tuple(names)))
    return _entry(chosen), seen.returned[chosen]


def _entry(name: str) -> str | int:
    return int(name) if name.isdecimal() else name
