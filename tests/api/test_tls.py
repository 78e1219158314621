"""TLS: certificates that change while the server runs, and clients that do not end what they begin."""

import http.client
import json
import os
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from mcdropout.access import Certificates
from tests.bundles import CLASSIFIER, write_bundle
from tests.compilations import compiled
from tests.patience import wait_until
from tests.servers import Server, free_port, serving

BODY = {"inputs": [0.1, 0.2, 0.3, 0.4]}
_FAR_LESS_THAN_USUAL = 20.0  # seconds: otherwise a handshake would have 60, over gRPC 120, and the end of TLS 30


@dataclass(frozen=True)
class Files:
    """The files of a server's TLS, in a folder."""

    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / "certificate.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    @property
    def clients(self) -> Path:
        return self.folder / "clients.pem"

    def issue(self, authority: trustme.CA) -> str:
        """Replace the certificate and its key; the certificate."""
        made = authority.issue_cert("127.0.0.1", "localhost")
        made.cert_chain_pems[0].write_to_path(str(self.certificate))
        made.private_key_pem.write_to_path(str(self.key))
        return made.cert_chain_pems[0].bytes().decode()


def trusting(server: trustme.CA, client: trustme.CA) -> ssl.SSLContext:
    """What a client takes that trusts an authority, and has a certificate of another."""
    context = ssl.create_default_context()
    server.configure_trust(context)
    client.issue_cert("client.example").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    compiled(write_bundle(folder, "small", CLASSIFIER))
    return folder


@dataclass
class Rotating:
    """A server of two processes at four ports, whose clients show certificates, and what its files are made by."""

    server: Server
    ports: list[int]
    files: Files
    authority: trustme.CA
    clients: trustme.CA
    changes: int = 0

    def wait_until_read(self) -> None:
        """Return once both processes have read what the files hold now."""
        self.changes += 1
        self.server.wait_for_log("certificates read", lines=2 * self.changes)

    def shown(self) -> set[str]:
        """The certificates of connections that begin now, several at each port."""
        ports = [port for port in self.ports for _ in range(4)]
        return {ssl.get_server_certificate(("127.0.0.1", port)) for port in ports}


@pytest.fixture(scope="module")
def rotating(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rotating]:
    files, authority, clients = Files(tmp_path_factory.mktemp("certificates")), trustme.CA(), trustme.CA()
    files.issue(authority)
    clients.cert_pem.write_to_path(str(files.clients))
    admin, metrics, rpc = free_port(), free_port(), free_port()
    flags = [f"--tls-certificate={files.certificate}", f"--tls-key={files.key}", f"--tls-client-ca={files.clients}"]
    flags += [f"--admin-port={admin}", f"--metrics-port={metrics}", f"--grpc-port={rpc}", "--workers=2", "--no-compile"]
    with serving(models, tmp_path_factory.mktemp("log"), *flags) as server:
        server.speak_tls(trusting(authority, clients))
        server.wait_until_ready()
        server.wait_for_log("worker ready", lines=2)
        yield Rotating(server, [server.port, admin, metrics, rpc], files, authority, clients)


def status(port: int, context: ssl.SSLContext) -> int | None:
    """Of an answer on a connection of its own; None where that is refused."""
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=60)
    try:
        connection.request("GET", "/health/live")
        return connection.getresponse().status
    except (ssl.SSLError, ConnectionError):
        return None
    finally:
        connection.close()


@contextmanager
def asking(port: int, context: ssl.SSLContext) -> Iterator[list[str]]:
    """Ask again and again meanwhile, on one connection and on ever new ones; what went wrong."""
    kept = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=60)
    failures, over = [], threading.Event()

    def ask(connection: http.client.HTTPSConnection) -> None:
        connection.request("POST", "/predict?mc=2", json.dumps(BODY), {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            failures.append(str(answer.status))

    def ask_on() -> None:
        while not over.wait(0.01):
            try:
                ask(kept)
                new = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=60)
                ask(new)
                new.close()
            except OSError as error:
                failures.append(repr(error))
                return

    asker = threading.Thread(target=ask_on)
    asker.start()
    try:
        yield failures
    finally:
        over.set()
        asker.join()
        kept.close()


class TestCertificatesThatChange:
    def test_are_shown_at_every_port_from_then_on_and_nobody_is_dropped(self, rotating: Rotating) -> None:
        another = trustme.CA()
        both = trusting(rotating.authority, rotating.clients)
        another.configure_trust(both)
        with asking(rotating.server.port, both) as failures:
            new = rotating.files.issue(another)
            rotating.wait_until_read()
            assert rotating.shown() == {new}
        assert failures == []
        rotating.authority = another

    def test_are_left_as_they_were_where_the_new_ones_are_of_no_use(self, rotating: Rotating) -> None:
        (before,) = rotating.shown()
        key = rotating.files.key.read_text()
        rotating.files.key.write_text(key[: len(key) // 2])
        lines = rotating.server.wait_for_log("certificates cannot be used, and stay as they were", lines=2)
        assert all(str(rotating.files.key) in line and "its own key as PEM are accepted" in line for line in lines)
        assert rotating.shown() == {before}
        rotating.files.key.write_text(key)
        rotating.wait_until_read()
        assert rotating.shown() == {before}

    def test_of_other_clients_let_in_these_and_no_more_the_ones_before(self, rotating: Rotating) -> None:
        grpc = pytest.importorskip("grpc")
        before, after = rotating.clients, trustme.CA()
        after.cert_pem.write_to_path(str(rotating.files.clients))
        rotating.wait_until_read()
        for client, is_let_in in ((after, True), (before, False)):
            context = trusting(rotating.authority, client)
            for port in rotating.ports[:3]:
                assert (status(port, context) == 200) is is_let_in
            made = client.issue_cert("client.example")
            own = made.private_key_pem.bytes(), made.cert_chain_pems[0].bytes()
            credentials = grpc.ssl_channel_credentials(rotating.authority.cert_pem.bytes(), *own)
            options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
            with grpc.secure_channel(f"127.0.0.1:{rotating.ports[3]}", credentials, options) as channel:
                live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
                if is_let_in:
                    assert live(b"", timeout=60, wait_for_ready=True)
                else:
                    with pytest.raises(grpc.RpcError):
                        live(b"", timeout=60)
        rotating.clients = after

    def test_are_read_once_their_files_are_no_more_being_replaced(self, tmp_path: Path) -> None:
        files, authority = Files(tmp_path), trustme.CA()
        files.issue(authority)
        certificates = Certificates(files.certificate, files.key, None, None)
        before, key = certificates.loaded, files.key.read_bytes()
        certificates.look()
        files.issue(authority)
        new_key = files.key.read_bytes()
        files.key.write_bytes(key)  # the certificate alone is new
        certificates.look()
        files.key.write_bytes(new_key)
        certificates.look()
        assert certificates.loaded is before
        certificates.look()
        assert certificates.loaded.key == new_key
        assert certificates.loaded.context is not before.context


@pytest.fixture(scope="module")
def rpc_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def strict(
    models: Path, rpc_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, ssl.SSLContext]]:
    """A server of few connections that gives little time, and what its clients take."""
    files, authority = Files(tmp_path_factory.mktemp("certificates")), trustme.CA()
    files.issue(authority)
    flags = (
        f"--tls-certificate={files.certificate}",
        f"--tls-key={files.key}",
        f"--grpc-port={rpc_port}",
        "--no-compile",
    )
    limits = {"MCDROPOUT_HEAD_SECONDS": "2", "MCDROPOUT_MAX_CONNECTIONS": "4", "MCDROPOUT_LOG_LEVEL": "debug"}
    context = trusting(authority, authority)
    with serving(models, tmp_path_factory.mktemp("log"), *flags, **limits) as server:
        server.speak_tls(context)
        server.wait_until_ready()
        yield server, context


def connected(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=_FAR_LESS_THAN_USUAL)


def cuts(server: Server) -> float:
    """How many connections were cut off, by the metrics."""
    found = re.search(r"^mcdropout_connections_cut_total (\S+)$", server.client.get("/metrics").text, re.M)
    assert found is not None
    return float(found[1])


class TestHandshakes:
    @pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01"], ids=["nothing", "a_part"])
    def test_have_the_time_of_a_head(self, strict: tuple[Server, ssl.SSLContext], sent: bytes) -> None:
        before = cuts(strict[0])
        with connected(strict[0]) as silent:
            silent.sendall(sent)
            assert silent.recv(1) == b""
        wait_until(lambda: cuts(strict[0]) == before + 1)

    def test_of_grpc_have_no_more(self, strict: tuple[Server, ssl.SSLContext], rpc_port: int) -> None:
        strict[0].wait_for_log("listening", f"127.0.0.1:{rpc_port}")
        with socket.create_connection(("127.0.0.1", rpc_port), timeout=_FAR_LESS_THAN_USUAL) as silent:
            assert silent.recv(1) == b""

    def test_that_nobody_ends_keep_nobody_out(self, strict: tuple[Server, ssl.SSLContext]) -> None:
        server, context = strict
        silent = [connected(server) for _ in range(12)]
        assert status(server.port, context) == 200
        server.wait_for_log("connection cut", "others want a connection")
        for one in silent:
            one.close()

    def test_a_client_that_does_not_end_tls_is_not_waited_for(self, strict: tuple[Server, ssl.SSLContext]) -> None:
        server, context = strict
        with context.wrap_socket(connected(server), server_hostname="127.0.0.1") as client:
            client.sendall(b"GET /health/live HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
            while client.recv(65536):
                pass  # up to the server's close_notify, which is not answered
            with socket.socket(fileno=os.dup(client.fileno())) as below:
                below.settimeout(_FAR_LESS_THAN_USUAL)
                assert below.recv(1) == b""
