"""Train digits-multilabel: `python models/digits-multilabel/train.py --data-dir FOLDER --omniglot FILE`.

Without the folder, MNIST is downloaded; without the file, Omniglot's `images_background_small1.zip` is. Every canvas of
training is a new one, of none to three of MNIST's training digits; those of the test are of its test digits. Omniglot's
characters are only looked at when all is done.
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

from mcdropout import Engine  # noqa: E402

CANVASES, BATCH = 5000, 50  # new ones in each epoch
TESTED, COMPARED, PASSES = 2000, 1000, 50


def present(drawn: canvases.Canvases) -> torch.Tensor:
    """Whether each digit is on each canvas, `[n, 10]`, 0 or 1."""
    return (drawn.counts > 0).float()


def scores(probability: np.ndarray, there: np.ndarray) -> dict[str, float]:
    """Of probabilities and outcomes `[n, 10]`: nats a canvas, and the shares of wrong labels and of wrong sets."""
    wrong = (probability >= 0.5) != (there > 0)
    chosen = np.maximum(np.where(there > 0, probability, 1 - probability), 1e-12)
    figures = {"nll": -np.log(chosen).sum(1).mean(), "label_error": wrong.mean(), "set_error": wrong.any(1).mean()}
    return {name: round(float(value), 6) for name, value in figures.items()}


def train(
    digits: canvases.Figures, test: canvases.Canvases, epochs: int, seed: int
) -> tuple[Network, list[dict[str, float]]]:
    """Train by cross-entropy of each label; also the convergence curve, one entry an epoch.

    The test canvases are only looked at to draw the curve: the network that counts is the one after the last epoch.
    """
    network = Network().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * (CANVASES // BATCH))
    curve = []
    progress = tqdm(total=epochs * CANVASES, desc="digits-multilabel", unit="canvas", mininterval=1.0)
    for epoch in range(1, epochs + 1):
        network.train()
        drawn, total = canvases.compose(digits, CANVASES, seed + epoch), 0.0
        for images, there in zip(drawn.images.split(BATCH), present(drawn).split(BATCH), strict=True):
            loss = F.binary_cross_entropy_with_logits(network(images), there)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += 10 * loss.item() * len(images)
            progress.update(len(images))
        network.eval()
        with torch.inference_mode():
            probability = torch.cat([network(images).sigmoid() for images in test.images.split(200)])
        tested = scores(probability.numpy(), present(test).numpy())
        entry = {"epoch": epoch, "train_loss": round(total / CANVASES, 6)}
        curve.append(entry | {f"test_{name}": value for name, value in tested.items()})
        progress.set_postfix(loss=f"{total / CANVASES:.4f}", error=f"{tested['set_error']:.2%}")
    progress.close()
    return network.to(memory_format=torch.contiguous_format), curve


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
    test = canvases.compose(test_digits, TESTED, seed=1_000_000)
    network, curve = train(digits, test, arguments.epochs, arguments.seed)
    mnist.save_weights(arguments.out, network)

    engine = Engine.from_module(network.eval(), test.images[:2], task="multilabel")
    plain, passes = (engine.predict(test.images.numpy(), count, seed=1) for count in (0, PASSES))
    there = present(test).numpy()
    wrong = ((passes.mean >= 0.5) != (there > 0)).any(1)
    characters = canvases.omniglot(arguments.omniglot)
    # Without empty canvases, which are the same of both.
    known = canvases.compose(test_digits, COMPARED, seed=2_000_000, fewest=1)
    unknown = canvases.compose(characters, COMPARED, seed=3_000_000, fewest=1)
    answers = [engine.predict(part.images.numpy(), PASSES, seed=1) for part in (known, unknown)]
    fields = ("joint_entropy", "joint_mutual_information")
    results = {
        "seed": arguments.seed,
        "epochs": arguments.epochs,
        **curve[-1],
        "test_canvases": TESTED,
        "passes": PASSES,
        "deterministic": scores(plain.mean, there),
        "monte_carlo": scores(passes.mean, there),
        "auroc_of_wrong_against_right": {
            "wrong": int(wrong.sum()),
            **{name: auroc(getattr(passes, name)[~wrong], getattr(passes, name)[wrong]) for name in fields},
        },
        "auroc_of_never_seen_against_seen": {
            "canvases": [COMPARED, COMPARED],
            **{name: auroc(*(getattr(answer, name) for answer in answers)) for name in fields},
        },
        "curve": curve,
    }
    mnist.save_results(arguments.out, results, started)


if __name__ == "__main__":
    main()
