"""Compressed bodies are read as what they were, within the same limits; large answers go as gzip."""

import gzip
import json
import shutil
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from anyio import CapacityLimiter
from backports import zstd

from mcdropout.api import encodings
from mcdropout.api.errors import ProblemError
from tests.api.test_http import JSON, assert_problem
from tests.api.test_tensors import NPY, npy
from tests.conftest import MODELS
from tests.servers import Server, serving

LIMIT = 2**20
CODINGS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "x-gzip": gzip.compress, "zstd": zstd.compress}
ROW = {"inputs": [[540.0, 0.0, 0.0, 162.0, 2.5, 1040.0, 676.0, 28.0]]}
SMALL = json.dumps(ROW).encode()


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes bodies of 1 MiB."""
    with small_server(tmp_path_factory.mktemp("limited"), MCDROPOUT_MAX_BODY_BYTES=str(LIMIT)) as running:
        yield running


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that has room for 1 MiB of bodies."""
    with small_server(tmp_path_factory.mktemp("crowded"), MCDROPOUT_MAX_BODIES_BYTES=str(LIMIT)) as running:
        yield running


def small_server(folder: Path, **environment: str) -> Any:
    shutil.copytree(MODELS / "concrete-mlp", folder / "models" / "concrete-mlp")
    return serving(folder / "models", folder, **environment)


@pytest.fixture(autouse=True)
def _ready(limited: Server, crowded: Server) -> None:
    limited.wait_until_ready()
    crowded.wait_until_ready()


def post(server: Server, coding: str, body: Any, query: str = "mc=5&seed=3", **headers: str) -> httpx.Response:
    sent = JSON | {"content-encoding": coding} | {name.replace("_", "-"): value for name, value in headers.items()}
    return server.client.post(f"/predict?{query}", content=body, headers=sent)


@pytest.mark.wide
@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("rows", [1, 60])
def test_a_compressed_body_is_answered_as_the_same_body_plain(
    server: Server, seven: npt.NDArray[np.float64], coding: str, rows: int
) -> None:
    inputs = {
        "inputs": (seven.repeat(rows, axis=0) + 0.25 * np.arange(rows)[:, None, None, None]).clip(0, 255).tolist()
    }
    expected = server.client.post("/predict?mc=5&seed=3", json=inputs).json()["predictions"]
    whole = CODINGS[coding](json.dumps(inputs).encode())
    assert post(server, coding, whole).json()["predictions"] == expected
    assert post(server, coding.upper(), iter([whole[:1], whole[1:7], whole[7:]])).json()["predictions"] == expected
    array = CODINGS[coding](npy(np.array(inputs["inputs"])))
    assert post(server, coding, array, content_type=NPY).json()["predictions"] == expected


def test_a_body_is_read_to_its_end_wherever_pieces_of_it_end(limited: Server) -> None:
    for size in (65536, 65536 * 2, 65536 + 262144, 65536 + 262144 + 1, LIMIT):
        padded = SMALL + b" " * (size - len(SMALL))
        for coding, compress in CODINGS.items():
            assert post(limited, coding, compress(padded)).status_code == 200, (coding, size)
            assert post(limited, coding, compress(padded + b" " * (LIMIT + 1 - size))).status_code == 413


def far_window(content: bytes) -> bytes:
    """A zstd frame whose window is 128 MiB."""
    options = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.content_size_flag: 0}
    compressor = zstd.ZstdCompressor(options=options)
    return bytes(compressor.compress(content) + compressor.flush())


WHOLE, FRAME = gzip.compress(SMALL, mtime=0), zstd.compress(SMALL)
BAD: list[tuple[str, bytes, int, list[str]]] = [
    ("br", WHOLE, 415, ["'br'", "gzip, zstd", "identity"]),
    ("deflate", zlib.compress(SMALL), 415, ["'deflate'", "gzip, zstd"]),
    ("gzip, gzip", gzip.compress(WHOLE, mtime=0), 415, ["'gzip, gzip'"]),
    ("", SMALL, 415, ["''"]),
    ("gzip", b"", 400, ["truncated", "0 bytes are no whole gzip"]),
    ("gzip", WHOLE[:5], 400, ["truncated", "5 bytes are no whole gzip"]),
    ("gzip", WHOLE[:-1], 400, ["truncated"]),
    ("gzip", WHOLE[:-9], 400, ["truncated"]),
    ("gzip", SMALL, 400, ["cannot be read as gzip", "incorrect header"]),
    ("gzip", FRAME, 400, ["cannot be read as gzip"]),
    ("gzip", zlib.compress(SMALL), 400, ["cannot be read as gzip"]),
    ("gzip", WHOLE[:-8] + bytes(8), 400, ["cannot be read as gzip", "data check"]),
    ("gzip", WHOLE[:-4] + bytes(4), 400, ["cannot be read as gzip", "length check"]),
    ("gzip", WHOLE + b"x", 400, ["1 bytes behind its end"]),
    ("gzip", WHOLE + WHOLE, 400, [f"{len(WHOLE)} bytes behind its end"]),
    ("zstd", b"", 400, ["truncated"]),
    ("zstd", FRAME[:5], 400, ["truncated"]),
    ("zstd", FRAME[:-1], 400, ["truncated"]),
    ("zstd", SMALL, 400, ["cannot be read as zstd"]),
    ("zstd", WHOLE, 400, ["cannot be read as zstd"]),
    ("zstd", FRAME + b"xy", 400, ["2 bytes behind its end"]),
    ("zstd", FRAME + FRAME, 400, [f"{len(FRAME)} bytes behind its end"]),
    ("zstd", far_window(SMALL), 400, ["cannot be read as zstd"]),
]


@pytest.mark.parametrize(("coding", "body", "status", "said"), BAD)
def test_what_is_not_what_its_encoding_says_is_refused(
    limited: Server, coding: str, body: bytes, status: int, said: list[str]
) -> None:
    response = post(limited, coding, body)
    assert_problem(response, status, said)
    assert ("accept-encoding" in response.headers) == (status == 415)


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_what_comes_behind_the_end_is_refused_when_it_comes_later(limited: Server, coding: str) -> None:
    def parts() -> Iterator[bytes]:
        yield CODINGS[coding](SMALL)
        time.sleep(0.1)  # or the server reads both at once
        yield CODINGS[coding](SMALL)

    assert_problem(post(limited, coding, parts()), 400, ["bytes behind its end"])


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_bomb_is_refused_before_it_has_grown(limited: Server, coding: str) -> None:
    bomb = CODINGS[coding](bytes(500 * 2**20))
    assert len(bomb) < LIMIT

    def refused() -> None:
        assert_problem(post(limited, coding, bomb), 413, [f"larger than {LIMIT} bytes"])

    refused()  # what reading a compressed body takes at all
    assert limited.peak_memory_grown_by(refused) < 16 * 1024


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_what_a_body_grows_to_counts_among_the_bodies_of_all_and_no_longer_than_it_is_there(
    crowded: Server, coding: str
) -> None:
    for _ in range(3):
        assert_problem(post(crowded, coding, CODINGS[coding](SMALL + b" " * LIMIT)), 503, ["bodies of requests"])
        assert post(crowded, coding, CODINGS[coding](SMALL + b" " * (LIMIT - len(SMALL)))).status_code == 200


def test_large_answers_go_as_gzip_where_a_client_takes_that(server: Server, seven: npt.NDArray[np.float64]) -> None:
    many = json.dumps({"inputs": seven.repeat(100, axis=0).tolist()}).encode()

    def answer(accepted: str, body: bytes = many, **headers: str) -> httpx.Response:
        return post(server, "identity", body, accept_encoding=accepted, **headers)

    plain = answer("identity")
    assert len(plain.content) > 2**16
    assert "content-encoding" not in plain.headers
    for accepted in ("gzip", "deflate, GZIP;q=0.5", "br, x-gzip"):
        compressed = answer(accepted)
        assert compressed.headers["content-encoding"] == "gzip"
        assert compressed.headers["vary"] == "Accept-Encoding"
        assert int(compressed.headers["content-length"]) < len(plain.content) / 2
        assert compressed.json()["predictions"] == plain.json()["predictions"]
    for accepted in ("gzip;q=0", "gzip; q=0.0", "br", ""):
        assert "content-encoding" not in answer(accepted).headers
    assert "content-encoding" not in answer("gzip", json.dumps({"inputs": seven.tolist()}).encode()).headers
    assert "content-encoding" not in answer("gzip", accept=NPY).headers


def test_a_server_without_zstd_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "backports", None)
    monkeypatch.setitem(sys.modules, "compression", None)
    monkeypatch.setattr(encodings, "DECODERS", encodings.known_decoders())

    async def nothing() -> AsyncIterator[bytes]:
        yield b""

    with pytest.raises(ProblemError, match=r"lacks backports.zstd \(pip install 'mcdropout\[zstd\]'\)") as refused:
        encodings.decoded("zstd", nothing(), CapacityLimiter(1))
    assert refused.value.explanation.status == 415
    assert refused.value.explanation.headers == {"Accept-Encoding": "gzip"}


def test_the_document_says_how_bodies_may_be_compressed(server: Server) -> None:
    operation = server.client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    assert operation["requestBody"]["description"].endswith("as Content-Encoding says, by gzip or zstd.")
