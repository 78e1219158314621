"""Predictions that are watched: estimates after steps, the answer at the end, and what becomes of it when nobody
listens any more."""

import json
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.bundles import CLASSIFIER, write_bundle
from tests.compilations import compiled
from tests.conftest import MODELS
from tests.patience import wait_until
from tests.servers import Server, serving

BODY = {"inputs": [[0.1, 0.2, 0.3, 0.4], [0.4, 0.1, -0.3, 0.2]]}
PASSES = 20_000


@pytest.fixture(scope="module")
def streaming(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose steps are short, so that a request takes many."""
    folder = tmp_path_factory.mktemp("models")
    compiled(write_bundle(folder, "small", CLASSIFIER, passes={"default": 50, "maximum": 1_000_000}))
    shutil.copytree(MODELS / "sentiment-cnn", folder / "sentiment-cnn")
    with serving(folder, tmp_path_factory.mktemp("log"), "--default", "small", MCDROPOUT_STEP_SECONDS="0.001") as one:
        one.wait_until_ready()
        yield one


Event = tuple[str, dict[str, Any]]


@contextmanager
def watched(server: Server, query: str, body: Any = BODY, path: str = "/predict/stream") -> Iterator[Iterator[Event]]:
    with server.client.stream("POST", f"{path}?{query}", json=body) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield events(answer)


def events(answer: httpx.Response) -> Iterator[Event]:
    name = ""
    for line in answer.iter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def test_estimates_are_of_more_and_more_passes_and_the_last_event_is_the_answer(streaming: Server) -> None:
    with watched(streaming, f"mc={PASSES}&seed=5") as stream:
        *estimates, (last, answer) = stream
    assert last == "answer"
    assert {name for name, _ in estimates} == {"estimate"}
    passes = [one["predictions"][0]["passes"] for _, one in estimates]
    assert len(passes) > 5
    assert passes == sorted(set(passes))
    assert passes[-1] < PASSES
    errors = [one["predictions"][0]["std_error"][0] for _, one in estimates]
    assert errors[-1] < errors[0]
    wanted = streaming.client.post(f"/predict?mc={PASSES}&seed=5", json=BODY).json()
    for one, other in zip(answer["predictions"], wanted["predictions"], strict=True):
        assert one.keys() == other.keys()
        for field in ("mean", "variance", "std_error"):
            assert one[field] == pytest.approx(other[field], rel=1e-6)
    assert answer["seed"] == wanted["seed"] == 5


def test_what_is_shown_is_what_was_asked_for(streaming: Server) -> None:
    with watched(streaming, f"mc={PASSES}&seed=5&fields=entropy") as stream:
        for _, content in stream:
            assert content["predictions"][0].keys() == {"entropy", "passes"}


@pytest.mark.parametrize("query", ["mc=0", "mc=auto&tolerance=0.002&seed=1", "mc=8&deadline_ms=60000"])
def test_every_way_of_asking_ends_with_an_answer(streaming: Server, query: str) -> None:
    with watched(streaming, query) as stream:
        found = list(stream)
    assert found[-1][0] == "answer"
    assert len(found[-1][1]["predictions"]) == 2


def test_rows_of_several_sizes_have_estimates_together(streaming: Server) -> None:
    body = {"inputs": [[5, 6, 7, 8, 9, 10], [4, 5, 6, 7, 8, 9, 10, 11], [12, 13, 14, 15, 16, 17]]}
    with watched(streaming, "mc=1000&seed=2", body, "/models/sentiment-cnn/predict/stream") as stream:
        *estimates, (last, answer) = stream
    assert last == "answer"
    assert all(len(one["predictions"]) == 3 for _, one in estimates)
    wanted = streaming.client.post("/models/sentiment-cnn/predict?mc=1000&seed=2", json=body).json()["predictions"]
    for one, other in zip(answer["predictions"], wanted, strict=True):
        assert one["mean"] == pytest.approx(other["mean"], rel=1e-6)


@pytest.mark.parametrize(
    ("query", "body", "path", "status", "said"),
    [
        ("mc=-1", BODY, "/predict/stream", 422, "mc"),
        ("mc=auto&samples=true", BODY, "/predict/stream", 422, "samples is true"),
        ("mc=5", {"inputs": [[1.0]]}, "/predict/stream", 422, "inputs"),
        ("mc=5", BODY, "/models/nobody/predict/stream", 404, "there is no model 'nobody'"),
    ],
)
def test_what_is_wrong_from_the_start_is_a_status(
    streaming: Server, query: str, body: Any, path: str, status: int, said: str
) -> None:
    answer = streaming.client.post(f"{path}?{query}", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert said in answer.json()["detail"]


def test_what_goes_wrong_later_is_an_event(streaming: Server) -> None:
    with watched(streaming, f"mc={PASSES}&deadline_ms=0.001") as stream:
        *_, (name, problem) = stream
    assert (name, problem["status"]) == ("problem", 504)
    assert "deadline_ms is accepted" in problem["detail"]
    assert problem["request_id"]


def test_a_client_that_goes_away_is_computed_for_no_longer(streaming: Server) -> None:
    def cancelled() -> float:
        lines = streaming.client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("mcdropout_cancelled_total{"))

    before = cancelled()
    with watched(streaming, "mc=1000000") as stream:
        assert next(stream)[0] == "estimate"
    wait_until(lambda: cancelled() == before + 1)


def test_a_client_that_reads_slowly_gets_fewer_estimates_and_the_newest(streaming: Server) -> None:
    """Its socket holds little, so that the server sees at once that it does not read."""
    body = json.dumps({"inputs": BODY["inputs"] * 100}).encode()
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", streaming.port))
        head = f"POST /predict/stream?mc=3000&seed=1 HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
        slow.sendall(f"{head}content-type: application/json\r\nconnection: close\r\n\r\n".encode() + body)
        time.sleep(1.0)
        received = b"".join(iter(lambda: slow.recv(65536), b""))
    assert received.count(b"event: answer") == 1
    assert b"event: problem" not in received


def test_a_stream_is_counted_as_a_request_of_its_model(streaming: Server) -> None:
    def counted() -> float:
        lines = streaming.client.get("/metrics").text.splitlines()
        wanted = 'mcdropout_requests_total{mode="mc",model="small",status="200"}'
        return sum(float(line.split()[-1]) for line in lines if line.startswith(wanted))

    before = counted()
    with watched(streaming, "mc=10") as stream:
        assert len(list(stream)) >= 1
    wait_until(lambda: counted() == before + 1)
