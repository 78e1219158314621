"""Limits of connections: what a client may take of the server before an app is asked, and how long it may take."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn

from mcdropout.api.connection import Limits, protocol
from tests.api.connections import Gate, Server, request, statuses
from tests.patience import looping_until, patience

SOON = patience(0.3)
"""Longer than anything takes, in seconds, that is not waited for."""
GET = b"GET /a HTTP/1.1\r\nhost: here\r\n\r\n"


class App:
    """Answers when it is told to; knows what it was asked, and which clients went away."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.asked = self.now = self.most = 0
        self.gone: list[bytes] = []
        self.bodies: list[bytes] = []
        self.reads = True
        self.answer = b"ok"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked, self.now = self.asked + 1, self.now + 1
        self.most = max(self.most, self.now)
        body, more = b"", self.reads
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone.append(body)
                self.now -= 1
                return
            body, more = body + message["body"], message["more_body"]
        watching = asyncio.ensure_future(receive())  # whether the client is still there
        await self.may_answer.wait()
        watching.cancel()
        self.bodies.append(body)
        self.now -= 1
        length = str(len(self.answer)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": self.answer})


Run = Callable[..., None]


@pytest.fixture
def run() -> Iterator[Run]:
    """Runs a test of a server and its app in an event loop, within some limits."""
    with asyncio.Runner() as runner:

        async def started(test: Any, **limits: Any) -> None:
            app = App()
            server = Server(Limits(**limits), app)
            server.gate.closed = False
            try:
                await test(server, app)
            finally:
                server.close()

        yield lambda test, **limits: runner.run(started(test, **limits))


class TestRequestsThatAreSentAhead:
    def test_are_not_read_before_the_one_before_is_answered(self, run: Run) -> None:
        async def test(server: Server, app: App) -> None:
            connection = server.connect()
            connection.data_received(GET * 300)
            connection.data_received(GET * 300)
            await asyncio.sleep(SOON)
            assert (app.asked, len(connection.pipeline)) == (1, 0)
            assert connection.transport.paused  # though the app waits for what else comes
            app.may_answer.set()
            await looping_until(lambda: app.asked == 600)
            await looping_until(lambda: len(statuses(connection)) == 600)
            assert app.most == 1
            assert not connection.transport.paused

        run(test)

    def test_leave_the_others_time_between_one_and_the_next(self, run: Run) -> None:
        async def test(server: Server, app: App) -> None:
            app.may_answer.set()
            connection = server.connect()
            loop = asyncio.get_running_loop()
            start = loop.time()
            connection.data_received(GET * 300)
            while app.asked < 30:
                assert app.asked <= 2 + (loop.time() - start) / 0.001
                await asyncio.sleep(0)

        run(test)

    @pytest.mark.parametrize("step", [1, 7, 4096, 10**6])
    def test_are_answered_in_their_order_however_they_are_cut(self, run: Run, step: int) -> None:
        async def test(server: Server, app: App) -> None:
            app.may_answer.set()
            connection = server.connect()
            chunked = b"POST /a HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n"
            data = request(body=b"one") + chunked + GET + request(body=b"\r\n\r\n" + GET) + request(body=b"x" * 9000)
            for start in range(0, len(data), step):
                connection.data_received(data[start : start + step])
                await asyncio.sleep(0)
            await looping_until(lambda: len(app.bodies) == 5)
            assert app.bodies == [b"one", b"two", b"", b"\r\n\r\n" + GET, b"x" * 9000]

        run(test)

    def test_that_are_refused_leave_the_others_their_turn(self, run: Run) -> None:
        async def test(server: Server, app: App) -> None:
            server.gate.closed = True
            connection = server.connect()
            connection.data_received(GET * 5000)
            assert len(statuses(connection)) < 200
            await looping_until(lambda: len(statuses(connection)) == 5000)

        run(test)


class TestHeads:
    @pytest.mark.parametrize("step", [1000, 10**6])
    @pytest.mark.parametrize(
        "head",
        [
            b"GET /" + b"a" * 70_000,
            b"GET / HTTP/1.1\r\nhost: here\r\nlong: " + b"a" * 70_000,
            b"GET / HTTP/1.1\r\nhost: here\r\n" + b"a" * 70_000,
            b"GET / HTTP/1.1\r\nhost: here\r\n" + b"".join(b"x-%d: a\r\n" % n for n in range(9000)),
        ],
        ids=["path", "value", "name", "fields"],
    )
    def test_that_are_too_large_are_refused(self, run: Run, head: bytes, step: int) -> None:
        async def test(server: Server, app: App) -> None:
            connection = server.connect()
            for start in range(0, len(head), step):
                connection.data_received(head[start : start + step])
            assert statuses(connection) == ["431"]
            assert b"larger than 65536 bytes" in connection.transport.written
            assert connection.transport.is_closing()
            assert app.asked == 0

        run(test)

    @pytest.mark.parametrize(("fields", "status"), [(99, "200"), (100, "431")])
    def test_of_more_than_100_fields_are_refused(self, run: Run, fields: int, status: str) -> None:
        async def test(server: Server, app: App) -> None:
            app.may_answer.set()
            connection = server.connect()
            connection.data_received(
                b"GET / HTTP/1.1\r\nhost: here\r\n" + b"".join(b"x-%d: a\r\n" % n for n in range(fields)) + b"\r\n"
            )
            await looping_until(lambda: bool(statuses(connection)))
            assert statuses(connection) == [status]

        run(test)

    def test_as_large_as_they_may_be_are_read_each_by_its_own_size(self, run: Run) -> None:
        async def test(server: Server, app: App) -> None:
            app.may_answer.set()
            connection = server.connect()
            head = b"GET / HTTP/1.1\r\nhost: here\r\nlong: " + b"a" * 65_000 + b"\r\n\r\n"
            connection.data_received(head * 4)
            await looping_until(lambda: len(statuses(connection)) == 4)
            assert set(statuses(connection)) == {"200"}

        run(test)

    @pytest.mark.parametrize(
        ("lines", "status"),
        [
            (["host: here"], "200"),
            ([], "400"),
            (["host: here", "host: there"], "400"),
            (["host: here", "Host: here"], "400"),
            (["host: evil.example"], "421"),
        ],
    )
    def test_name_one_host(self, run: Run, lines: list[str], status: str) -> None:
        async def test(server: Server, app: App) -> None:
            app.may_answer.set()
            connection = server.connect()
            connection.data_received("\r\n".join(["GET / HTTP/1.1", *lines, "", ""]).encode())
            await looping_until(lambda: bool(statuses(connection)))
            assert statuses(connection) == [status]

        run(test)

    def test_of_older_clients_need_none(self, run: Run) -> None:
        async def test(server: Server, app: App) -> None:
            app.may_answer.set()
            connection = server.connect()
            connection.data_received(b"GET / HTTP/1.0\r\n\r\n")
            await looping_until(lambda: statuses(connection) == ["200"])

        run(test)

    def test_fields_behind_a_body_are_none_of_the_head(self, run: Run) -> None:
        async def test(server: Server, app: App) -> None:
            connection = server.connect()
            connection.data_received(
                b"POST / HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n"
            )
            connection.data_received(b"host: other\r\nx-late: a\r\n\r\n")
            await looping_until(lambda: app.asked == 1)
            assert [name for name, _ in connection.headers] == [b"host", b"transfer-encoding"]

        run(test)


class TestTime:
    @pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: here\r\n"])
    def test_of_a_head_is_limited(self, run: Run, sent: bytes) -> None:
        async def test(server: Server, app: App) -> None:
            connection = server.connect()
            connection.data_received(sent)
            await looping_until(lambda: connection.transport.is_closing())
            assert statuses(connection) == (["408"] if sent else [])

        run(test, head_seconds=0.2)

    def test_of_a_body_is_limited_and_the_app_learns_that_its_client_is_gone(self, run: Run) -> None:
        async def test(server: Server, app: App) -> None:
            connection = server.connect()
            connection.data_received(request(body=b"whole")[:-3])
            await looping_until(lambda: connection.transport.is_closing())
            assert statuses(connection) == ["408"]
            await looping_until(lambda: app.gone == [b"wh"])

        run(test, body_seconds=0.2)

    def test_of_the_answer_is_the_apps(self, run: Run) -> None:
        async def test(server: Server, app: App) -> None:
            connection = server.connect()
            connection.data_received(request())
            await asyncio.sleep(1.3)
            assert not connection.transport.is_closing()
            app.may_answer.set()
            await looping_until(lambda: statuses(connection) == ["200"])

        run(test, head_seconds=0.2, body_seconds=0.2, write_seconds=0.2)

    @pytest.mark.parametrize("reads", [True, False])
    def test_of_a_client_that_does_not_read_is_limited(self, run: Run, reads: bool) -> None:
        async def test(server: Server, app: App) -> None:
            app.may_answer.set()
            connection = server.connect()
            connection.data_received(request())
            connection.pause_writing()
            if reads:
                connection.resume_writing()
                await asyncio.sleep(1.3)
            else:
                await looping_until(lambda: connection.transport.aborted)
            assert connection.transport.aborted is not reads

        run(test, write_seconds=0.2)

    def test_between_requests_is_not_that_of_a_head(self, run: Run) -> None:
        async def test(server: Server, app: App) -> None:
            app.may_answer.set()
            connection = server.connect()
            connection.data_received(request())
            await looping_until(lambda: statuses(connection) == ["200"])
            assert connection.due is None

        run(test, head_seconds=0.2)


def test_the_client_that_leaves_most_unread_is_cut_off(run: Run) -> None:
    async def test(server: Server, app: App) -> None:
        app.may_answer.set()
        slow = [server.connect() for _ in range(3)]
        for connection, size in zip(slow, (300, 600, 400), strict=True):
            app.answer = b"x" * size
            connection.data_received(request())
            await looping_until(lambda connection=connection: statuses(connection) == ["200"])
            connection.pause_writing()
        await looping_until(lambda: slow[1].transport.aborted)
        await asyncio.sleep(SOON)
        assert [connection.transport.aborted for connection in slow] == [False, True, False]

    run(test, unread_bytes=1000)


def test_a_connection_beyond_the_most_takes_the_place_of_the_oldest_on_which_nothing_is_asked(run: Run) -> None:
    async def test(server: Server, app: App) -> None:
        asking, waiting, idle = (server.connect() for _ in range(3))
        asking.data_received(request())
        waiting.data_received(request()[:-2])
        await looping_until(lambda: app.asked == 2)
        another = server.connect()
        assert idle.transport.aborted
        idle.connection_lost(None)
        assert server.gate.cuts == 1
        another.data_received(request())
        await looping_until(lambda: app.asked == 3)
        one_too_many = server.connect()
        assert statuses(one_too_many) == ["503"]
        assert one_too_many.transport.is_closing()
        one_too_many.connection_lost(None)
        app.may_answer.set()
        await looping_until(lambda: statuses(asking) == statuses(another) == ["200"])
        third = server.connect()  # in the place of one that is kept alive
        assert (asking.transport.aborted, another.transport.aborted) == (True, False)
        third.data_received(request())
        await looping_until(lambda: statuses(third) == ["200"])

    run(test, connections=3)


async def listening(limits: Limits, app: Any) -> Any:
    """A server on a socket."""
    gate = Gate()
    gate.closed = False
    connections: Any = protocol(gate, limits=limits)
    config = uvicorn.Config(app, http=connections, log_config=None, loop="uvloop")
    config.load()
    state = uvicorn.server.ServerState()

    def made() -> Any:
        return config.http_protocol_class(config=config, server_state=state, app_state={})  # type: ignore[call-arg]

    return await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)


async def too_large(scope: Any, receive: Any, send: Any) -> None:
    """Answers before it has read the body."""
    await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"no"})


def told(port: int, data: bytes) -> bytes:
    """What a client gets that sends all it has before it reads."""
    with socket.create_connection(("127.0.0.1", port), timeout=patience(20)) as client:
        client.sendall(data)
        parts: list[bytes] = []
        while part := client.recv(4096):
            parts.append(part)
        return b"".join(parts)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request("/a", b"x" * 5_000_000, "connection: close"), b"413"),
        (b"GET /" + b"a" * 2_000_000 + b" HTTP/1.1\r\nhost: here\r\n\r\n", b"431"),
        (b"\0" * 2_000_000, b"400"),
        (request("/a", b"x" * 2_000_000, "host: there"), b"400"),
    ],
    ids=["a large body", "a large head", "no HTTP", "two hosts"],
)
def test_a_refusal_reaches_a_client_that_is_still_sending(data: bytes, status: bytes) -> None:
    async def test() -> None:
        server = await listening(Limits(), too_large)
        async with server:
            answer = await asyncio.to_thread(told, server.sockets[0].getsockname()[1], data)
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert b"connection: close\r\n" in answer

    with asyncio.Runner(loop_factory=__import__("uvloop").new_event_loop) as runner:
        runner.run(test())
