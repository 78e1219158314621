"""What one client may take of a server, so that others are answered."""

import contextlib
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bundles import CLASSIFIER, write_bundle
from tests.compilations import compiled
from tests.patience import patience
from tests.servers import Server, serving

HEAD = "POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
MIB = 2**20
ROW = [1.0, 2.0, 3.0, 4.0]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that is short of everything."""
    folder = tmp_path_factory.mktemp("walls")
    compiled(write_bundle(folder / "models", "small", CLASSIFIER))
    limits = {"BODIES_BYTES": "100000", "CONNECTIONS": "20"}
    limits["REQUEST_SECONDS"] = "0.01"
    settings = {f"MCDROPOUT_MAX_{name}": value for name, value in limits.items()}
    with serving(folder / "models", folder, MCDROPOUT_BODY_SECONDS="2", **settings) as server:
        server.wait_until_ready()
        yield server


def connected(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=patience(30))


def status_on(client: socket.socket) -> int:
    return int(client.recv(4096).split()[1])


def resident(server: Server) -> int:
    """The memory of a server's process, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def counted(server: Server, name: str) -> float:
    lines = server.client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_requests_that_a_client_sends_ahead_take_no_memory(server: Server) -> None:
    before = resident(server)
    with connected(server) as client:
        client.settimeout(0.5)
        asked = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n" * 1000
        until = time.monotonic() + 5.0
        with contextlib.suppress(TimeoutError):
            while time.monotonic() < until:  # and reads nothing
                client.sendall(asked)
        assert server.client.get("/health/live").status_code == 200
        assert resident(server) - before < 20 * MIB


def test_bodies_that_do_not_come_to_an_end_are_refused_beyond_their_room_and_after_their_time(server: Server) -> None:
    refused = counted(server, "mcdropout_bad_requests_total")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(server)) for _ in range(3)]
        for client in clients[:2]:
            client.sendall(f"{HEAD}content-length: 60000\r\n\r\n".encode() + b" " * 40_000)
        time.sleep(0.2)
        clients[2].sendall(f"{HEAD}content-length: 60000\r\n\r\n".encode() + b" " * 40_000)
        assert status_on(clients[2]) == 503
        assert counted(server, 'mcdropout_refused_total{model="small",reason="bodies"}') == 1.0
        assert server.client.post("/predict", json={"inputs": ROW}).status_code == 200  # there is room for it yet
        assert [status_on(client) for client in clients[:2]] == [408, 408]
    assert counted(server, 'mcdropout_bad_requests_total{status="408"}') - refused == 2.0
    with connected(server) as client:  # what they took was given back
        client.sendall(f"{HEAD}content-length: 60000\r\n\r\n".encode() + b" " * 60_000)
        assert status_on(client) == 422


def test_a_body_of_far_too_many_lists_takes_no_memory(server: Server) -> None:
    lists, kind = b'{"inputs":[' + b"[[[{}]]]," * 9000 + b"1]}", {"content-type": "application/json"}
    server.client.post("/predict", content=lists, headers=kind)
    before = resident(server)
    for _ in range(200):
        answer = server.client.post("/predict", content=lists, headers=kind)
        assert answer.status_code == 422
        assert "lists and objects, more than 2 times those of 4096 rows" in answer.json()["detail"]
    assert resident(server) - before < 5 * MIB


def test_clients_that_ask_nothing_keep_nobody_out(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(connected(server))
        for _ in range(5):
            with connected(server) as client:
                client.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
                assert status_on(client) == 200
    assert counted(server, "mcdropout_connections_cut_total") >= 40.0


def test_a_request_that_costs_too_much_is_refused_before_it_is_run(server: Server) -> None:
    asked = time.monotonic()
    answer = server.client.post("/predict?mc=1000", json={"inputs": [ROW] * 1000})
    assert time.monotonic() - asked < patience(5.0)
    assert answer.status_code == 422
    assert "1000 rows with 1000 passes would take about" in answer.json()["detail"]
    assert server.client.post("/predict?mc=20", json={"inputs": ROW}).status_code == 200
    hurried = server.client.post("/predict?mc=1000&deadline_ms=5", json={"inputs": [ROW] * 1000})
    assert hurried.status_code in (200, 504)
