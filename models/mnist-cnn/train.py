"""Train mnist-cnn: `python models/mnist-cnn/train.py --data-dir FOLDER` (without a folder, MNIST is downloaded)."""

import argparse
import math
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

import mnist  # noqa: E402
from network import Network  # noqa: E402


def random_affine(images: Tensor) -> Tensor:
    """Each image turned by up to 12 degrees, scaled by 0.88 to 1.12, sheared by 0.1, and shifted by up to 2 pixels."""
    count = len(images)

    def uniform(limit: float) -> Tensor:
        return (torch.rand(count) * 2 - 1) * limit

    angle, scale, shear = uniform(math.radians(12)), 1 + uniform(0.12), uniform(0.1)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    shift = 2 * 2 / images.shape[-1]
    matrix = torch.stack(
        [
            torch.stack([cos, -sin + shear, uniform(shift)], 1),
            torch.stack([sin, cos, uniform(shift)], 1),
        ],
        1,
    )
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, help="folder of the four MNIST IDX files, gzipped")
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE, help="folder for weights.safetensors and results.json")
    arguments = parser.parse_args()

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
        augment=random_affine,
    )
    results = {"seed": arguments.seed, "epochs": arguments.epochs, **curve[-1], "curve": curve}
    mnist.save_weights(arguments.out, network)
    mnist.save_results(arguments.out, results, started)


if __name__ == "__main__":
    main()
