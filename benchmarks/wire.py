"""What the wire costs: the same rows in each format, beside a bare FastAPI endpoint, and an image of 512 x 512 pixels.

    python -m benchmarks.wire --data-dir FOLDER

The bare endpoint parses the JSON of a digit, and answers as many bytes, always the same; ours predicts the digit with
mc=0. Both servers are one process each, on the same cores as the clients, and have their turns in one run; ratios
are ours over the bare one's, in requests a second. Beside them stands the processor time that the server takes for a
request, and that the clients do, of all cores together; and what the arithmetic alone takes of one core, for digits in
batches of 32 without any server. The image's network does next to nothing, so that what its time shows is the format.
"""

import argparse
import base64
import io
import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import orjson

from benchmarks.bundles import MODELS as BUNDLES
from benchmarks.engine import _print_table
from benchmarks.load.digits import digits
from benchmarks.load.generator import Generator, Job, Stream, encode
from benchmarks.load.servers import Server, ours, running
from benchmarks.load.throughput import _peer
from benchmarks.timing import Spread, interleave
from mcdropout.catalogue.loading import Loading, load
from mcdropout.engine.threads import use_threads
from tests.bundles import write_bundle
from tests.servers import serving

NPY = "application/x-npy"
CLIENTS = (1, 32)
JSON_SHARE = 0.5  # of the bare endpoint's requests a second, at 32 clients
MODELS = ("mnist-cnn", "mnist-mlp")
_PATH = "/models/{}/predict?mc=0&seed=1"
_BATCH, _CALLS, _WARMING = 32, 20, 1
_SIDE = 512
_POOLING = """
import torch.nn as nn


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool = nn.AvgPool2d(64)
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 3))

    def forward(self, x):
        return self.head(self.pool(x))
"""


def main() -> int:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder, Generator() as generator:
        met = _digits(generator, Path(folder), arguments)
        _image(Path(folder), arguments.repeat)
    return 0 if met else 1


def _digits(generator: Generator, folder: Path, arguments: argparse.Namespace) -> bool:
    """Requests a second for one digit each; whether the ratios are what they are to be."""
    images = digits(arguments.data_dir, 200)
    jsons = [orjson.dumps({"inputs": image}, option=orjson.OPT_SERIALIZE_NUMPY) for image in images.astype(float)]
    arrays = [_npy(image.astype(np.uint8)) for image in images]
    floats = [_npy(image.astype(np.float32)) for image in images]
    with ExitStack() as stack:
        bare = stack.enter_context(running(_peer(("peers", "bare-fastapi")), folder, "/predict", jsons[0]))
        server = stack.enter_context(ours(folder))
        cnn, mlp = (_PATH.format(model) for model in MODELS)
        contestants: dict[str, tuple[Server, tuple[bytes, ...]]] = {
            "bare FastAPI, JSON": (bare, tuple(encode("/predict", body) for body in jsons)),
            "JSON": (server, tuple(encode(cnn, body) for body in jsons)),
            "JSON, mnist-mlp": (server, tuple(encode(mlp, body) for body in jsons)),
            "npy of uint8": (server, tuple(encode(cnn, body, media_type=NPY) for body in arrays)),
            "npy of float32, npy out": (
                server,
                tuple(encode(cnn, body, media_type=NPY, accept=NPY) for body in floats),
            ),
        }
        turns: dict[tuple[str, int], list[Turn]] = {}
        for _ in range(arguments.repeat):
            for clients in CLIENTS:
                for name, (one, requests) in contestants.items():
                    turn = _turn(generator, one, requests, clients, arguments.seconds)
                    turns.setdefault((name, clients), []).append(turn)
    head = ["clients", "bodies", "bytes", "requests/s", "ratio to bare", "server us", "clients us"]
    lines, ratios = [head], {}
    for (name, clients), found in turns.items():
        rates, server_us, own_us = np.array(found).T
        ratios[name, clients] = Spread.of(rates / np.array(turns["bare FastAPI, JSON", clients])[:, 0])
        size = str(len(contestants[name][1][0]))
        times = (str(Spread.of(1e6 * each)) for each in (server_us, own_us))
        lines.append([str(clients), name, size, str(Spread.of(rates)), str(ratios[name, clients]), *times])
    _print_table(lines)
    for model in MODELS:
        print(
            f"the arithmetic of {model} alone, us of one core a digit: {_arithmetic(model, images, arguments.repeat)}"
        )
    many = CLIENTS[-1]
    json_met = ratios["JSON", many].median >= JSON_SHARE
    npy_met = ratios["npy of uint8", many].median >= ratios["JSON", many].median
    print(f"JSON at {many} clients at least {JSON_SHARE} of bare FastAPI: {'MET' if json_met else 'NOT MET'}")
    print(f"npy at least as fast as JSON: {'MET' if npy_met else 'NOT MET'}")
    return json_met and npy_met


def _arithmetic(model: str, images: np.ndarray, repeat: int) -> Spread:
    """Microseconds of one core for a digit with mc=0, of many."""
    use_threads(1)
    engine = load(BUNDLES / model, Loading()).engine
    inputs = engine.as_inputs((images[:_BATCH].astype(np.float32),))
    seconds = []
    for _ in range(_WARMING + repeat):
        began = time.process_time()
        for _ in range(_CALLS):
            engine.steps.deterministic(inputs)
        seconds.append((time.process_time() - began) / _CALLS / _BATCH)
    return Spread.of(1e6 * np.array(seconds[_WARMING:]))


class Turn(NamedTuple):
    """What clients got of a server: requests a second, and the processor time of both for a request, in seconds."""

    rate: float
    server_seconds: float
    own_seconds: float


def _turn(generator: Generator, server: Server, requests: tuple[bytes, ...], clients: int, seconds: float) -> Turn:
    run = generator.run(Job(server.port, (Stream(requests, clients),), seconds, pids=server.pids))
    answers = run.streams[0]
    if failed := {*answers.status.tolist()} - {200}:
        raise SystemExit(f"answers have the status {sorted(failed)}; 200 is accepted")
    count = float(answers.answered(run.begin, run.end).sum())
    return Turn(count / (run.end - run.begin), run.server_seconds / count, run.own_seconds / count)


def _image(folder: Path, repeat: int) -> None:
    """Seconds for one image a request, by one client, in each format."""
    from PIL import Image

    models = folder / "models"
    spec = {"shape": [3, _SIDE, _SIDE], "minimum": 0, "maximum": 255, "image": {"mode": "rgb"}}
    write_bundle(models, "pooling", _POOLING, input=spec | {"preprocessing": {"scale": 1 / 255}})
    noise = np.random.default_rng(0).integers(0, 30, (_SIDE, _SIDE, 3))
    ramp = np.linspace(0, 200, _SIDE).astype(int)[:, None, None]
    picture = (ramp + noise).astype(np.uint8)  # about as large a file as a photograph
    planes = picture.transpose(2, 0, 1)
    files = {}
    for kind in ("png", "jpeg"):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, kind)
        files[kind] = file.getvalue()
    text = json.dumps({"inputs": {"b64": base64.b64encode(files["png"]).decode()}}).encode()
    bodies = {
        "JSON": ("application/json", orjson.dumps({"inputs": planes.tolist()})),
        "base64 of PNG in JSON": ("application/json", text),
        "PNG": ("image/png", files["png"]),
        "JPEG": ("image/jpeg", files["jpeg"]),
        "npy of uint8": (NPY, _npy(planes)),
        "npy of float32": (NPY, _npy(planes.astype(np.float32))),
    }
    with serving(models, folder) as server, httpx.Client(timeout=60) as client:
        server.wait_until_ready()

        def asking(media_type: str, body: bytes) -> httpx.Response:
            url = f"{server.url}/predict?mc=0"
            answer = client.post(url, content=body, headers={"content-type": media_type})
            answer.raise_for_status()
            return answer

        calls = {name: (lambda given=given: asking(*given)) for name, given in bodies.items()}
        times = interleave(calls, repeat)
    lines = [["bodies", "bytes", "ms a request", "times as fast as JSON"]]
    for name, found in times.items():
        faster = Spread.of(times["JSON"] / found)
        lines.append([name, str(len(bodies[name][1])), str(Spread.of(1e3 * found)), str(faster)])
    print(f"\none image of {_SIDE} x {_SIDE} pixels in three colours, by one client")
    _print_table(lines)


def _npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wire", description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data/mnist"), help="folder of the MNIST files")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    parser.add_argument("--repeat", type=int, default=5, help="rounds")
    return parser.parse_args()


if __name__ == "__main__":
    began = time.perf_counter()
    status = main()
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes")
    raise SystemExit(status)
