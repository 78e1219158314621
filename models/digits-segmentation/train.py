"""Train digits-segmentation: `python models/digits-segmentation/train.py --data-dir FOLDER --omniglot FILE`.

Without the folder, MNIST is downloaded; without the file, Omniglot's `images_background_small1.zip` is. Every canvas of
training is a new one, of MNIST's training digits; those of the test are of its test digits. Omniglot's characters are
only looked at when all is done: results.json says how well uncertainty tells canvases of them from canvases of digits.
"""

import sys
import time
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

import canvases  # noqa: E402
import mnist  # noqa: E402
from network import Network  # noqa: E402
from scores import auroc  # noqa: E402

from mcdropout import Engine, Prediction  # noqa: E402

FIGURES = {"fewest": 1, "most": 3}
CANVASES, BATCH = 5000, 50  # new ones in each epoch
TESTED, COMPARED, PASSES = 1000, 200, 50


def scores(probabilities: np.ndarray, maps: np.ndarray) -> dict[str, float]:
    """Shares of pixels, of all and of those with ink, that get their class; mean intersection over union; nats a pixel.

    Of probabilities `[n, 11, height, width]` and classes `[n, height, width]`.
    """
    found = probabilities.argmax(1)
    hits = found == maps
    unions = [((found == c) & (maps == c)).sum() / ((found == c) | (maps == c)).sum() for c in range(11)]
    chosen = np.take_along_axis(probabilities, maps[:, None], 1)
    figures = {
        "pixel_accuracy": hits.mean(),
        "ink_accuracy": hits[maps > 0].mean(),
        "mean_iou": np.mean(unions),
        "nll": -np.log(np.maximum(chosen, 1e-12)).mean(),
    }
    return {name: round(float(value), 6) for name, value in figures.items()}


@torch.inference_mode()
def deterministic(network: Network, test: canvases.Canvases) -> dict[str, float]:
    network.eval()
    probabilities = torch.cat([network(images).softmax(1) for images in test.images.split(100)])
    return scores(probabilities.numpy(), test.maps.numpy())


def train(
    digits: canvases.Figures, test: canvases.Canvases, epochs: int, seed: int
) -> tuple[Network, list[dict[str, float]]]:
    """Train by cross-entropy of each pixel; also the convergence curve, one entry an epoch.

    The test canvases are only looked at to draw the curve: the network that counts is the one after the last epoch.
    """
    network = Network().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=6e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=epochs * (CANVASES // BATCH))
    curve = []
    progress = tqdm(total=epochs * CANVASES, desc="digits-segmentation", unit="canvas", mininterval=1.0)
    for epoch in range(1, epochs + 1):
        network.train()
        drawn, total = canvases.compose(digits, CANVASES, seed + epoch, **FIGURES), 0.0
        for images, maps in zip(drawn.images.split(BATCH), drawn.maps.split(BATCH), strict=True):
            loss = F.cross_entropy(network(images), maps)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(images)
            progress.update(len(images))
        tested = {f"test_{name}": value for name, value in deterministic(network, test).items()}
        curve.append({"epoch": epoch, "train_loss": round(total / CANVASES, 6), **tested})
        progress.set_postfix(loss=f"{total / CANVASES:.4f}", iou=f"{curve[-1]['test_mean_iou']:.3f}")
    progress.close()
    return network.to(memory_format=torch.contiguous_format), curve


def never_seen(answers: list[Prediction], ink: list[np.ndarray]) -> dict[str, dict[str, object]]:
    """How well uncertainty tells unknown figures from known ones, as areas under the curve of one number a canvas.

    Of the answers to known and to unknown ones, and where there is ink `[n, height, width]`. The number is what
    `reduce=p95`, `p99` and `mean` make of the map, or its mean over the ink.
    """
    areas: dict[str, dict[str, object]] = {}
    for field in ("mutual_information", "entropy"):
        maps = [np.asarray(getattr(answer, field)) for answer in answers]
        areas[field] = {
            "p95": auroc(*(np.percentile(values, 95, axis=(1, 2)) for values in maps)),
            "p99": auroc(*(np.percentile(values, 99, axis=(1, 2)) for values in maps)),
            "mean": auroc(*(values.mean((1, 2)) for values in maps)),
            "ink": auroc(*((values * on).sum((1, 2)) / on.sum((1, 2)) for values, on in zip(maps, ink, strict=True))),
            "median_over_ink": [round(float(np.median(values[on])), 6) for values, on in zip(maps, ink, strict=True)],
        }
    return areas


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, help="folder of the four MNIST IDX files, gzipped")
    parser.add_argument("--omniglot", type=Path, help="Omniglot's images_background_small1.zip")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE, help="folder for weights.safetensors and results.json")
    arguments = parser.parse_args()

    started = time.time()
    torch.manual_seed(arguments.seed)
    digits, test_digits = canvases.digits(arguments.data_dir)
    test = canvases.compose(test_digits, TESTED, seed=1_000_000, **FIGURES)
    network, curve = train(digits, test, arguments.epochs, arguments.seed)
    mnist.save_weights(arguments.out, network)

    known = canvases.Canvases(*(part[:COMPARED] for part in test))
    unknown = canvases.compose(canvases.omniglot(arguments.omniglot), COMPARED, seed=2_000_000, **FIGURES)
    engine = Engine.from_module(network.eval(), known.images[:2])
    answers = [engine.predict(part.images.numpy(), PASSES, seed=1) for part in (known, unknown)]
    ink = [part.images.numpy()[:, 0] * 255 >= canvases.INK for part in (known, unknown)]
    results = {
        "seed": arguments.seed,
        "epochs": arguments.epochs,
        **curve[-1],
        "test_canvases": TESTED,
        "compared": {
            "canvases": COMPARED,
            "passes": PASSES,
            "deterministic": deterministic(network, known),
            "monte_carlo": scores(answers[0].mean, known.maps.numpy()),
            "auroc_of_never_seen_against_seen": never_seen(answers, ink),
        },
        "curve": curve,
    }
    mnist.save_results(arguments.out, results, started)


if __name__ == "__main__":
    main()
