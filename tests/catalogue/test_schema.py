"""The JSON Schema of `model.yaml`: it takes what servers take, and says of each field what it is."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mcdropout.catalogue.manifest import BundleError, read_manifest
from mcdropout.catalogue.schema import manifest_schema
from tests.bundles import manifest
from tests.conftest import MODELS
from tests.patience import patience
from tests.servers import MCDROPOUT, ROOT

SCHEMA = manifest_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
BUNDLES = sorted(MODELS.glob("*/model.yaml"))


def accepted_by_a_server(folder: Path, content: dict[str, Any]) -> bool:
    (folder / "model.yaml").write_text(yaml.safe_dump(content))
    try:
        read_manifest(folder / "model.yaml")
    except BundleError:
        return False
    return True


def test_the_command_prints_it() -> None:
    done = subprocess.run([str(MCDROPOUT), "schema"], capture_output=True, text=True, timeout=patience(60), check=True)
    assert json.loads(done.stdout) == SCHEMA
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.parent.name)
def test_it_takes_the_bundles_of_this_repository(path: Path) -> None:
    VALIDATOR.validate(yaml.safe_load(path.read_text()))


INPUT = {"shape": [4]}
TOKENS = {"name": "ids", "shape": ["tokens"], "dtype": "int64", "minimum": 1, "maximum": 9}
COLUMNS = {"shape": [2], "columns": ["a", "b"]}
TAKEN: list[dict[str, Any]] = [
    {},
    {"output": "logits"},
    {"output": 1},
    {"output": {"as": "logits", "classes": -1}},
    {"task": "regression", "output": {"mean": 0, "log_variance": "noise"}, "interval": "none"},
    {"task": "regression", "interval": 0.8},
    {"input": None, "inputs": [TOKENS], "sizes": {"tokens": [1, 128]}},
    {"input": None, "inputs": [TOKENS], "sizes": {"tokens": {"minimum": 2, "maximum": 8, "multiple": 2}}},
    {"dropout": {"add": {"head": 0.1, "body.*": {"p": 0.2, "kind": "channel"}}}},
    {"input": COLUMNS | {"categories": {"a": ["x", "y"]}}},
    {"input": COLUMNS | {"categories": {"b": {"x": 0, "y": 1.5}}}},
    {"input": INPUT | {"preprocessing": {"mean": [0, 1, 2, 3], "std": 2}}},
    {"network": None, "weights": None, "model": "model.onnx"},
    {"arguments": {"width": 3}, "passes": {"default": 10}},
]
REFUSED: list[dict[str, Any]] = [
    {"name": "no name"},
    {"version": 1},
    {"task": "guessing"},
    {"nmae": "x"},
    {"input": None},
    {"network": None},
    {"input": {"shape": [0]}},
    {"input": {"shape": ["no name"]}},
    {"input": INPUT | {"dtype": "float31"}},
    {"input": COLUMNS | {"categories": {"a": "x"}}},
    {"passes": {"default": True}},
    {"passes": {"maximum": 0}},
    {"interval": 95},
    {"interval": "all"},
    {"threshold": 1.5},
    {"threshold": True},
    {"temperature": 0},
    {"task": "regression", "noise_variance": -1},
    {"task": "regression", "likelihood": "student_t", "df": 2},
    {"task": "regression", "output": {"quantiles": [0, 0.5]}},
    {"dropout": {"add": {"head": 1}}},
    {"dropout": {"add": {"head": {"kind": "channel"}}}},
    {"output": {"form": "logits"}},
    {"output": [0, 1]},
    {"input": None, "inputs": [TOKENS], "sizes": {"tokens": [1]}},
]


@pytest.mark.parametrize("changes", TAKEN, ids=str)
def test_it_takes_what_a_server_takes(tmp_path: Path, changes: dict[str, Any]) -> None:
    content = manifest("model", **changes)
    assert accepted_by_a_server(tmp_path, content)
    VALIDATOR.validate(content)


@pytest.mark.parametrize("changes", REFUSED, ids=str)
def test_what_it_refuses_a_server_refuses_too(tmp_path: Path, changes: dict[str, Any]) -> None:
    content = manifest("model", **changes)
    assert not VALIDATOR.is_valid(content)
    assert not accepted_by_a_server(tmp_path, content)


def mappings(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict):
            yield schema
        for part in schema.values():
            yield from mappings(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from mappings(part)


def test_it_says_of_each_field_what_it_is() -> None:
    found = list(mappings(SCHEMA))
    assert {
        "model.yaml",
        "Input",
        "Output",
        "Dropout",
        "AddedDropout",
        "Passes",
        "Rates",
        "SizeRange",
        "Preprocessing",
        "Image",
    } == {mapping["title"] for mapping in found}
    for mapping in found:
        assert mapping["description"].endswith("."), mapping["title"]
        assert "Attributes" not in mapping["description"]
        for name, field in mapping["properties"].items():
            assert field.get("description", "").endswith("."), (mapping["title"], name)
            assert field["description"][:1] in ("`", field["description"][:1].upper())


def test_the_comment_that_editors_read_names_the_file_that_the_documents_have_written() -> None:
    page = (ROOT / "docs/network/bundle.md").read_text()
    written, comment = re.search(r"mcdropout schema > (\S+)`", page), re.search(r"^# yaml-.*$", page, re.MULTILINE)
    assert written is not None
    assert comment is not None
    place, named = (ROOT / "models" / "my-model"), comment[0].removeprefix("# yaml-language-server: $schema=")
    assert (place / named).resolve() == (ROOT / written[1]).resolve()
    shown = subprocess.run([str(MCDROPOUT), "schema", "--help"], capture_output=True, text=True, timeout=patience(60))
    assert comment[0] in " ".join(shown.stdout.split())
