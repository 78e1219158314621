"""The HTTP clients that languages have by default: each gets a prediction, and refusals while it is still
sending."""

import asyncio
import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import httpx
import pytest
import requests

from tests.bundles import CLASSIFIER, write_bundle
from tests.compilations import compiled
from tests.servers import Server, serving

ROW = json.dumps({"inputs": [0.1, 0.2, 0.3, 0.4]}).encode()
LARGE = json.dumps({"inputs": [[0.1, 0.2, 0.3, 0.4]] * 200_000}).encode()
MOST_BYTES = 100_000
JSON = "application/json"
Answer = tuple[int, str]

_JAVA = """
import java.net.URI;
import java.net.http.*;
import java.nio.file.*;

public class Ask {
    public static void main(String[] given) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create(given[0]))
            .header("content-type", "application/json")
            .POST(HttpRequest.BodyPublishers.ofFile(Path.of(given[1]))).build();
        HttpResponse<String> answer = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
        System.out.println(answer.statusCode() + " " + answer.body());
    }
}
"""
_NODE = """
const { readFileSync } = require("node:fs");
const [url, file] = process.argv.slice(2);
fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body: readFileSync(file) }).then(
    async (answer) => console.log(answer.status + " " + (await answer.text())));
"""
_GO = """
package main

import ("fmt"; "io"; "net/http"; "os")

func main() {
    body, _ := os.Open(os.Args[2])
    answer, err := http.Post(os.Args[1], "application/json", body)
    if err != nil { panic(err) }
    text, _ := io.ReadAll(answer.Body)
    fmt.Println(answer.StatusCode, string(text))
}
"""


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of a model that answers, and of one that cannot."""
    folder = tmp_path_factory.mktemp("models")
    compiled(write_bundle(folder, "small", CLASSIFIER))
    (write_bundle(folder, "failed", CLASSIFIER) / "network.py").write_text("raise RuntimeError('no')\n")
    limits = {"MCDROPOUT_MAX_BODY_BYTES": str(MOST_BYTES)}
    with serving(folder, tmp_path_factory.mktemp("log"), "--default", "small", **limits) as running:
        running.wait_until_ready()
        yield running


def by_urllib(url: str, body: bytes, folder: Path) -> Answer:
    request = urllib.request.Request(url, body, {"content-type": JSON})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def by_requests(url: str, body: bytes, folder: Path) -> Answer:
    answer = requests.post(url, body, headers={"content-type": JSON})
    return answer.status_code, answer.text


def by_httpx(url: str, body: bytes, folder: Path) -> Answer:
    answer = httpx.post(url, content=body, headers={"content-type": JSON})
    return answer.status_code, answer.text


def by_aiohttp(url: str, body: bytes, folder: Path) -> Answer:
    async def ask() -> Answer:
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data=body, headers={"content-type": JSON}) as one,
        ):
            return one.status, await one.text()

    return asyncio.run(ask())


def by_program(*command: str, source: tuple[str, str] | None = None) -> Callable[[str, bytes, Path], Answer]:
    """By a program that is given the URL and a file of the body, and prints the status, a space and the answer."""

    def ask(url: str, body: bytes, folder: Path) -> Answer:
        if shutil.which(command[0]) is None:
            pytest.skip(f"there is no {command[0]}")
        (folder / "body").write_bytes(body)
        if source is not None:
            (folder / source[0]).write_text(source[1])
        given = [part.replace("FOLDER", str(folder)).replace("URL", url) for part in command]
        ended = subprocess.run(given, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        status, _, text = ended.stdout.strip().partition(" ")
        return int(status), text

    return ask


def by_curl(*flags: str) -> Callable[[str, bytes, Path], Answer]:
    written = ["-s", "-w", "\\n%{http_code}", "-H", f"content-type: {JSON}", "--data-binary", "@FOLDER/body", "URL"]

    def ask(url: str, body: bytes, folder: Path) -> Answer:
        if shutil.which("curl") is None:
            pytest.skip("there is no curl")
        (folder / "body").write_bytes(body)
        given = [part.replace("FOLDER", str(folder)).replace("URL", url) for part in ("curl", *flags, *written)]
        text, _, status = subprocess.run(given, capture_output=True, text=True, check=True).stdout.rpartition("\n")
        return int(status), text

    return ask


CLIENTS = {
    "urllib": by_urllib,
    "requests": by_requests,
    "httpx": by_httpx,
    "aiohttp": by_aiohttp,
    "curl": by_curl(),
    "curl --http2": by_curl("--http2"),
    "curl that does not wait": by_curl("-H", "expect:"),
    "Java": by_program("java", "FOLDER/Ask.java", "URL", "FOLDER/body", source=("Ask.java", _JAVA)),
    "JavaScript": by_program("node", "FOLDER/ask.js", "URL", "FOLDER/body", source=("ask.js", _NODE)),
    "Go": by_program("go", "run", "FOLDER/ask.go", "URL", "FOLDER/body", source=("ask.go", _GO)),
}


@pytest.mark.wide
@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_gets_predictions_and_refusals(asked: Server, tmp_path: Path, name: str) -> None:
    ask = CLIENTS[name]
    status, text = ask(f"{asked.url}/predict?mc=5&seed=1", ROW, tmp_path)
    assert status == 200, text
    wanted = asked.client.post("/predict?mc=5&seed=1", content=ROW, headers={"content-type": JSON}).json()
    assert json.loads(text)["predictions"] == wanted["predictions"]
    status, text = ask(f"{asked.url}/predict?mc=5", LARGE, tmp_path)
    assert (status, json.loads(text)["detail"]) == (
        413,
        f"the body is larger than {MOST_BYTES} bytes; at most that many are accepted",
    )
    status, text = ask(f"{asked.url}/models/failed/predict", ROW, tmp_path)
    assert status == 503
    assert json.loads(text)["detail"].startswith("the model 'failed' does not serve")
