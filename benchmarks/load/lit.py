"""LitServe with torch-uncertainty's `mc_dropout`.

python -m benchmarks.load.lit --port 8001 --model mnist-cnn --peers .venv/peers
"""

import argparse
from pathlib import Path
from typing import Any

import litserve
import torch

from benchmarks.load.generator import HOST
from benchmarks.load.peers import monte_carlo


class MonteCarlo(litserve.LitAPI):  # type: ignore[misc]
    """One row a request; LitServe makes batches of them where it is told to, and calls these methods."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        wait = arguments.wait if arguments.batch > 1 else 0.0
        super().__init__(max_batch_size=arguments.batch, batch_timeout=wait)
        self.arguments = arguments

    def setup(self, device: str) -> None:
        torch.set_num_threads(self.arguments.threads)
        self.answer = monte_carlo(self.arguments.model, self.arguments.peers, self.arguments.batch)

    def decode_request(self, request: dict[str, Any]) -> torch.Tensor:
        return torch.tensor(request["inputs"], dtype=torch.float32) / 255

    def predict(self, x: torch.Tensor) -> Any:
        return self.answer(x if self.arguments.batch > 1 else x[None])

    def unbatch(self, output: Any) -> list[Any]:
        return list(zip(*output, strict=True))

    def encode_response(self, output: Any) -> dict[str, Any]:
        mean, variance = (values.flatten().tolist() for values in output)
        return {"mean": mean, "variance": variance}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load.lit", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", default="mnist-cnn")
    parser.add_argument("--peers", type=Path, help="folder of wheels, or of unpacked wheels")
    parser.add_argument("--threads", type=int, default=2, help="PyTorch's, in each worker")
    parser.add_argument("--workers", type=int, default=1, help="processes that compute")
    parser.add_argument("--batch", type=int, default=1, help="max_batch_size")
    parser.add_argument("--wait", type=float, default=0.005, help="batch_timeout, in seconds")
    arguments = parser.parse_args()
    api = MonteCarlo(arguments)
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=arguments.workers, fast_queue=True, timeout=120
    )
    server.run(host=HOST, port=arguments.port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
