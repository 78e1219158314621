"""Hooks: a bundle's own code that makes rows of texts and objects."""

import json
import re
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcdropout import Client
from mcdropout.catalogue.bundle import Bundle
from mcdropout.catalogue.manifest import BundleError
from tests.bundles import CLASSIFIER, TOKEN_FIELDS, TOKENS, write_bundle
from tests.compilations import compiled
from tests.servers import MCDROPOUT, Server, serving

NUMBERS = """
def rows(values):
    found = []
    for value in values:
        if value == "crash":
            raise RuntimeError("the hook's own fault")
        found.append({"short": [0.5], "nan": [float("nan")] * 4, "words": ["a"] * 4}.get(str(value)) or [
            float(part) for part in (value["numbers"] if isinstance(value, dict) else value.split())])
    return found[:1] if "lose" in values else found
"""
TEXTS = """
import numpy as np

def rows(texts):
    ids = [np.array([len(word) for word in text.split()], np.int64) for text in texts]
    return {"input_ids": ids, "attention_mask": [row > 1 for row in ids]}
"""


@pytest.fixture(scope="module")
def hooked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models")
    for name, code, hook, fields in (
        ("numbers", CLASSIFIER, NUMBERS, {}),
        ("texts", TOKENS, TEXTS, TOKEN_FIELDS),
    ):
        bundle = write_bundle(folder, name, code, preprocess="preprocess.py:rows", **fields)
        (bundle / "preprocess.py").write_text(hook)
        compiled(bundle)
    with serving(folder, tmp_path_factory.mktemp("log"), "--default", "numbers") as running:
        running.wait_until_ready()
        yield running


def ask(server: Server, inputs: Any, model: str = "numbers") -> Any:
    return server.client.post(f"/models/{model}/predict?mc=5&seed=3", json={"inputs": inputs})


@pytest.mark.wide
@pytest.mark.parametrize(
    "raw", ["1 2 3 4", {"numbers": [1, 2, 3, 4]}, ["1 2 3 4", "0 0 1 1"], [{"numbers": [1, 2, 3, 4]}]]
)
def test_what_a_hook_makes_is_answered_as_rows_are(hooked: Server, raw: Any) -> None:
    rows = [[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 1.0, 1.0]][: len(raw) if isinstance(raw, list) else 1]
    found, wanted = ask(hooked, raw), ask(hooked, rows)
    assert found.status_code == wanted.status_code == 200
    assert found.json()["predictions"] == wanted.json()["predictions"]


def test_a_hook_makes_several_inputs(hooked: Server) -> None:
    found = ask(hooked, ["a bb ccc dddd e", "aa aa aa a a"], "texts")
    rows = {
        "input_ids": [[1, 2, 3, 4, 1], [2, 2, 2, 1, 1]],
        "attention_mask": [[False, True, True, True, False], [True, True, True, False, False]],
    }
    assert found.json()["predictions"] == ask(hooked, rows, "texts").json()["predictions"]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("one two", "inputs cannot be preprocessed: ValueError: could not convert string to float: 'one'"),
        ({"other": 1}, "inputs cannot be preprocessed: KeyError: 'numbers'"),
        (["1 2 3 4", 5], "inputs cannot be preprocessed: AttributeError"),
        ("short", "row 0 of what preprocessing makes for input has the shape [1]; [4] for one row"),
        ("nan", "row 0 of what preprocessing makes for input holds NaN; finite numbers are accepted"),
        ("words", "row 0 of what preprocessing makes for input has the dtype"),
        (["lose", "1 2 3 4"], "inputs cannot be preprocessed"),
        (["1 2 3 4"] * 5000, "inputs holds 5000 rows; 1 to 4096 are accepted"),
    ],
)
def test_what_a_hook_refuses_or_makes_wrongly_is_an_error_of_the_request(hooked: Server, raw: Any, said: str) -> None:
    answer = ask(hooked, raw)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]


def test_a_fault_of_the_hooks_own_is_in_the_log_and_not_in_the_answer(hooked: Server) -> None:
    answer = ask(hooked, "crash")
    assert answer.status_code == 500
    assert "the hook's own fault" not in answer.text
    hooked.wait_for_log("the hook's own fault")
    assert ask(hooked, "1 2 3 4").status_code == 200


def test_the_client_and_the_command_send_texts(hooked: Server, tmp_path: Path) -> None:
    texts = ["a bb ccc dddd e", "aa aa aa a a"]
    wanted = hooked.client.post("/models/texts/predict?mc=5&seed=1", json={"inputs": texts}).json()["predictions"]
    with Client(hooked.url) as client:
        assert client.predict(texts, model="texts", mc=5, seed=1).mean.tolist() == [row["mean"] for row in wanted]
        assert client.predict(texts[1], model="texts", mc=5, seed=1).mean.shape == (1, 3)
    (tmp_path / "asked.txt").write_text("\n".join([texts[0], "", texts[1], ""]))
    command = [str(MCDROPOUT), "predict", "asked.txt", "--url", hooked.url, "--model", "texts", "--mc=5", "--seed=1"]
    done = subprocess.run([*command, "--json"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["predictions"] == wanted


def test_a_model_says_that_it_has_one(hooked: Server) -> None:
    assert hooked.client.get("/models/numbers").json()["preprocess"] == "preprocess.py:rows"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (None, "preprocess is 'preprocess.py'; a file inside the bundle is accepted"),
        ("rows = 3", "it defines no function 'rows', which preprocess in model.yaml names"),
        ("import nothing_of_that_name", "cannot be imported"),
        ("raise OSError('no')", "cannot be imported"),
    ],
)
def test_a_hook_that_is_none_is_refused_when_the_model_is_loaded(tmp_path: Path, code: str | None, said: str) -> None:
    folder = write_bundle(tmp_path, "numbers", CLASSIFIER, preprocess="preprocess.py:rows")
    if code is not None:
        (folder / "preprocess.py").write_text(code)
    with pytest.raises(BundleError, match=said.replace("(", r"\(").replace(".", r"\.")):
        _ = Bundle(folder).hook


def test_texts_of_the_zoo_are_answered_as_their_tokens_are(server: Server) -> None:
    texts = ["a warm, funny and engaging film!", "dreadful"]
    found = ask(server, texts, "sentiment-cnn").json()["predictions"]
    assert found[0]["mean"] > found[1]["mean"]
    tokens = server.client.post(
        "/models/sentiment-cnn/predict?mc=5&seed=3", json={"inputs": [_tokens(text) for text in texts]}
    )
    assert tokens.json()["predictions"] == found


def _tokens(text: str) -> list[int]:
    return [1 + zlib.crc32(word.encode()) % 4095 for word in re.findall(r"[a-z']+|[!?]", text.lower())]
