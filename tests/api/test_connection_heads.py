"""Connections whose clients are refused and ask again: what was read before is not read another time."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn
from mcdropout.api.connection import Refusal, protocol
from uvicorn.server import ServerState

from tests.patience import looping_until, patience

TIMEOUT = patience(0.3)


class Gate:
    """Refuses requests while it is closed; tells which were read for that, and how many were not."""

    def __init__(self) -> None:
        self.closed = True
        self.read: list[str] = []
        self.known = 0

    def refuse(self, scope: Any) -> Refusal | None:
        self.read.append(scope["path"])
        return self._refusal(scope["path"]) if self.closed else None

    def _refusal(self, path: str) -> Refusal:
        def again() -> Refusal | None:
            self.known += 1
            return self._refusal(path) if self.closed else None

        return Refusal(b"x-path: %b\r\n" % path.encode(), b"full", again)


class Transport(asyncio.Transport):
    """Keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("sockname", "peername") else default


async def app(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(0.01)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


class Server:
    """Connections to `app` through a gate."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.config = uvicorn.Config(app, http=protocol(self.gate.refuse), timeout_keep_alive=TIMEOUT, log_config=None)  # type: ignore[arg-type]
        self.config.load()
        self.state = ServerState()

    def connect(self) -> Any:
        made: Any = self.config.http_protocol_class(config=self.config, server_state=self.state, app_state={})  # type: ignore[call-arg]
        made.connection_made(Transport())
        return made


@pytest.fixture
def run() -> Iterator[Callable[[Any], None]]:
    """Runs a test in an event loop."""
    with asyncio.Runner() as runner:
        yield lambda test: runner.run(test(Server()))


def request(path: str = "/a", body: bytes = b"body", *lines: str, version: str = "1.1") -> bytes:
    head = [f"POST {path} HTTP/{version}", "host: here", *lines, f"content-length: {len(body)}"]
    return "\r\n".join([*head, "", ""]).encode() + body


def statuses(connection: Any) -> list[str]:
    """Of the answers on a connection so far."""
    lines = connection.transport.written.decode().split("\r\n")
    return [line.split()[1] for line in lines for line in [line[line.find("HTTP/1.1") :]] if line.startswith("HTTP")]


def test_a_request_that_was_refused_is_not_read_again(run: Any) -> None:
    async def test(server: Server) -> None:
        first, second = server.connect(), server.connect()
        first.data_received(request())
        second.data_received(request(body=b"else"))
        first.data_received(request())
        assert (server.gate.read, server.gate.known) == (["/a"], 2)
        assert first.transport.written == 2 * second.transport.written
        assert second.transport.written.endswith(b"\r\nx-path: /a\r\ncontent-length: 4\r\n\r\nfull")
        assert server.state.total_requests == 3

    run(test)


def test_it_is_read_once_it_is_let_in_and_the_connection_goes_on(run: Any) -> None:
    async def test(server: Server) -> None:
        connection = server.connect()
        for number, closed in enumerate((True, True, False, True), 1):
            server.gate.closed = closed
            connection.data_received(request())
            await looping_until(lambda number=number: len(statuses(connection)) == number)
        assert statuses(connection) == ["503", "503", "200", "503"]
        assert (server.gate.read, server.gate.known) == (["/a"] * 2, 3)

    run(test)


@pytest.mark.parametrize(
    "other",
    [
        request("/b"),
        request(body=b"longer"),
        request("/a", b"body", "x: y"),
        request(version="1.0"),
    ],
)
def test_another_head_is_another_request(run: Any, other: bytes) -> None:
    async def test(server: Server) -> None:
        server.connect().data_received(request())
        connection = server.connect()
        connection.data_received(other)
        assert len(server.gate.read) == 2
        assert statuses(connection) == ["503"]

    run(test)


@pytest.mark.parametrize(
    ("data", "reads", "ends"),
    [
        (request("/a", b"body", "connection: close"), 3, True),
        (request("/a", b"body", "expect: 100-continue"), 3, False),
        (request("/a", b"body", "connection: upgrade", "upgrade: h2c"), 3, False),
        (request("/a", b"body", f"x: {'y' * 4096}"), 3, False),
        (b"POST /a HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", 3, False),
        (b"GET /a HTTP/1.1\r\nhost: here\r\n\r\n", 3, False),
        (request() + b"\r\n", 3, False),
        (b"POST /a HTTP/1.1\nhost: here\ncontent-length: 8\n\nbo\r\n\r\ndy", 0, True),  # no HTTP
    ],
)
def test_what_is_no_plain_request_is_read_each_time(run: Any, data: bytes, reads: int, ends: bool) -> None:
    async def test(server: Server) -> None:
        connections = [server.connect() for _ in range(3)]
        for connection in connections:
            connection.data_received(data)
        assert (server.gate.known, len(server.gate.read)) == (0, reads)
        assert [connection.transport.closed for connection in connections] == [ends] * 3

    run(test)


def test_the_head_of_one_is_not_known_for_another_behind_it_that_is_not_over(run: Any) -> None:
    async def test(server: Server) -> None:
        first = request(body=b"")
        behind = b"POST /b HTTP/1.1\r\nhost: here\r\ncontent-length: 55\r\n\r\n"
        assert len(behind) == 55 - 3  # three bytes of its body come along
        for _ in range(3):
            connection = server.connect()
            connection.data_received(first + behind + b"GET")
            assert statuses(connection) == ["503", "503"]
        assert (server.gate.read, server.gate.known) == (["/a", "/b"] * 3, 0)
        connection.data_received(b" /c HTTP/1.1\r\n\r\n".ljust(52, b"-") + first)
        assert server.gate.read[6:] == ["/a"]  # the body of the one before was none of it

    run(test)


def test_nothing_is_known_of_what_begins_with_empty_lines(run: Any) -> None:
    async def test(server: Server) -> None:
        part = b"\r\n\r\nPOST /a HTTP/1.1\r\nhost: here\r\ncontent-length: 60\r\n\r\n".ljust(64, b"-")
        for _ in range(3):
            connection = server.connect()
            connection.data_received(part)
            assert statuses(connection) == ["503"]
        assert (server.gate.read, server.gate.known) == (["/a"] * 3, 0)

    run(test)


def test_a_request_that_comes_in_parts_is_read(run: Any) -> None:
    async def test(server: Server) -> None:
        whole = request()
        for _ in range(2):  # not known, and known
            for cut in range(1, len(whole)):
                connection = server.connect()
                connection.data_received(whole[:cut])
                connection.data_received(whole[cut:])
                assert statuses(connection) == ["503"], cut
            assert server.gate.known == 0
            server.connect().data_received(whole)
        assert server.gate.known == 1

    run(test)


def test_a_known_request_in_the_middle_of_another_is_its_body(run: Any) -> None:
    async def test(server: Server) -> None:
        server.connect().data_received(request())
        connection = server.connect()
        head = request("/b", request())
        connection.data_received(head[: -len(request())])
        connection.data_received(request())
        assert server.gate.known == 0
        assert statuses(connection) == ["503"]
        connection.data_received(request())
        assert server.gate.known == 1
        assert statuses(connection) == ["503", "503"]

    run(test)


def test_what_was_let_in_is_not_taken_for_what_was_refused_before(run: Any) -> None:
    async def test(server: Server) -> None:
        connection = server.connect()
        connection.data_received(request())
        server.gate.closed = False
        connection.data_received(request("/b"))
        await looping_until(lambda: statuses(connection) == ["503", "200"])
        server.gate.closed = True
        connection.data_received(request("/b"))
        assert connection.transport.written.count(b"x-path: /b") == 1
        assert (server.gate.read, server.gate.known) == (["/a", "/b", "/b"], 0)

    run(test)


def test_a_request_behind_the_rest_of_another_is_not_known_with_that(run: Any) -> None:
    async def test(server: Server) -> None:
        connection, other = server.connect(), server.connect()
        connection.data_received(request("/b")[:-2])
        connection.data_received(b"dy" + request())
        assert statuses(connection) == ["503", "503"]
        other.data_received(b"dy" + request())
        assert statuses(other) == ["400"]

    run(test)


def test_requests_that_come_together_are_read(run: Any) -> None:
    async def test(server: Server) -> None:
        server.connect().data_received(request())
        connection = server.connect()
        connection.data_received(2 * request())
        connection.data_received(request() + request()[:9])
        connection.data_received(request()[9:])
        assert server.gate.known == 0
        assert statuses(connection) == ["503"] * 4

    run(test)


def test_a_known_request_waits_for_the_answer_before_it(run: Any) -> None:
    async def test(server: Server) -> None:
        connection = server.connect()
        connection.data_received(request())
        server.gate.closed = False
        connection.data_received(request("/b"))
        server.gate.closed = True
        connection.data_received(request())
        assert statuses(connection) == ["503"]
        await looping_until(lambda: len(statuses(connection)) == 3)
        assert statuses(connection) == ["503", "200", "503"]
        assert (server.gate.read, server.gate.known) == (["/a", "/b", "/a"], 0)

    run(test)


def test_a_known_request_is_not_answered_where_nobody_reads_or_the_connection_ends(run: Any) -> None:
    async def test(server: Server) -> None:
        connection, ending = server.connect(), server.connect()
        connection.data_received(request())
        connection.pause_writing()
        connection.data_received(request())
        assert (server.gate.known, statuses(connection)) == (0, ["503"])
        connection.resume_writing()
        ending.transport.close()
        ending.data_received(request())
        assert server.gate.known == 0

    run(test)


def test_a_connection_ends_some_time_after_its_last_request(run: Any) -> None:
    async def test(server: Server) -> None:
        connection = server.connect()
        for _ in range(4):
            connection.data_received(request())
            await asyncio.sleep(0.6 * TIMEOUT)
            assert not connection.transport.closed
        await looping_until(lambda: connection.transport.closed)
        assert server.gate.known == 3

    run(test)


def test_few_heads_are_kept(run: Any) -> None:
    async def test(server: Server) -> None:
        server.connect().data_received(request())
        for number in range(1024):
            server.connect().data_received(request(f"/{number}"))
        server.connect().data_received(request())
        assert server.gate.read.count("/a") == 2
        server.connect().data_received(request("/1023"))
        assert server.gate.known == 1

    run(test)
