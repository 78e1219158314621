"""The four ways to extend the house, each in one place: a statistic, a runtime, a wire format, a dropout-like function.

What is between two rulers is all that it takes. Each is then seen in the answer, in `GET /models/{name}`, in the
OpenAPI document and in `mcdropout inspect`.
"""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from starlette.testclient import TestClient
from torch import Tensor
from typer.testing import CliRunner

from mcdropout.api import Services, create_app, formats
from mcdropout.api.formats import Format
from mcdropout.catalogue.inputs import Input
from mcdropout.catalogue.rows import read_rows
from mcdropout.cli import app
from mcdropout.engine import Engine, kinds, runtimes, statistics
from mcdropout.engine.arrays import Array
from mcdropout.engine.kinds import Kind
from mcdropout.engine.pytorch.calls import RandomCalls, apply_mask, handles, mode
from mcdropout.engine.runtimes import Form, Runnable, RuntimeKind, Target
from mcdropout.engine.runtimes.onnx import OnnxRuntime
from mcdropout.engine.statistics import Field
from mcdropout.predictions import Answered, Pause
from mcdropout.settings import Settings
from tests.api.documented import strict_validator
from tests.bundles import write_bundle
from tests.compilations import compiled
from tests.conftest import MODELS
from tests.exporting import export_quickly
from tests.patience import wait_until

DIGIT = json.loads((MODELS / "mnist-cnn" / "example.json").read_text())

# --- a statistic -----------------------------------------------------------------------------------------------------


class Extremes:
    """The least and the greatest probability of each class over the passes so far, `[rows, classes, ...]`."""

    def __init__(self) -> None:
        self.low: Any = np.inf
        self.high: Any = -np.inf

    def update(self, block: Any) -> None:
        self.low = np.minimum(self.low, block.samples.min(axis=1))
        self.high = np.maximum(self.high, block.samples.max(axis=1))

    def take(self, rows: Any) -> "Extremes":
        taken = Extremes()
        taken.low, taken.high = self.low[rows], self.high[rows]
        return taken


RANGE = Field(
    "range",
    "Greatest less least probability of each class over the passes.",
    "[rows, classes, ...]",
    lambda summary: summary.state(Extremes).high - summary.state(Extremes).low,
    state=Extremes,
    json_type=list[Any],
)


def add_statistic() -> None:
    statistics.register("classification", RANGE)


# --- a runtime -------------------------------------------------------------------------------------------------------


class DoubleOnnx(OnnxRuntime):
    """ONNX Runtime, whose outputs are handed on as float64."""

    def suffix(self, frontier: Any, rows: Any, masks: list[Array]) -> tuple[Array, ...]:
        return tuple(output.astype(np.float64) for output in super().suffix(frontier, rows, masks))


def build_double(program: Runnable, target: Target) -> DoubleOnnx:
    return DoubleOnnx(program.graphs(), target.options)


def add_runtime() -> None:
    runtimes.register(RuntimeKind(name="double", rank=5, takes=Form.GRAPHS, build=build_double, cpu_only=True))


# --- a wire format ---------------------------------------------------------------------------------------------------


def read_lines(body: bytes, inputs: Sequence[Input], most: int | None, pause: Pause) -> tuple[Array, ...]:
    """A row a line, its numbers apart by spaces, in the order in which they lie in memory."""
    rows = [np.array(line.split(), float).reshape(inputs[0].shape).tolist() for line in body.decode().splitlines()]
    return read_rows(json.dumps({"inputs": rows}).encode(), inputs, most)


def write_lines(answered: Answered, pause: Pause) -> bytes:
    """The means, a row a line."""
    means = answered.answer.prediction.mean
    return "".join(f"{' '.join(map(str, mean.ravel().tolist()))}\n" for mean in means).encode()


def add_format() -> None:
    formats.register(Format("lines of numbers", ("text/plain",), read_lines, write_lines))


# --- a dropout-like function -----------------------------------------------------------------------------------------


@torch.library.custom_op("house::dropout_add", mutates_args=())
def dropout_add(x: Tensor, residual: Tensor, p: float, training: bool) -> Tensor:
    """Somebody's fused operator, which PyTorch knows nothing about: `dropout(x) + residual`."""
    return F.dropout(x, p, training) + residual


def masked_dropout_add(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    x, residual, p, training = args
    return apply_mask(x, mode.ask("residual", p, training and p > 0.0, x.shape, x)) + residual


def add_function() -> None:
    kinds.register(Kind("residual", "units of a branch, before it is added"))
    handles(torch.ops.house.dropout_add)(masked_dropout_add)


# ---------------------------------------------------------------------------------------------------------------------

RESIDUAL = """
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.branch, self.last = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 3)

        def forward(self, x):
            hidden = self.first(x).relu()
            hidden = torch.ops.house.dropout_add(self.branch(hidden), hidden, 0.25, self.training)
            return self.last(hidden)
"""


@pytest.fixture(autouse=True)
def _inspected_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    export_quickly()
    monkeypatch.setattr("mcdropout.engine.inspection._TIMED_SECONDS", 0.0)  # each is timed once


@pytest.fixture(autouse=True)
def _tables_as_they_were() -> Iterator[None]:
    tables: list[dict[Any, Any]] = [
        statistics.TASKS,
        runtimes.TABLE,
        formats.TABLE,
        kinds.KINDS,
        mode._HANDLERS,
    ]
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


@contextmanager
def served(folder: Path, bundle: Path) -> Iterator[TestClient]:
    """The service over one bundle, in this process, where what was added to its tables counts."""
    shutil.copytree(bundle, folder / "served" / bundle.name)
    with TestClient(create_app(Services.of(Settings(models=folder / "served")))) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        yield client


def inspected(bundle: Path) -> str:
    """What `mcdropout inspect` prints."""
    output: str = CliRunner().invoke(app, ["inspect", str(bundle)], env={"COLUMNS": "200"}).output
    return output


def test_a_statistic(tmp_path: Path) -> None:
    add_statistic()
    engine = Engine.load(MODELS / "mnist-cnn" / "compiled")
    x = np.asarray([DIGIT["inputs"]], np.float32) / 255.0
    samples = engine.samples(x, passes=20, seed=3)
    np.testing.assert_array_equal(engine.predict(x, passes=20, seed=3).range, samples.max(axis=0) - samples.min(axis=0))
    with served(tmp_path, MODELS / "mnist-cnn") as client:
        document = client.get("/openapi.json").json()
        for mc in (0, 5, "auto"):
            answer = client.post(f"/predict?mc={mc}&seed=3", json=DIGIT).json()
            (row,) = answer["predictions"]
            assert list(row)[-1] == "range"
            assert row["range"] is None if mc == 0 else len(row["range"]) == 10
            strict_validator(document).validate(answer)
        described = {"name": "range", "description": RANGE.description, "unit": None}
        assert client.get("/models/mnist-cnn").json()["output"]["statistics"][-1] == described
    documented = document["components"]["schemas"]["ClassificationRow"]["properties"]["range"]
    assert documented["description"] == RANGE.description
    assert RANGE.description in inspected(MODELS / "mnist-cnn")


def test_a_runtime(tmp_path: Path) -> None:
    with served(tmp_path / "before", MODELS / "mnist-cnn") as client:
        wanted = client.post("/predict?mc=20&seed=3", json=DIGIT).json()["predictions"][0]
        assert client.get("/models/mnist-cnn").json()["program"]["runtime"] == "onnx"
    add_runtime()
    with served(tmp_path, MODELS / "mnist-cnn") as client:
        answer = client.post("/predict?mc=20&seed=3", json=DIGIT).json()["predictions"][0]
        np.testing.assert_allclose(answer["mean"], wanted["mean"], atol=1e-6)
        program = client.get("/models/mnist-cnn").json()["program"]
        schema = client.get("/openapi.json").json()["components"]["schemas"]["ProgramDescription"]["properties"]
    assert program["runtime"] == "double"
    assert all(check["passed"] for check in program["checks"])
    assert '"double"' in schema["runtime"]["description"]
    assert "on double (cpu)" in inspected(MODELS / "mnist-cnn")


def test_a_wire_format(tmp_path: Path) -> None:
    add_format()
    with served(tmp_path, MODELS / "mnist-cnn") as client:
        wanted = client.post("/predict?mc=20&seed=3", json=DIGIT).json()["predictions"][0]
        body = " ".join(map(str, np.ravel(DIGIT["inputs"]).tolist()))
        kinds_of_text = {"content-type": "text/plain", "accept": "text/plain"}
        answer = client.post("/predict?mc=20&seed=3", content=f"{body}\n{body}", headers=kinds_of_text)
        assert answer.headers["content-type"].startswith("text/plain")
        first, _ = answer.text.splitlines()
        np.testing.assert_allclose(np.array(first.split(), float), wanted["mean"], rtol=1e-6, atol=1e-12)
        assert client.get("/models/mnist-cnn").json()["formats"][-1] == "text/plain"
        operation = client.get("/openapi.json").json()["paths"]["/predict"]["post"]
        refused = client.post("/predict", content=body, headers={"content-type": "text/csv"})
    assert "text/plain" in operation["requestBody"]["content"]
    assert "text/plain" in operation["responses"]["200"]["content"]
    assert refused.status_code == 415
    assert "or text/plain is accepted" in refused.json()["detail"]
    assert "text/plain" in inspected(MODELS / "mnist-cnn")


def test_a_dropout_like_function(tmp_path: Path) -> None:
    add_function()
    bundle = compiled(write_bundle(tmp_path, "residual", RESIDUAL))
    with served(tmp_path, bundle) as client:
        rows = {"inputs": [[0.5, -1.0, 2.0, 1.0]]}
        (row,) = client.post("/predict?mc=200&seed=3", json=rows).json()["predictions"]
        assert min(row["variance"]) > 0.0
        assert row["mutual_information"] > 0.0
        (site,) = client.get("/models/residual").json()["sites"]
        schema = client.get("/openapi.json").json()["components"]["schemas"]["SiteDescription"]["properties"]
    assert (site["kind"], site["p"], site["shape"], site["on"]) == ("residual", 0.25, [16], True)
    assert '"residual": units of a branch, before it is added' in schema["kind"]["description"]
    assert re.search(r"\(network\) +residual +0.25", inspected(bundle))
