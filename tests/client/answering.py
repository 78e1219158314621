"""A small real HTTP server whose answers a test writes down beforehand: for faults that the service has not at hand."""

import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PREDICTION = {
    "model": "m",
    "version": "1",
    "mc": 2,
    "seed": 7,
    "predictions": [{"passes": 2, "mean": 0.5}],
    "timing": {"queue_seconds": 0.0, "compute_seconds": 0.0},
}
PROBLEM = {"type": "about:blank", "title": "Service Unavailable", "status": 503, "detail": "overloaded"}


@dataclass(frozen=True)
class Reply:
    """What a request gets.

    Attributes:
        status, headers, document: of the answer.
        hangs_up: whether the connection is closed instead.
        silent: whether nothing comes at all, until the server ends.
        drip: seconds between the bytes of the body.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    document: Any = None
    hangs_up: bool = False
    silent: bool = False
    drip: float = 0.0


ANSWER = Reply(document=PREDICTION)
HANGS_UP = Reply(hangs_up=True)
SILENT = Reply(silent=True)


def overloaded(status: int = 503, **headers: str) -> Reply:
    """A refusal for the time being."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, named, PROBLEM | {"status": status})


@dataclass(frozen=True)
class Asked:
    """A prediction that was asked for: when, on the monotonic clock, on which connection, and with which headers."""

    at: float
    port: int
    path: str
    headers: Mapping[str, str]
    content: bytes


class Answering:
    """The server while it runs.

    Attributes:
        url: its address.
        asked: the predictions that it was asked for so far.
        described: what it answers to a GET, by the path; 404 for any other.
        looked_at: the paths that were asked for by GET.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[Asked] = []
        self.described: dict[str, Any] = {}
        self.looked_at: list[str] = []

    @property
    def pauses(self) -> list[float]:
        """The seconds between one prediction that was asked for and the next."""
        return [after.at - before.at for before, after in zip(self.asked, self.asked[1:], strict=False)]


@contextmanager
def answering(replies: Sequence[Reply]) -> Iterator[Answering]:
    """Answer predictions with these, one after another and the last again and again."""
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.looked_at.append(self.path)
            found = server.described.get(self.path)
            self._write(Reply(404, {}, {"detail": "nothing is here"}) if found is None else Reply(document=found))

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            server.asked.append(Asked(time.monotonic(), self.client_address[1], self.path, headers, content))
            reply = replies[min(len(server.asked), len(replies)) - 1]
            if reply.silent:
                ended.wait()
            if reply.silent or reply.hangs_up:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
            else:
                self._write(reply)

        def _write(self, reply: Reply) -> None:
            body = b"" if reply.document is None else json.dumps(reply.document).encode()
            self.send_response_only(reply.status)
            for name, value in {"content-length": str(len(body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            for byte in body if reply.drip else ():
                if ended.wait(reply.drip):
                    return
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
            if not reply.drip:
                self.wfile.write(body)

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:  # the client went away, as it may
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Answering(f"http://127.0.0.1:{listening.server_address[1]}")
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        ended.set()
        listening.shutdown()
        thread.join()
        listening.server_close()
