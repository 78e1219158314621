"""Connections whose clients are refused: one write, and the connection goes on as HTTP has it."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mcdropout.api.connection import check_internals, protocol
from tests.api.connections import TIMEOUT, Gate, Server, app, request, statuses
from tests.patience import looping_until


@pytest.fixture
def run() -> Iterator[Callable[[Any], None]]:
    """Runs a test in an event loop."""
    with asyncio.Runner() as runner:
        yield lambda test: runner.run(test(Server()))


def test_a_refusal_is_written_and_counted_and_the_connection_goes_on(run: Any) -> None:
    async def test(server: Server) -> None:
        connection = server.connect()
        for number, closed in enumerate((True, True, False, True), 1):
            server.gate.closed = closed
            connection.data_received(request())
            await looping_until(lambda number=number: len(statuses(connection)) == number)
        assert statuses(connection) == ["503", "503", "200", "503"]
        assert connection.transport.written.endswith(b"\r\nx-path: /a\r\ncontent-length: 4\r\n\r\nfull")
        assert server.state.total_requests == 4
        assert not connection.transport.closed

    run(test)


@pytest.mark.parametrize(
    ("data", "ends"),
    [
        (request("/a", b"body", "connection: close"), True),
        (request(version="1.0"), True),
        (request("/a", b"body", "expect: 100-continue"), False),
        (request("/a", b"body", "connection: upgrade", "upgrade: h2c"), False),
        (b"POST /a HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", False),
        (b"GET /a HTTP/1.1\r\nhost: here\r\n\r\n", False),
    ],
)
def test_a_refused_connection_ends_where_its_client_says_so(run: Any, data: bytes, ends: bool) -> None:
    async def test(server: Server) -> None:
        connection = server.connect()
        connection.data_received(data)
        assert statuses(connection) == ["503"]
        assert (b"connection: close" in connection.transport.written, connection.transport.closed) == (ends, ends)

    run(test)


def test_what_is_no_http_is_not_asked_about(run: Any) -> None:
    async def test(server: Server) -> None:
        connection = server.connect()
        connection.data_received(b"POST /a HTTP/1.1\nhost: here\ncontent-length: 8\n\nbo\r\n\r\ndy")
        assert server.gate.asked == []
        assert connection.transport.is_closing()

    run(test)


def test_the_rest_of_a_refused_request_is_thrown_away(run: Any) -> None:
    async def test(server: Server) -> None:
        whole = request()
        for cut in range(1, len(whole)):
            connection = server.connect()
            connection.data_received(whole[:cut])
            connection.data_received(whole[cut:])
            assert statuses(connection) == ["503"], cut
            connection.data_received(whole)
            assert statuses(connection) == ["503", "503"], cut

    run(test)


def test_a_request_in_the_body_of_another_is_its_body(run: Any) -> None:
    async def test(server: Server) -> None:
        connection = server.connect()
        outer = request("/b", request())
        connection.data_received(outer[: -len(request())])
        connection.data_received(request())
        assert server.gate.asked == ["/b"]
        connection.data_received(request())
        assert server.gate.asked == ["/b", "/a"]
        assert statuses(connection) == ["503", "503"]

    run(test)


def test_requests_that_come_together_are_refused_each(run: Any) -> None:
    async def test(server: Server) -> None:
        connection = server.connect()
        connection.data_received(2 * request())
        connection.data_received(request() + request()[:9])
        connection.data_received(request()[9:])
        assert statuses(connection) == ["503"] * 4

    run(test)


def test_a_request_that_is_let_in_behind_a_refused_one_is_not_cut_off_by_the_wait_for_it(run: Any) -> None:
    async def test(server: Server) -> None:
        connection = server.connect()
        server.gate.open.add("/b")
        connection.data_received(request("/a") + request("/b"))
        assert connection.timeout_keep_alive_task is None
        await looping_until(lambda: len(statuses(connection)) == 2)
        assert statuses(connection) == ["503", "200"]

    run(test)


def test_a_request_waits_for_the_answer_before_it(run: Any) -> None:
    async def test(server: Server) -> None:
        connection = server.connect()
        server.gate.closed = False
        connection.data_received(request("/b"))
        server.gate.closed = True
        connection.data_received(request())
        assert statuses(connection) == []
        await looping_until(lambda: len(statuses(connection)) == 2)
        assert statuses(connection) == ["200", "503"]

    run(test)


def test_a_request_is_the_apps_where_nobody_reads_the_answers(run: Any) -> None:
    async def test(server: Server) -> None:
        connection = server.connect()
        connection.pause_writing()
        connection.data_received(request())
        assert (server.gate.asked, statuses(connection)) == ([], [])
        connection.resume_writing()
        await looping_until(lambda: statuses(connection))
        assert statuses(connection) == ["200"]

    run(test)


@pytest.mark.parametrize("cut", [None, -2])
def test_a_connection_ends_some_time_after_its_last_request(run: Any, cut: int | None) -> None:
    async def test(server: Server) -> None:
        connection = server.connect()
        for _ in range(4):
            connection.data_received(request()[:cut])
            if cut is not None:
                connection.data_received(request()[cut:])
            await asyncio.sleep(0.6 * TIMEOUT)
            assert not connection.transport.closed
        await looping_until(lambda: connection.transport.closed)

    run(test)


def test_a_uvicorn_without_what_is_overridden_is_refused() -> None:
    class Older:
        connection_made = connection_lost = timeout_keep_alive_handler = pause_writing = resume_writing = print
        on_message_begin = on_header = on_headers_complete = on_body = on_message_complete = on_response_complete = (
            print
        )
        data_received = send_400_response = print

    with pytest.raises(
        ImportError, match=r"has no _start_asgi_task, _unset_keepalive_if_required, _should_upgrade; .* is"
    ):
        check_internals(Older)


def test_all_that_is_overridden_is_checked_for() -> None:
    for name, member in vars(protocol(Gate())).items():
        if callable(member) and hasattr(HttpToolsProtocol, name) and not name.startswith("__"):
            with pytest.raises(ImportError, match=name):
                check_internals(type("Empty", (), {}))


OFFERS = {
    "h2c, as Java's client has it": (
        "connection: Upgrade, HTTP2-Settings",
        "upgrade: h2c",
        "http2-settings: AAMAAABkAAQAAP__",
    ),
    "a WebSocket": ("connection: upgrade", "upgrade: websocket"),
    "in two lines": ("connection: keep-alive", "connection: Upgrade", "upgrade: foo/2"),
}


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("parts", [1, 2, 40])
def test_a_request_that_offers_another_protocol_is_answered_in_this_one(run: Any, offer: str, parts: int) -> None:
    bodies: list[bytes] = []

    async def reading(scope: Any, receive: Any, send: Any) -> None:
        more, body = True, b""
        while more:
            message = await receive()
            body, more = body + message["body"], message.get("more_body", False)
        bodies.append(body)
        await app(scope, receive, send)

    async def test(server: Server) -> None:
        server.gate.closed = False
        server.config.loaded_app = reading
        connection = server.connect()
        for number, lines in enumerate((OFFERS[offer], (), OFFERS[offer]), 1):
            data = request("/a?b=c", b"body %d" % number, *lines)
            step = -(-len(data) // parts)
            for start in range(0, len(data), step):
                connection.data_received(data[start : start + step])
            await looping_until(lambda number=number: len(statuses(connection)) == number)
        assert statuses(connection) == ["200"] * 3
        assert bodies == [b"body 1", b"body 2", b"body 3"]

    run(test)


def test_many_requests_that_offer_another_protocol_at_once_are_all_answered(run: Any) -> None:
    async def test(server: Server) -> None:
        connection = server.connect()
        connection.data_received(request("/a", b"body", "connection: upgrade", "upgrade: h2c") * 2000)
        await looping_until(lambda: statuses(connection) == ["503"] * 2000)

    run(test)


def test_a_request_that_offers_another_protocol_and_closes_is_closed(run: Any) -> None:
    async def test(server: Server) -> None:
        connection = server.connect()
        connection.data_received(request("/a", b"body", "connection: close, upgrade", "upgrade: h2c"))
        assert statuses(connection) == ["503"]
        assert connection.transport.is_closing()

    run(test)


def test_a_tunnel_is_none_of_ours(run: Any) -> None:
    async def test(server: Server) -> None:
        connection = server.connect()
        connection.data_received(b"CONNECT here:80 HTTP/1.1\r\nhost: here\r\n\r\n")
        assert statuses(connection) == ["400"]
        assert connection.transport.is_closing()

    run(test)
