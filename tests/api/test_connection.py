"""Connections: what becomes of requests that arrive while the event loop is busy."""

import asyncio
import socket
import time
from typing import Any

import uvicorn

from mcdropout.api.connection import Refusal, protocol
from tests.patience import looping_until, patience

KEPT = patience(1.0)
"""How long connections are kept, in seconds."""


async def app(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


class Busy:
    """Reads some requests for some time."""

    def refusal(self, scope: Any) -> None:
        if scope["path"] == "/busy":
            time.sleep(1.3 * KEPT)

    def cut(self) -> None:
        raise AssertionError("a connection was cut off")

    def accepts_host(self, host: bytes) -> bool:
        return True

    def problem(self, status: int, detail: str) -> Refusal:
        raise AssertionError(f"{status}: {detail}")


def ask(client: socket.socket, path: str = "/", after: float = 0.0) -> bytes:
    time.sleep(after)
    client.sendall(f"GET {path} HTTP/1.1\r\nhost: here\r\n\r\n".encode())
    answer = b""
    while not answer.endswith(b"ok"):
        part = client.recv(4096)
        if not part:
            return b""
        answer += part
    return answer


async def answers(port: int) -> list[bytes]:
    """To a request; to one that arrives in time while the loop is busy until the time for it is over; and to none."""
    address = ("127.0.0.1", port)
    with socket.create_connection(address, timeout=10 * KEPT) as client, socket.create_connection(address) as other:
        first = await asyncio.to_thread(ask, client)
        asks = (
            asyncio.to_thread(ask, client, after=0.5 * KEPT),
            asyncio.to_thread(ask, other, "/busy", after=0.2 * KEPT),
        )
        second, _ = await asyncio.gather(*asks)
        await asyncio.sleep(1.5 * KEPT)
        return [first, second, client.recv(4096)]


def test_a_request_that_arrived_in_time_is_answered_however_late_it_is_read() -> None:
    config = uvicorn.Config(app, http=protocol(Busy()), timeout_keep_alive=KEPT, log_config=None, loop="uvloop")  # type: ignore[arg-type]
    server = uvicorn.Server(config)

    async def run(listening: socket.socket) -> list[bytes]:
        serving = asyncio.ensure_future(server.serve(sockets=[listening]))
        try:
            await looping_until(lambda: server.started)
            return await answers(listening.getsockname()[1])
        finally:
            server.should_exit = True
            await serving

    with socket.socket() as listening, asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        listening.bind(("127.0.0.1", 0))
        first, second, last = runner.run(run(listening))
    assert first.startswith(b"HTTP/1.1 200")
    assert second.startswith(b"HTTP/1.1 200")
    assert last == b""  # the connection is closed, since nothing more was asked
