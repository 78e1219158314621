"""Plain FastAPI with torch-uncertainty's `mc_dropout`; and two servers that only answer.

    python -m benchmarks.load.peers fastapi --port 8001 --model mnist-cnn --peers .venv/peers

It answers less than the service does: the mean and the variance of each class. Of the two ways of `mc_dropout`, the one
is taken that is faster for the rows of a request, or of a batch.
"""

import argparse
import asyncio
import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

from benchmarks.load.generator import HOST

PASSES = 50
_TRIALS = 5


def main() -> None:
    arguments = _arguments()
    {"fastapi": _fastapi, "bare-fastapi": _bare_fastapi, "bare": _bare}[arguments.server](arguments)


def _fastapi(arguments: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(arguments.threads)
    answer = monte_carlo(arguments.model, arguments.peers, 1)
    app = FastAPI()

    def respond(body: bytes) -> bytes:
        x = torch.tensor(orjson.loads(body)["inputs"], dtype=torch.float32) / 255
        mean, variance = answer(x[None])
        return orjson.dumps({"mean": mean[0].tolist(), "variance": variance[0].tolist()})

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        body = await request.body()
        content = await run_in_threadpool(respond, body) if arguments.pool else respond(body)
        return Response(content, media_type="application/json")

    _serve(app, arguments.port)


def _bare_fastapi(arguments: argparse.Namespace) -> None:
    """Reads the digit, and answers what it would weigh."""
    app = FastAPI()
    content = b"x" * 1200

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        orjson.loads(await request.body())
        return Response(content, media_type="application/json")

    _serve(app, arguments.port)


def _bare(arguments: argparse.Namespace) -> None:
    """Counts bytes, and answers."""
    import uvloop

    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1200\r\n\r\n" + b"x" * 1200

    class Counting(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.length = self.received = 0

        def data_received(self, data: bytes) -> None:
            if not self.length:
                head, _, _ = data.partition(b"\r\n\r\n")
                at = head.lower().find(b"content-length: ") + 16
                self.length = len(head) + 4 + (int(head[at:].partition(b"\r")[0]) if at >= 16 else 0)
            self.received += len(data)
            if self.received >= self.length:
                self.length = self.received = 0
                self.transport.write(answer)

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Counting, HOST, arguments.port)
        await server.serve_forever()

    uvloop.run(serve())


def _serve(app: FastAPI, port: int) -> None:
    uvicorn.run(app, host=HOST, port=port, loop="uvloop", http="httptools", log_level="warning", access_log=False)


def monte_carlo(model: str, folder: Path, rows: int) -> Callable[[Any], Any]:
    """A function from rows to mean and variance `[rows, classes]` of their class probabilities over the passes."""
    import torch

    from benchmarks.bundles import load_network
    from benchmarks.peers import _import

    methods, _ = _import("torch_uncertainty", ("methods.mc_dropout", "models.wrappers.mc_dropout"), folder)
    network, _ = load_network(model)
    ways: list[tuple[float, Callable[[Any], Any]]] = []
    for on_batch in (True, False):
        wrapped: Any = methods.mc_dropout(copy.deepcopy(network), num_estimators=PASSES, on_batch=on_batch).eval()

        @torch.inference_mode()
        def answer(x: Any, wrapped: Any = wrapped) -> Any:
            probabilities = wrapped(x).unflatten(0, (PASSES, len(x))).softmax(-1)
            return probabilities.mean(0), probabilities.var(0)

        ways.append((_seconds(answer, torch.rand(rows, 1, 28, 28)), answer))
        print(f"on_batch={on_batch}: {1e3 * ways[-1][0]:.1f} ms for {rows} rows", flush=True)
    return min(ways, key=lambda way: way[0])[1]


def _seconds(answer: Callable[[Any], Any], x: Any) -> float:
    """The least of some trials."""
    taken = []
    for _ in range(_TRIALS):
        started = time.perf_counter()
        answer(x)
        taken.append(time.perf_counter() - started)
    return min(taken)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load.peers", description=__doc__)
    parser.add_argument("server", choices=("fastapi", "bare-fastapi", "bare"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", default="mnist-cnn")
    parser.add_argument("--peers", type=Path, help="folder of wheels, or of unpacked wheels")
    parser.add_argument("--threads", type=int, default=2, help="PyTorch's, in each process that computes")
    parser.add_argument("--pool", action="store_true", help="FastAPI computes in its pool of threads")
    return parser.parse_args()


if __name__ == "__main__":
    main()
