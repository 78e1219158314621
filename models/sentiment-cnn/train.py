"""Train sentiment-cnn: `python models/sentiment-cnn/train.py --data FOLDER`.

C. Hutto, E. Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", 2014: 10,605
sentences of film reviews, each rated by some 15 to 20 people from -4, extremely negative, to 4. The folder holds
`movies.tsv` and, as other domains, `tweets.tsv` and `editorials.tsv`: columns id, mean, std, ratings and text, as they
come with the `vaderSentiment` package.

The network learns the mean rating, and how far it is off: by Gaussian likelihood. Sentences of one length make a batch,
so that none is ever padded. Tested on every tenth sentence, which it never sees; its width, dropout and epochs were
chosen by an eighth of the others. Sentences of tweets and editorials show what it does where it was not trained.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from mnist import save_results, save_weights  # noqa: E402
from network import Network  # noqa: E402
from preprocess import LONGEST, tokens_of  # noqa: E402

from mcdropout import Engine  # noqa: E402

BATCH, TEST_EVERY, PASSES = 64, 10, 200
Sentence = tuple[list[int], float]


def read(path: Path) -> list[Sentence]:
    """The tokens and the mean rating of each sentence that has a word."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    found = [(tokens_of(row[4])[:LONGEST], float(row[1])) for row in rows]
    return [sentence for sentence in found if sentence[0]]


def batches_of(sentences: list[Sentence]) -> list[tuple[Tensor, Tensor]]:
    """All sentences in a random order, those of one length in a batch."""
    by_length: dict[int, list[Sentence]] = {}
    for index in torch.randperm(len(sentences)).tolist():
        by_length.setdefault(len(sentences[index][0]), []).append(sentences[index])
    parts = [some[start : start + BATCH] for some in by_length.values() for start in range(0, len(some), BATCH)]
    return [
        (torch.tensor([tokens for tokens, _ in parts[place]]), torch.tensor([rating for _, rating in parts[place]]))
        for place in torch.randperm(len(parts)).tolist()
    ]


def train(sentences: list[Sentence], epochs: int) -> tuple[Network, list[dict[str, float]]]:
    """Train by Gaussian likelihood; also the loss of each epoch."""
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 - epoch / epochs)
    curve = []
    for epoch in tqdm(range(1, epochs + 1), desc="sentiment-cnn", unit="epoch", mininterval=1.0):
        network.train()
        total = 0.0
        for tokens, ratings in batches_of(sentences):
            mean, log_variance = network(tokens)
            loss = F.gaussian_nll_loss(mean, ratings, log_variance.exp())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(ratings)
        schedule.step()
        curve.append({"epoch": epoch, "train_loss": round(total / len(sentences), 6)})
    return network.eval(), curve


def scores(engine: Engine, sentences: list[Sentence], passes: int) -> dict[str, float]:
    """Root mean squared error, nats a sentence, the share in the 95% interval, and the mean standard deviations."""
    found = engine.predict([np.array(tokens) for tokens, _ in sentences], passes=passes, seed=1)
    ratings = np.array([rating for _, rating in sentences])
    error, variance = ratings - found.mean, found.variance if passes else found.aleatoric_variance
    low, high = found.interval[:, 0], found.interval[:, 1]
    figures = {
        "rmse": np.sqrt((error**2).mean()),
        "nll": 0.5 * (np.log(2 * np.pi * variance) + error**2 / variance).mean(),
        "within_95": ((low <= ratings) & (ratings <= high)).mean(),
        "noise_std": np.sqrt(found.aleatoric_variance).mean(),
    }
    if passes:
        figures["model_std"] = np.sqrt(found.epistemic_variance).mean()
    return {name: round(float(value), 6) for name, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of movies.tsv, tweets.tsv and editorials.tsv")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE, help="folder for weights.safetensors and results.json")
    arguments = parser.parse_args()

    started = time.time()
    torch.manual_seed(arguments.seed)
    movies = read(arguments.data / "movies.tsv")
    test = movies[::TEST_EVERY]
    network, curve = train([one for index, one in enumerate(movies) if index % TEST_EVERY], arguments.epochs)
    save_weights(arguments.out, network)
    engine = Engine.from_module(
        network,
        torch.tensor([test[0][0], test[0][0][::-1]]),
        "regression",
        outputs={"mean": 0, "log_variance": 1},
        shapes=("tokens",),
        sizes={"tokens": (1, LONGEST)},
    )
    others = {name: read(arguments.data / f"{name}.tsv") for name in ("tweets", "editorials")}
    results = {
        "seed": arguments.seed,
        "epochs": arguments.epochs,
        "train_loss": curve[-1]["train_loss"],
        "test_sentences": len(test),
        "rating_std": round(float(np.std([rating for _, rating in test])), 6),
        "deterministic": scores(engine, test, 0),
        "monte_carlo": {"passes": PASSES, **scores(engine, test, PASSES)},
        "other_domains": {name: scores(engine, sentences, PASSES) for name, sentences in others.items()},
        "curve": curve,
    }
    save_results(arguments.out, results, started)


if __name__ == "__main__":
    main()
