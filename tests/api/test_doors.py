"""Doors: ports apart, TLS, pages of other origins, what browsers are told, the page of documents, and HEAD."""

import json
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme

from tests.bundles import CLASSIFIER, write_bundle
from tests.compilations import compiled
from tests.servers import MCDROPOUT, Server, free_port, serving

BODY = {"inputs": [0.1, 0.2, 0.3, 0.4]}
PAGE = "https://page.example.org"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    compiled(write_bundle(folder, "small", CLASSIFIER))
    return folder


@pytest.fixture(scope="module", params=["1", "2"])
def apart(
    request: pytest.FixtureRequest, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, int, int]]:
    """A server of one process, or of two, and its ports for admin and metrics."""
    admin, metrics = free_port(), free_port()
    flags = "--admin-port", str(admin), "--metrics-port", str(metrics), "--workers", request.param, "--watch", "0"
    with serving(models, tmp_path_factory.mktemp("log"), *flags) as running:
        running.wait_until_ready()
        yield running, admin, metrics


class TestPortsApart:
    def test_each_port_answers_what_it_is_for_and_nothing_else(self, apart: tuple[Server, int, int]) -> None:
        server, admin, metrics = apart
        answered: dict[str, set[int]] = {}
        for port in (server.port, admin, metrics):
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                answers = {
                    "predict": client.post("/predict?mc=2", json=BODY),
                    "models": client.get("/models"),
                    "reload": client.post("/models/small/reload"),
                    "metrics": client.get("/metrics"),
                    "health": client.get("/health/ready"),
                    "docs": client.get("/docs"),
                }
            for what, answer in answers.items():
                if answer.status_code != 404:
                    answered.setdefault(what, set()).add(port)
        assert answered == {
            "predict": {server.port},
            "models": {server.port, admin},
            "reload": {admin},
            "metrics": {metrics},
            "health": {server.port, admin, metrics},
            "docs": {server.port},
        }


def test_two_doors_at_one_port_are_refused(models: Path) -> None:
    port = str(free_port())
    ended = subprocess.run(
        [str(MCDROPOUT), "serve", "--models", str(models), "--port", port, "--admin-port", port],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert f"port, admin_port and metrics_port are [{port}, {port}]; different ones are accepted" in ended.stderr


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("certificates")
    certificate, client = authority.issue_cert("127.0.0.1", "localhost"), authority.issue_cert("client.example")
    paths = {name: folder / f"{name}.pem" for name in ("certificate", "key", "authority", "client", "other_key")}
    certificate.cert_chain_pems[0].write_to_path(str(paths["certificate"]))
    certificate.private_key_pem.write_to_path(str(paths["key"]))
    authority.cert_pem.write_to_path(str(paths["authority"]))
    client.private_key_and_cert_chain_pem.write_to_path(str(paths["client"]))
    client.private_key_pem.write_to_path(str(paths["other_key"]))
    return paths


class TestTls:
    def trusting(self, files: dict[str, Path], *, client: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=files["authority"])
        if client:
            context.load_cert_chain(files["client"])
        return context

    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_answers_come_over_tls(self, models: Path, files: dict[str, Path], tmp_path: Path, workers: str) -> None:
        flags = "--tls-certificate", str(files["certificate"]), "--tls-key", str(files["key"]), "--workers", workers
        with serving(models, tmp_path, *flags) as server:
            server.speak_tls(self.trusting(files))
            server.wait_until_ready()
            answer = server.client.post("/predict?mc=3&seed=1", json=BODY)
            assert answer.json()["mc"] == 3
            large = server.client.post(
                "/predict?mc=50&seed=1&samples=true", json={"inputs": [[0.1, 0.2, 0.3, 0.4]] * 999}
            )
            assert len(large.json()["predictions"]) == 999
            with pytest.raises(httpx.RemoteProtocolError):
                httpx.get(f"http://127.0.0.1:{server.port}/health/live")

    def test_clients_show_a_certificate_where_they_must(
        self, models: Path, files: dict[str, Path], tmp_path: Path
    ) -> None:
        flags = [f"--tls-{name}={files[file]}" for name, file in TLS_FILES.items()]
        with serving(models, tmp_path, *flags) as server:
            server.speak_tls(self.trusting(files, client=True))
            server.wait_until_ready()
            assert server.client.post("/predict?mc=2", json=BODY).status_code == 200
            with httpx.Client(verify=self.trusting(files)) as stranger, pytest.raises(httpx.TransportError):
                stranger.get(server.url + "/health/live")

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            (["--tls-certificate", "/nowhere.pem"], "there is no file /nowhere.pem"),
            (["--tls-key", "key"], "tls_key or tls_client_ca is given without tls_certificate"),
            (["--tls-certificate", "certificate", "--tls-key", "other_key"], "a certificate and its own key as PEM"),
            (["--tls-certificate", "certificate"], "a certificate and its own key as PEM"),
            (["--tls-certificate", "key", "--tls-key", "key"], "a certificate and its own key as PEM"),
        ],
    )
    def test_files_that_are_of_no_use_are_named(
        self, models: Path, files: dict[str, Path], flags: list[str], said: str
    ) -> None:
        given = [str(files.get(flag, flag)) for flag in flags]
        ended = subprocess.run(
            [str(MCDROPOUT), "serve", "--models", str(models), "--port", str(free_port()), *given],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 2
        assert said in ended.stderr
        assert "Traceback" not in ended.stderr


TLS_FILES = {"certificate": "certificate", "key": "key", "client-ca": "authority"}


class TestPagesOfOtherOrigins:
    def test_none_may_read_an_answer(self, server: Server) -> None:
        answer = server.client.get("/models", headers={"origin": PAGE})
        assert "access-control-allow-origin" not in answer.headers

    def test_one_that_is_allowed_may_and_no_other(self, models: Path, tmp_path: Path) -> None:
        with serving(models, tmp_path, MCDROPOUT_CORS_ORIGINS=f"{PAGE}, https://b.example.org") as server:
            server.wait_until_ready()
            asked = {"origin": PAGE, "access-control-request-method": "POST"}
            asked["access-control-request-headers"] = "authorization,content-type"
            assert server.client.options("/predict", headers=asked).status_code == 200
            answer = server.client.post("/predict?mc=2", json=BODY, headers={"origin": PAGE})
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert "access-control-allow-credentials" not in answer.headers
            other = server.client.post("/predict?mc=2", json=BODY, headers={"origin": "https://evil.example"})
            assert "access-control-allow-origin" not in other.headers


def test_browsers_are_told_to_take_answers_for_what_they_are(server: Server) -> None:
    for answer in (server.client.get("/models"), server.client.get("/nowhere"), server.client.get("/docs")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"


def test_the_page_of_documents_asks_nobody_else(server: Server) -> None:
    page = server.client.get("/docs")
    named = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page.text)
    assert [name for name in named if name.startswith("/docs/")]
    for name in named:
        assert not re.match(r"(https?:)?//", name)
        if name.startswith("/"):
            assert server.client.get(name).status_code == 200
    assert "https://" not in page.text
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'self'"


@pytest.mark.parametrize("path", ["/models", "/models/mnist-cnn", "/health/ready", "/openapi.json", "/metrics"])
def test_head_is_answered_as_get_without_a_body(server: Server, path: str) -> None:
    head, get = server.client.head(path), server.client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert server.client.head("/predict").status_code == 405


def test_the_document_says_what_is_answered_before_a_route_is_asked(server: Server) -> None:
    document = server.client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for operation in operations.values():
            wanted = {"400", "408", "421", "431", "503"} | (
                set() if path.startswith(("/health/", "/v2/health/")) else {"401", "403", "429"}
            )
            assert wanted <= operation["responses"].keys()
            for status in wanted:
                content = operation["responses"][status]["content"]
                if path.startswith("/v2"):
                    assert "application/json" in content
                if not path.startswith("/v2") or status in ("408", "421", "431"):
                    assert "application/problem+json" in content
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(b"GET /models HTTP/1.1\r\nhost: other.example\r\nconnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 421 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == 421
