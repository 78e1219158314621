"""Hugging Face: a folder that `save_pretrained` wrote, with its tokenizer or its image processor."""

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mcdropout.catalogue.making import images, texts
from mcdropout.catalogue.making.asking import Ask
from mcdropout.catalogue.making.checkpoints import write_weights
from mcdropout.catalogue.making.draft import Draft, DraftInput, Write
from mcdropout.catalogue.making.networks import NETWORK, WEIGHTS, added
from mcdropout.catalogue.making.probing import probe
from mcdropout.catalogue.making.source import Source, SourceError
from mcdropout.engine.faults import refusing
from mcdropout.engine.reading import Task

CONFIG = "config.json"


@dataclass(frozen=True)
class _Head:
    """What models with one kind of head answer, and of what: by the end of the class's name."""

    auto: str
    takes: str
    output: Any
    task: Task | None = None


_HEADS = {
    "ForSequenceClassification": _Head("AutoModelForSequenceClassification", "texts", "logits"),
    "ForTokenClassification": _Head(
        "AutoModelForTokenClassification", "texts", {"entry": "logits", "classes": -1}, "classification"
    ),
    "ForImageClassification": _Head("AutoModelForImageClassification", "images", "logits"),
    "ForSemanticSegmentation": _Head(
        "AutoModelForSemanticSegmentation", "images", {"entry": "logits", "classes": 1}, "classification"
    ),
}
_TASKS: dict[str, Task] = {
    "regression": "regression",
    "multi_label_classification": "multilabel",
    "single_label_classification": "classification",
}


def draft(source: Source, ask: Ask) -> Draft:
    folder = source.path
    if not (folder / CONFIG).is_file():
        raise SourceError(
            f"{folder} holds an adapter alone; what model.merge_and_unload().save_pretrained(folder) writes is accepted"
        )
    config = _read(folder / CONFIG)
    architecture, head = _head(folder, config)
    if config.get("auto_map"):
        raise SourceError(
            f"{folder} takes code of its own (auto_map in {CONFIG}), which is not run; a function that makes the "
            "network, path/to/file.py:function, with --weights is accepted"
        )
    network = _network(folder, head.auto)
    task = source.task or head.task or _task(config, network)
    inputs, sizes, files, preprocess, example = _TAKES[head.takes](source, network)
    return Draft(
        folder.resolve().name,
        inputs,
        {"network": f"{NETWORK}:network", "weights": WEIGHTS},
        {
            NETWORK: lambda place: place.write_text(_CODE.format(auto=head.auto, architecture=architecture)),
            CONFIG: lambda place: place.write_bytes((folder / CONFIG).read_bytes()),
            WEIGHTS: partial(write_weights, _state(network)),
            **files,
        },
        task,
        source.labels or (None if task == "regression" else _labels(network)),
        True,
        sizes,
        head.output,
        preprocess,
        example,
        f"{architecture}, as save_pretrained wrote it.",
        _added(source, network, inputs),
        offers="probabilities of dropout that config.json has as 0 (hidden_dropout_prob, dropout, ...)",
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise SourceError(f"{path} holds {type(found).__name__}; what save_pretrained writes is accepted")
    return found


def _head(folder: Path, config: dict[str, Any]) -> tuple[str, _Head]:
    names = config.get("architectures") or []
    for name in names:
        for ending, head in _HEADS.items():
            if name.endswith(ending):
                return name, head
    found = f"is a {', '.join(names)}" if names else "names no architecture"
    raise SourceError(
        f"{folder / CONFIG} {found}; models of {', '.join(_HEADS)} are accepted; of others a function that returns "
        "the network and example inputs is, path/to/file.py:function"
    )


def _network(folder: Path, auto: str) -> Any:
    transformers = module_of("transformers", folder)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with refusing(f"{folder} cannot be loaded by {auto}", kind=SourceError):
        return getattr(transformers, auto).from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


def module_of(name: str, source: object) -> Any:
    """A package that a source takes.

    Raises:
        SourceError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SourceError(
            f"{source} takes {name}, which cannot be imported ({error}); pip install {name} mends it"
        ) from error


def _state(network: Any) -> dict[str, torch.Tensor]:
    return dict(network.state_dict())


def _task(config: dict[str, Any], network: Any) -> Task:
    named = config.get("problem_type")
    if named in _TASKS:
        return _TASKS[named]
    return "regression" if network.config.num_labels == 1 else "classification"


def _labels(network: Any) -> tuple[str, ...] | None:
    """The names of the classes; None where they are those that were never given."""
    names = network.config.id2label
    labels = tuple(str(names[number]) for number in sorted(names, key=int))
    unnamed = all(label == f"LABEL_{number}" for number, label in enumerate(labels))
    return None if unnamed or len(set(labels)) < len(labels) else labels


def _added(source: Source, network: Any, inputs: tuple[DraftInput, ...]) -> dict[str, float]:
    if source.inject is None:
        return {}
    dtypes = {"int64": torch.int64, "float32": torch.float32}
    shapes = [[2 if isinstance(size, str) else size for size in one.shape] for one in inputs]
    rows = {one.name: torch.ones(2, *shape, dtype=dtypes[one.dtype]) for one, shape in zip(inputs, shapes, strict=True)}
    return added(source, probe(network, rows, source.text).place)


Taken = tuple[tuple[DraftInput, ...], dict[str, tuple[int, int]], dict[str, Write], str | None, Any]
"""What a model takes: its inputs, their sizes, files, the hook, and an example."""
_TAKES: dict[str, Callable[[Source, Any], Taken]] = {"texts": texts.taken, "images": images.taken}

_CODE = '''"""The network, {architecture}, as config.json beside it says. Made by `mcdropout init`."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, {auto}


def network() -> Any:
    config = AutoConfig.from_pretrained(Path(__file__).parent)
    return {auto}.from_config(config, dtype=torch.float32)
'''
