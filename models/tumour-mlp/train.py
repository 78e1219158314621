"""Train tumour-mlp: `python models/tumour-mlp/train.py --data FILE` (without a file, it is downloaded).

W. Street, W. Wolberg, O. Mangasarian, "Nuclear feature extraction for breast tumor diagnosis", 1993: 569 tumours, 212
of them malignant, each a fine needle aspirate measured in 30 numbers (UCI repository; the file is scikit-learn's
`breast_cancer.csv`). To miss a malignant one is taken to cost nine times as much as a false alarm, so that the alarm is
given from a probability of 1 / (1 + 9) on: `threshold: 0.1`. That is an example of how to choose one, and no medical
advice.

Measured by cross-validation, five folds in each of four orders: without dropout, and as the mean of 200 passes with it.
The weights that are served are those of the first fold, which never saw its 114 test rows. Nothing was chosen by the
test rows.
"""

import argparse
import hashlib
import sys
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from mnist import save_results, save_weights  # noqa: E402
from network import Network  # noqa: E402
from scores import auroc  # noqa: E402

from mcdropout import Engine  # noqa: E402

ORIGIN = "https://raw.githubusercontent.com/scikit-learn/scikit-learn/1.7.0/sklearn/datasets/data/breast_cancer.csv"
MD5 = "36ef90874abc87f4b4a8554dcc17cf6f"
FOLDS, ORDERS, PASSES = 5, 4, 200
COST, THRESHOLD = 9, 0.1  # of a missed malignant one, in false alarms; and what follows from it


class Split(NamedTuple):
    """Inputs `[n, 30]`, standardized, and whether malignant `[n]`, to train with and to test with."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    mean: list[float]
    std: list[float]


def load_table(path: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Measurements `[569, 30]` and whether malignant `[569]`; fetched where no file is given."""
    if path is None:
        path = Path.home() / ".cache" / "mcdropout" / "breast_cancer.csv"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".part")
            urllib.request.urlretrieve(ORIGIN, partial)
            partial.rename(path)
    found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    if found != MD5:
        raise ValueError(f"{path}: its MD5 is {found}, not {MD5} of scikit-learn's breast_cancer.csv; fetch it again")
    table = np.loadtxt(path, delimiter=",", skiprows=1)
    return table[:, :-1], 1 - table[:, -1]  # there, 0 is malignant


def splits_of(inputs: np.ndarray, malignant: np.ndarray, seed: int) -> list[Split]:
    splits = []
    for order in range(ORDERS):
        folds = np.array_split(np.random.default_rng((seed, order)).permutation(len(inputs)), FOLDS)
        for fold, test_rows in enumerate(folds):
            rows = np.concatenate([other for number, other in enumerate(folds) if number != fold])
            # To six digits, so that model.yaml can say exactly what the network was trained with.
            mean, std = ([float(f"{v:.6g}") for v in f(inputs[rows], axis=0)] for f in (np.mean, np.std))
            parts = []
            for part in (rows, test_rows):
                parts += [((inputs[part] - mean) / std).astype(np.float32), malignant[part].astype(np.float32)]
            splits.append(Split(*map(torch.from_numpy, parts), mean, std))
    return splits


def train(split: Split, epochs: int) -> tuple[Network, list[dict[str, float]]]:
    """Train by cross-entropy; also the convergence curve, one entry in ten epochs.

    The test rows are only looked at to draw the curve: the network that counts is the one after the last epoch.
    """
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.1, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 - epoch / epochs)
    curve: list[dict[str, float]] = []
    for epoch in range(1, epochs + 1):
        network.train()
        total = 0.0
        for batch in torch.randperm(len(split.x)).split(32):
            loss = F.binary_cross_entropy_with_logits(network(split.x[batch])[:, 0], split.y[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        schedule.step()
        if epoch % 10 == 0 or epoch == epochs:
            network.eval()
            with torch.inference_mode():
                probability = network(split.test_x)[:, 0].sigmoid().double().numpy()
            tested = scores(probability, split.test_y.numpy())
            entry = {"epoch": epoch, "train_loss": round(total / len(split.x), 6)}
            curve.append(entry | {"test_nll": tested["nll"], "test_error": tested["error"]})
    return network.eval(), curve


def scores(probability: np.ndarray, malignant: np.ndarray) -> dict[str, float]:
    """Of probabilities and outcomes `[n]`: nats a row, and the shares of wrong answers at 0.5 and at the threshold."""
    yes, alarm = malignant > 0, probability >= THRESHOLD
    missed, false_alarms = yes & ~alarm, ~yes & alarm
    chosen = np.maximum(np.where(yes, probability, 1 - probability), 1e-12)
    figures = {
        "nll": -np.log(chosen).mean(),
        "error": ((probability >= 0.5) != yes).mean(),
        "missed": missed.sum() / yes.sum(),
        "false_alarms": false_alarms.sum() / (~yes).sum(),
        "cost": (COST * missed + false_alarms).mean(),
    }
    return {name: round(float(value), 6) for name, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="scikit-learn's breast_cancer.csv")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE, help="folder for weights.safetensors and results.json")
    arguments = parser.parse_args()

    started = time.time()
    splits = splits_of(*load_table(arguments.data), arguments.seed)
    pooled: dict[str, list[np.ndarray]] = {name: [] for name in ("y", "plain", "mean", "entropy", "information")}
    for number, split in enumerate(tqdm(splits, desc="tumour-mlp", unit="split", mininterval=1.0)):
        torch.manual_seed(arguments.seed + number)
        network, curve = train(split, arguments.epochs)
        if number == 0:
            save_weights(arguments.out, network)
            served = curve
        engine = Engine.from_module(network, split.test_x, task="binary")
        plain, passes = (engine.predict(split.test_x, count, seed=1) for count in (0, PASSES))
        row = (split.test_y, plain.mean, passes.mean, passes.entropy, passes.mutual_information)
        for values, found in zip(pooled.values(), row, strict=True):
            values.append(np.asarray(found, np.float64).reshape(-1))
    y, deterministic, mean, entropy, information = map(np.concatenate, pooled.values())
    wrong = (mean >= 0.5) != (y > 0)
    results = {
        "seed": arguments.seed,
        "epochs": arguments.epochs,
        **served[-1],
        "input_mean": splits[0].mean,
        "input_std": splits[0].std,
        "cross_validation": {
            "folds": FOLDS,
            "orders": ORDERS,
            "passes": PASSES,
            "threshold": THRESHOLD,
            "cost_of_a_miss": COST,
            "deterministic": scores(deterministic, y),
            "monte_carlo": scores(mean, y),
            "auroc_of_wrong_against_right": {
                "wrong": int(wrong.sum()),
                "entropy": auroc(entropy[~wrong], entropy[wrong]),
                "mutual_information": auroc(information[~wrong], information[wrong]),
            },
        },
        "curve": served,
    }
    save_results(arguments.out, results, started)


if __name__ == "__main__":
    main()
