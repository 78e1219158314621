"""A statistic is added in one place, from outside, and is then everywhere."""

import json
from typing import Any

import numpy as np
import pytest
from mcdropout.api import create_app
from mcdropout.cli import app
from mcdropout.engine import Engine
from mcdropout.engine.statistics import TASKS, Field, register
from mcdropout.settings import Settings
from starlette.testclient import TestClient
from typer.testing import CliRunner

from tests.api.documented import strict_validator
from tests.conftest import MODELS
from tests.patience import wait_until


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


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "classification", TASKS["classification"])  # as it was, afterwards
    register("classification", RANGE)


@pytest.fixture(scope="module")
def body() -> Any:
    return json.loads((MODELS / "mnist-cnn" / "example.json").read_text())


def test_a_statistic_that_was_added_is_in_a_prediction(body: Any) -> None:
    engine = Engine.load(MODELS / "mnist-cnn" / "compiled")
    x = np.asarray([body["inputs"]], np.float32) / 255.0
    samples = engine.samples(x, passes=20, seed=3)
    np.testing.assert_array_equal(engine.predict(x, passes=20, seed=3).range, samples.max(axis=0) - samples.min(axis=0))
    assert engine.predict(x, passes=0).range is None


def test_a_statistic_that_was_added_is_in_the_answer_and_in_what_documents_it(body: Any) -> None:
    with TestClient(create_app(Settings(models=MODELS, default="mnist-cnn", preload=False))) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        for mc in (0, 5, "auto"):
            answer = client.post(f"/predict?mc={mc}&seed=3", json=body).json()
            (row,) = answer["predictions"]
            assert list(row)[-1] == "range"
            assert row["range"] is None if mc == 0 else len(row["range"]) == 10
            document = client.get("/openapi.json").json()
            strict_validator(document).validate(answer)
        documented = document["components"]["schemas"]["ClassificationRow"]["properties"]["range"]
        assert documented["description"] == RANGE.description
        assert client.get("/models/mnist-cnn").json()["output"]["statistics"][-1] == {
            "name": "range",
            "description": RANGE.description,
            "unit": None,
        }


def test_a_statistic_that_was_added_is_in_an_inspection() -> None:
    table = CliRunner().invoke(app, ["inspect", str(MODELS / "mnist-cnn")], env={"COLUMNS": "160"})
    assert RANGE.description in table.output
    document = CliRunner().invoke(app, ["inspect", str(MODELS / "mnist-cnn"), "--format", "json"])
    assert json.loads(document.output)[0]["statistics"][-1]["name"] == "range"
