"""The OpenAPI document: as it is committed, and with an example for each model that is loaded.

Where it is to change, `python -m tests.api.test_openapi` writes it anew.
"""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from mcdropout.api import Services, create_app
from mcdropout.settings import Settings
from tests.conftest import MODELS
from tests.servers import ROOT, Server

COMMITTED = ROOT / "docs" / "openapi.json"


def document() -> dict[str, Any]:
    """That of a server no model of which is loaded."""
    app = create_app(Services.of(Settings(models=MODELS, preload=False)))
    made: dict[str, Any] = TestClient(app).get("/openapi.json", headers={"host": "localhost"}).json()
    return made


def written(made: dict[str, Any]) -> str:
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def test_the_document_is_the_one_that_is_committed() -> None:
    assert COMMITTED.read_text() == written(document()), "python -m tests.api.test_openapi writes it anew"


def test_each_model_that_is_loaded_has_an_example_that_it_answers(server: Server) -> None:
    paths = server.client.get("/openapi.json").json()["paths"]
    examples = paths["/models/{name}/predict"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert examples.keys() == {path.parent.name for path in Path(MODELS).glob("*/example.json")}
    for name, example in examples.items():
        answer: httpx.Response = server.client.post(f"/models/{name}/predict?mc=2", json=example["value"])
        assert answer.status_code == 200, name
    (default,) = paths["/predict"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert default == "mnist-cnn"


@pytest.mark.parametrize("path", ["/predict", "/predict/stream", "/models/{name}/predict", "/v2/models/{name}/infer"])
def test_every_parameter_and_answer_of_a_prediction_is_described(path: str) -> None:
    operation = document()["paths"][path]["post"]
    assert all(one["description"] for one in operation.get("parameters", []) if one["in"] != "path")
    assert all(response["description"] for response in operation["responses"].values())
    statuses = (200, 400, 401, 403, 404, 408, 413, 421, 422, 429, 431, 500, 503, 504)
    assert set(map(str, statuses)) <= operation["responses"].keys()


if __name__ == "__main__":
    COMMITTED.parent.mkdir(exist_ok=True)
    COMMITTED.write_text(written(document()))
