"""Bundled engines: an engine as the folder of a bundle, which a server serves without the network that it was made of.

Its `model.yaml` says `model: compiled`: the network is what `compiled/` holds, and cannot be compiled anew.
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mcdropout.engine.compiled import write_compiled
from mcdropout.engine.errors import InvalidInputError
from mcdropout.engine.inputs import InputSpec
from mcdropout.engine.preparation import Prepared
from mcdropout.engine.reading import Reading
from mcdropout.engine.sizes import Named, Sizing

COMPILED = "compiled"
"""The folder of a bundle that compiling writes; and what `model` is where there is no other network."""
_MANIFEST, _EXAMPLE = "model.yaml", "example.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_EXAMPLE_ROWS, _MOST_NUMBERS = 3, 20_000
_OF_READING = ("temperature", "threshold", "likelihood", "df", "noise_variance", "interval")


@dataclass(frozen=True)
class Label:
    """What a bundle says beside what its engine knows.

    Attributes:
        version: any text; every answer carries it.
        labels: the names of the classes; None for their numbers.
        description: a sentence.
        inputs: for each input, in order, by the name that clients call it, further fields of it as in `model.yaml`
            (`minimum`, `preprocessing`, `columns`, `image`); None for the network's own names alone.
        preprocess: a file and a function in it, `path/to/file.py:name`, which makes rows of what clients send.
        passes: how many a request gets where it names none, and the most.
        overwrite: whether it may take the place of a bundle that is there.
    """

    version: str = "1"
    labels: Sequence[str] | None = None
    description: str = ""
    inputs: Mapping[str, Mapping[str, Any]] | None = None
    preprocess: str | None = None
    passes: tuple[int, int] = (50, 1000)
    overwrite: bool = False


def label_of(said: Mapping[str, Any]) -> Label:
    """What is said of a bundle, by the names of its fields.

    Raises:
        InvalidInputError: a name is none of these, or a value cannot be used.
    """
    known = [each.name for each in fields(Label)]
    if unknown := [name for name in said if name not in known]:
        raise InvalidInputError(f"{unknown[0]} is no argument of save_bundle; {', '.join(known)} are accepted")
    return Label(**said)


def write_bundle(prepared: Prepared, folder: Path, label: Label) -> None:
    """Write a prepared network as a bundle.

    Raises:
        UnsupportedModelError: it runs on PyTorch.
        InvalidInputError: a bundle is there already, or what is said of it does not fit.
    """
    if (folder / _MANIFEST).exists() and not label.overwrite:
        raise InvalidInputError(f"{folder} is a bundle already; overwrite=True, or another folder, is accepted")
    name = folder.resolve().name
    if not NAME.fullmatch(name):
        raise InvalidInputError(
            f"the bundle would be called {name!r}; letters, digits, '.', '_' and '-', of which the first is a "
            "letter or a digit, are accepted"
        )
    _check_labels(prepared, label.labels)
    inputs = _inputs(prepared.inputs, label.inputs)
    document: dict[str, Any] = {"name": name, "version": label.version}
    if label.description:
        document["description"] = label.description
    document["task"] = prepared.reading.task
    if label.labels is not None:
        document["labels"] = list(label.labels)
    document |= {"input": inputs[0]} if len(inputs) == 1 else {"inputs": inputs}
    document |= _sizes(prepared.sizing)
    if prepared.inputs[0].name is not None:
        document["inputs_by"] = "keyword"
    document |= _of_reading(prepared.reading)
    document["passes"] = dict(zip(("default", "maximum"), label.passes, strict=True))
    document["model"] = COMPILED
    folder.mkdir(parents=True, exist_ok=True)
    if label.preprocess is not None:
        document["preprocess"] = _copied(label.preprocess, folder)
    write_compiled(prepared, folder / COMPILED)
    _write_example(prepared, inputs, folder / _EXAMPLE, label)
    (folder / _MANIFEST).write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110))


def _check_labels(prepared: Prepared, labels: Sequence[str] | None) -> None:
    reading = prepared.reading
    if labels is None:
        return
    if reading.task == "regression":
        raise InvalidInputError(f"labels is {list(labels)!r}, which a regression has not; None is accepted")
    axis = reading.class_axis
    there = 2 if reading.task == "binary" or axis is None else prepared.reference.deterministic[0].shape[axis]
    if len(labels) != there:
        raise InvalidInputError(f"labels has {len(labels)} entries; {there}, one for each class, are accepted")


def _inputs(specs: Sequence[InputSpec], given: Mapping[str, Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """The inputs as `model.yaml` declares them."""
    own = [spec.name or ("input" if len(specs) == 1 else f"input{place}") for place, spec in enumerate(specs)]
    names = list(given) if given is not None else own
    if len(names) != len(specs) or (specs[0].name is not None and names != own):
        raise InvalidInputError(f"inputs has the names {names}; {own if specs[0].name else len(specs)} are accepted")
    return [{**_input(name, spec), **(given or {}).get(name, {})} for name, spec in zip(names, specs, strict=True)]


def _input(name: str, spec: InputSpec) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": name,
        "shape": [size.name if isinstance(size, Named) else size for size in spec.shape],
        "dtype": spec.dtype.name,
    }
    bounds = {"minimum": spec.lowest, "maximum": spec.highest}
    found |= {key: bound for key, bound in bounds.items() if bound is not None}
    if spec.row_axis:
        found["row_axis"] = spec.row_axis
    if spec.missing:
        found["missing"] = "allowed"
    return found


def _sizes(sizing: Sizing | None) -> dict[str, Any]:
    if sizing is None:
        return {}
    each = {x.name: {"minimum": x.least, "maximum": x.most, "multiple": x.multiple} for x in sizing.dimensions}
    return {"sizes": each}


def _of_reading(reading: Reading) -> dict[str, Any]:
    """What of a reading is not as it is where nobody says anything; what was settled is in the compiled engine."""
    usual = {each.name: each.default for each in fields(Reading)}
    found = {name: getattr(reading, name) for name in _OF_READING if getattr(reading, name) != usual[name]}
    if "interval" in found and found["interval"] is None:
        found["interval"] = "none"
    return found


def _copied(preprocess: str, folder: Path) -> str:
    """A hook's file, copied into the bundle, as `model.yaml` names it."""
    file, _, name = preprocess.rpartition(":")
    path = Path(file)
    if not path.is_file() or not name.isidentifier():
        raise InvalidInputError(f"preprocess is {preprocess!r}; path/to/file.py:function is accepted")
    shutil.copyfile(path, folder / path.name)
    return f"{path.name}:{name}"


def _write_example(prepared: Prepared, inputs: Sequence[Mapping[str, Any]], path: Path, label: Label) -> None:
    """The rows that the network was prepared with, unless clients send others than it takes."""
    path.unlink(missing_ok=True)
    rows = [x[:_EXAMPLE_ROWS] for x in prepared.reference.inputs]
    if any("preprocessing" in given for given in inputs) or sum(x.size for x in rows) > _MOST_NUMBERS:
        return
    if not all(np.isfinite(x).all() for x in rows):
        return
    example = {given["name"]: x.tolist() for given, x in zip(inputs, rows, strict=True)}
    path.write_text(json.dumps({"inputs": example}) + "\n")
