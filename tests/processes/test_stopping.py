"""Signals to stop: under load every request that was sent is answered, and a server that only starts ends too."""

import shutil
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.conftest import MODELS
from tests.patience import patience, wait_until
from tests.servers import serving


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGTERM, "1"), (signal.SIGHUP, "1"), (signal.SIGHUP, "2")], ids=str
)
def test_a_server_that_is_told_to_stop_under_load_loses_no_request(
    tmp_path: Path, number: signal.Signals, workers: str
) -> None:
    """By whoever runs it, or by a terminal that is closed."""
    shutil.copytree(MODELS / "concrete-mlp", tmp_path / "models" / "concrete-mlp")
    body = (MODELS / "concrete-mlp" / "example.json").read_bytes()
    with serving(tmp_path / "models", tmp_path, "--workers", workers) as server:
        server.wait_until_ready()
        lost: list[str] = []
        answered = [0] * 8

        def client(place: int) -> None:
            headers = {"content-type": "application/json"}
            with httpx.Client(base_url=server.url, timeout=patience(30)) as asking:
                while True:
                    try:
                        answer = asking.post("/predict", content=body, headers=headers)
                    except httpx.ConnectError:  # nobody listens any more
                        return
                    except httpx.TransportError as error:
                        lost.append(repr(error))
                        return
                    if answer.status_code != 200:
                        lost.append(answer.text)
                    answered[place] += 1

        clients = [threading.Thread(target=client, args=(place,)) for place in range(8)]
        for one in clients:
            one.start()
        wait_until(lambda: min(answered) > 5 and sum(answered) > 200)
        server.process.send_signal(number)
        assert server.wait() == 0
        for one in clients:
            one.join(patience(30))
    assert lost == []


@pytest.mark.parametrize("later", [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
def test_a_server_that_is_told_to_stop_while_it_starts_does(tmp_path: Path, later: float) -> None:
    """It handles the signal: the first process of a container is not ended by one that it does not."""
    shutil.copytree(MODELS / "concrete-mlp", tmp_path / "models" / "concrete-mlp")
    with serving(tmp_path / "models", tmp_path) as server:
        wait_until(lambda: _handles(server.process.pid, signal.SIGTERM))
        time.sleep(patience(later))
        server.process.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0


def _handles(pid: int, number: int) -> bool:
    (caught,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)
