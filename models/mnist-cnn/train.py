"""Train mnist-cnn: `python models/mnist-cnn/train.py --data-dir FOLDER` (without a folder, MNIST is downloaded)."""

import sys
import time
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

import mnist  # noqa: E402
from network import Network  # noqa: E402


def main() -> None:
    arguments = mnist.parse_arguments(__doc__, HERE, epochs=18)
    started = time.time()
    torch.manual_seed(arguments.seed)
    data = mnist.load_data(arguments.data_dir)
    network = Network()
    curve = mnist.fit(
        network,
        data,
        optimizer=torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=0.02),
        schedule=lambda done: min(done / 0.15, (1 - done) / 0.85),
        epochs=arguments.epochs,
        batch_size=200,
        title="mnist-cnn",
        augment=mnist.random_affine,
    )
    results = {"seed": arguments.seed, "epochs": arguments.epochs, **curve[-1], "curve": curve}
    mnist.save_weights(arguments.out, network)
    mnist.save_results(arguments.out, results, started)


if __name__ == "__main__":
    main()
