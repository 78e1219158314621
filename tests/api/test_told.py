"""What answers tell: no place on the server's machine, what is not loaded, and little of what was sent."""

from collections.abc import Iterator

import pytest

from tests.bundles import CLASSIFIER, write_bundle
from tests.compilations import compiled
from tests.servers import Server, serving

BODY = {"inputs": [0.1, 0.2, 0.3, 0.4]}
CRASHES = "import os, sys\nprint('a secret of', __file__, file=sys.stderr)\nsys.stderr.flush()\nos._exit(3)\n"
RAISES = "raise RuntimeError('/home/ann/data/names.csv is missing')\n"


@pytest.fixture(scope="module")
def telling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models")
    for name in ("small", "other"):
        compiled(write_bundle(folder, name, CLASSIFIER))
    for name, code in (("crashes", CRASHES), ("raises", RAISES)):
        (write_bundle(folder, name, CLASSIFIER) / "network.py").write_text(code)
    with serving(folder, tmp_path_factory.mktemp("log"), "--default", "small") as running:
        running.wait_until_ready()
        yield running


@pytest.mark.parametrize("name", ["crashes", "raises"])
def test_why_a_model_failed_names_no_place_and_quotes_no_output(telling: Server, name: str) -> None:
    for answer in (
        telling.client.get(f"/models/{name}"),
        telling.client.get("/models"),
        telling.client.post(f"/models/{name}/predict", json=BODY),
        telling.client.post(f"/models/{name}/load"),
    ):
        assert "/home/" not in answer.text
        assert "/tmp/" not in answer.text
        assert "a secret of" not in answer.text
    error = telling.client.get(f"/models/{name}").json()["error"]
    assert error.startswith(f"{name}")
    assert {"crashes": "Its last words are in the log", "raises": "names.csv is missing"}[name] in error
    assert {"crashes": "a secret of", "raises": "/home/ann/data/names.csv"}[name] in telling.log


def test_a_model_that_is_not_loaded_is_not_there(telling: Server) -> None:
    assert telling.client.post("/models/other/predict", json=BODY).status_code == 200
    assert telling.client.post("/models/other/unload").status_code == 200
    answer = telling.client.post("/models/other/predict", json=BODY)
    assert (answer.status_code, "retry-after" in answer.headers) == (404, False)
    assert answer.json()["detail"].startswith("the model 'other' is not loaded: it was unloaded")
    assert telling.client.post("/models/other/load").status_code == 200
    assert telling.client.post("/models/other/predict", json=BODY).status_code == 200


@pytest.mark.parametrize(
    "query",
    [
        "x" * 30_000 + "=1",
        "fields=" + "y" * 30_000,
        "mc=" + "9" * 30_000,
        "reduce=" + "z" * 30_000,
        "mc=1&mc=" + "1" * 30_000,
    ],
)
def test_an_error_quotes_a_little_of_what_was_sent(telling: Server, query: str) -> None:
    answer = telling.client.post(f"/predict?{query}", json=BODY)
    assert answer.status_code == 422
    assert len(answer.content) < 3000
    assert len(telling.client.post(f"/models/{'n' * 30_000}/predict", json=BODY).content) < 3000
    assert max(map(len, telling.log.splitlines())) < 10_000
