"""Several processes behind one address: how work is spread, and what becomes of it when one of them ends."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from pydantic import ValidationError

from mcdropout import settings
from mcdropout.engine.runtimes import sessions
from mcdropout.settings import Settings
from tests.bundles import write_bundle
from tests.conftest import MODELS
from tests.patience import patience, wait_until
from tests.servers import MCDROPOUT, Server, serving

BODY = (MODELS / "concrete-mlp" / "example.json").read_bytes()
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one small bundle, compiled."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(MODELS / "concrete-mlp", folder / "concrete-mlp")
    return folder


@contextmanager
def two_workers(models: Path, tmp_path: Path, *flags: str, **environment: str) -> Iterator[Server]:
    with serving(
        models, tmp_path, *(flags or ("--workers", "2")), MCDROPOUT_LOG_FORMAT="json", **environment
    ) as server:
        until(lambda: len(told(server, "worker ready")) == 2, server)
        yield server


def until(true: Callable[[], bool], server: Server, seconds: float = 20.0) -> float:
    """How long it took."""
    started = time.monotonic()
    wait_until(true, seconds, lambda: server.log, every=0.05)
    return time.monotonic() - started


def told(server: Server, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{") and line.endswith("}")]
    return [line for line in lines if line["event"] == event]


def pids(server: Server) -> dict[int, int]:
    """The process of each worker, by its number."""
    return {line["worker"]: line["pid"] for line in told(server, "worker started")}


def answered_by(server: Server, since: int = 0) -> Counter[int]:
    """How many requests each worker tells to have answered by now."""
    return Counter(line["worker"] for line in told(server, "request")[since:])


def least_share(server: Server, answers: int) -> float:
    """The share of both workers' next answers that is the one's which gives fewer."""
    since = len(told(server, "request"))
    wait_until(lambda: answered_by(server, since).total() >= answers, said=lambda: server.log)
    answered = answered_by(server, since)
    return min(answered[1], answered[2]) / answered.total()


def metric(server: Server, name: str) -> float:
    """The sum of a metric's series, as one of the workers tells it."""
    text = httpx.get(f"{server.url}/metrics").text
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))


def predict(client: httpx.Client, mc: int = 5) -> int:
    return client.post(f"/predict?mc={mc}", content=BODY, headers=JSON).status_code


class Load:
    """Clients that ask one request after another, each on a connection that it keeps, or on a new one each time."""

    def __init__(self, server: Server, clients: int, *, keep: bool = True) -> None:
        self.outcomes: list[int | httpx.HTTPError] = []
        self._server = server
        self._keep = keep
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    @property
    def failures(self) -> list[httpx.HTTPError]:
        return [x for x in self.outcomes if isinstance(x, httpx.HTTPError)]

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        limits = httpx.Limits(max_keepalive_connections=None if self._keep else 0)
        with httpx.Client(base_url=self._server.url, timeout=patience(30), limits=limits) as client:
            while not self._stopping.is_set():
                try:
                    self.outcomes.append(predict(client, mc=50))
                except httpx.ConnectError as error:  # nobody listens: the request was not sent
                    self.outcomes.append(error)
                    return
                except httpx.HTTPError as error:
                    self.outcomes.append(error)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_connections_are_spread_evenly_and_any_worker_tells_the_sums(models: Path, tmp_path: Path) -> None:
    with two_workers(models, tmp_path) as server:
        clients = [httpx.Client(base_url=server.url, timeout=patience(30)) for _ in range(20)]
        for _ in range(5):
            for client in clients:
                assert predict(client) == 200
        wait_until(lambda: answered_by(server).total() == 100)
        assert answered_by(server) == {1: 50, 2: 50}
        for client in clients:
            client.close()
        for _ in range(6):  # on a connection of its own each, so by both
            assert metric(server, "mcdropout_requests_total") == 100
            assert metric(server, "mcdropout_rows_total") == 400
            assert metric(server, "mcdropout_request_duration_seconds_count") == 100
            assert metric(server, "mcdropout_model_ready") == 1
            assert metric(server, "mcdropout_queue_rows") == 0
            assert metric(server, "mcdropout_worker_restarts_total") == 0
        assert server.stop() == 0


def test_only_what_a_killed_worker_had_in_flight_is_lost_and_it_is_back_with_its_share(
    models: Path, tmp_path: Path
) -> None:
    with two_workers(models, tmp_path) as server:
        kept, fresh = Load(server, 6), Load(server, 2, keep=False)
        until(lambda: len(kept.outcomes) > 100, server)
        before, started = (metric(server, f"mcdropout_{name}") for name in ("requests_total", "start_time_seconds"))
        os.kill(pids(server)[1], signal.SIGKILL)
        while len(told(server, "worker ready")) < 3:
            counted = metric(server, "mcdropout_requests_total")
            assert counted >= before
            before = counted
        took = until(lambda: metric(server, "mcdropout_worker_restarts_total") == 1, server)
        assert metric(server, "mcdropout_start_time_seconds") == started
        lived = told(server, "worker ready")[-1]
        assert lived["seconds"] + took < patience(10)
        until(lambda: least_share(server, answers=200) > 0.25, server)
        kept.stop()
        fresh.stop()
        # Each client has one request in flight; those that worker 1 had are lost, about half of them.
        assert len(kept.failures) <= 6
        assert len(fresh.failures) <= 2
        assert {x for x in [*kept.outcomes, *fresh.outcomes] if isinstance(x, int)} == {200}
        sent = len(kept.outcomes) + len(fresh.outcomes) - len(kept.failures) - len(fresh.failures)
        assert metric(server, "mcdropout_requests_total") >= sent
        assert server.stop() == 0


def test_what_a_killed_worker_had_not_taken_is_answered_by_the_other(models: Path, tmp_path: Path) -> None:
    with two_workers(models, tmp_path) as server:
        os.kill(pids(server)[2], signal.SIGSTOP)
        asking = Load(server, 8, keep=False)  # some are handed to worker 2, which takes none
        until(lambda: len(asking.outcomes) > 20, server)
        os.kill(pids(server)[2], signal.SIGKILL)
        until(lambda: len(told(server, "worker ready")) == 3, server)
        asking.stop()
        assert set(asking.outcomes) == {200}
        assert server.stop() == 0


def test_a_signal_under_load_loses_no_request(models: Path, tmp_path: Path) -> None:
    with two_workers(models, tmp_path) as server:
        kept, fresh = Load(server, 6), Load(server, 4, keep=False)
        until(lambda: len(kept.outcomes) > 100, server)
        assert server.stop() == 0
        kept.stop()
        fresh.stop()
        outcomes = [*kept.outcomes, *fresh.outcomes]
        assert [x for x in outcomes if x != 200 and not isinstance(x, httpx.ConnectError)] == []
        assert not any(map(alive, pids(server).values()))


def test_a_worker_that_hangs_gets_no_new_connections_for_long(models: Path, tmp_path: Path) -> None:
    with two_workers(models, tmp_path) as server:
        os.kill(pids(server)[1], signal.SIGSTOP)
        waiting = Load(server, 2, keep=False)  # one of them hangs too
        time.sleep(patience(1.2))  # until it is late
        for _ in range(6):
            assert httpx.get(f"{server.url}/health/ready", timeout=patience(2)).status_code == 200
        os.kill(pids(server)[1], signal.SIGCONT)
        waiting.stop()
        assert set(waiting.outcomes) == {200}


def test_what_has_to_be_compiled_is_compiled_once(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models", "small")
    with two_workers(tmp_path / "models", tmp_path) as server:
        assert len(told(server, "compiling")) == 1
        assert server.stop() == 0


def test_no_worker_outlives_a_killed_supervisor(models: Path, tmp_path: Path) -> None:
    with two_workers(models, tmp_path, "--device", "cpu,cpu", "--port", "0") as server:
        (url,) = told(server, "listening")[0]["urls"]
        assert not url.endswith(":0")
        assert httpx.get(f"{url}/health/ready").status_code == 200
        workers = pids(server)
        assert sorted(workers) == [1, 2]
        assert all(map(alive, workers.values()))
        assert not libraries_of(server.process.pid) & {"onnxruntime", "numpy"}
        server.process.kill()
        until(lambda: not any(map(alive, workers.values())), server, 3.0)


def libraries_of(pid: int) -> set[str]:
    return set(re.findall(r"/site-packages/(\w+?)[/.]", Path(f"/proc/{pid}/maps").read_text()))


def test_where_there_is_nothing_to_serve_the_supervisor_says_so_and_ends(tmp_path: Path) -> None:
    ended = serve(tmp_path)
    assert ended.returncode == 2
    assert "nothing to serve" in ended.stderr
    assert "no worker stays alive" in ended.stderr


def test_where_no_worker_stays_alive_the_supervisor_gives_up(models: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'mcdropout.processes.worker' in sys.orig_argv:\n    os._exit(9)\n"
    )
    ended = serve(models, PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]))
    assert ended.returncode == 1
    assert "no worker stays alive" in ended.stderr
    assert "status 9" in ended.stderr
    assert ended.stderr.count("worker started") == 10


def test_an_address_in_use_is_told(models: Path, tmp_path: Path) -> None:
    with serving(models, tmp_path) as other:
        other.wait_until_listening()
        ended = serve(models, "--port", str(other.port))
        assert ended.returncode == 1
        assert "in use" in ended.stderr


def serve(models: Path, *flags: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(MCDROPOUT), "serve", "--models", str(models), "--workers", "2", *(flags or ("--port", "0"))],
        capture_output=True,
        text=True,
        timeout=patience(60),
        env=os.environ | environment,
    )


def test_devices_and_workers_multiply() -> None:
    assert Settings(device="cuda:0, cuda:1", workers=2).devices == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert Settings().devices == ["cpu"]
    with pytest.raises(ValidationError, match="are accepted"):
        Settings(device="cuda:0,")


def test_settings_and_runtime_know_the_same_words() -> None:
    assert get_args(settings.Provider) == get_args(sessions.Provider)
    assert get_args(settings.Optimization) == get_args(sessions.Optimization)
