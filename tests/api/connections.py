"""Connections without sockets, for tests: what a client sends goes in, and what it gets is kept."""

import asyncio
import re
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from mcdropout.api.connection import Limits, Refusal, protocol
from tests.patience import patience

TIMEOUT = patience(0.3)


class Gate:
    """Refuses requests while it is closed, but for open paths; tells which were asked about."""

    def __init__(self) -> None:
        self.closed = True
        self.asked: list[str] = []
        self.open: set[str] = set()
        self.cuts = 0

    def refusal(self, scope: Any) -> Refusal | None:
        self.asked.append(scope["path"])
        refused = self.closed and scope["path"] not in self.open
        return Refusal(503, b"x-path: %b\r\n" % scope["path"].encode(), b"full") if refused else None

    def cut(self) -> None:
        self.cuts += 1

    def accepts_host(self, host: bytes) -> bool:
        return host != b"evil.example"

    def problem(self, status: int, detail: str) -> Refusal:
        return Refusal(status, b"", detail.encode())


class Transport(asyncio.Transport):
    """Keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = self.aborted = self.ended = self.paused = False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = self.aborted = True

    def get_write_buffer_size(self) -> int:
        return len(self.written)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("sockname", "peername") else default


async def app(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(0.01)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


class Server:
    """Connections to `app` through a gate."""

    def __init__(self, limits: Limits | None = None, app: Any = app) -> None:
        self.gate = Gate()
        connections: Any = protocol(self.gate, limits=limits or Limits())
        self.config = uvicorn.Config(app, http=connections, timeout_keep_alive=TIMEOUT, log_config=None)
        self.config.load()
        self.state = ServerState()

    def connect(self) -> Any:
        made: Any = self.config.http_protocol_class(config=self.config, server_state=self.state, app_state={})  # type: ignore[call-arg]
        made.connection_made(Transport())
        return made

    def close(self) -> None:
        """Let go of all connections."""
        for connection in list(self.state.connections):
            connection.connection_lost(None)  # type: ignore[union-attr]


def request(path: str = "/a", body: bytes = b"body", *lines: str, version: str = "1.1") -> bytes:
    head = [f"POST {path} HTTP/{version}", "host: here", *lines, f"content-length: {len(body)}"]
    return "\r\n".join([*head, "", ""]).encode() + body


def statuses(connection: Any) -> list[str]:
    """Of the answers on a connection so far."""
    return re.findall(r"HTTP/1\.1 (\d{3}) ", connection.transport.written.decode())
