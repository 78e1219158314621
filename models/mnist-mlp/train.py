"""Train mnist-mlp: `python models/mnist-mlp/train.py --data-dir FOLDER` (without a folder, MNIST is downloaded).

The network is that of Srivastava et al. 2014, and so is most of the recipe: dropout 0.2 on the input and 0.5 on hidden
units, a large learning rate with high momentum, and a bound on the norm of every hidden unit's incoming weights. Not
theirs: training digits are shifted by up to a pixel, in place of over a million updates. (Without shifts, 100 epochs of
this recipe reach 1.27%, and 1.23% without dropout.) The same network is then trained without dropout, by the same
recipe, for `results.json` to compare: shifts leave it little to overfit, and it does better than the one with dropout.
"""

import sys
import time
from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

import mnist  # noqa: E402
from network import Network  # noqa: E402

MAX_NORM = 2.0


@torch.no_grad()
def bound_incoming_weights(network: nn.Module) -> None:
    """Scale back every hidden unit whose incoming weights have a norm above `MAX_NORM`."""
    *hidden, _ = (layer for layer in network.modules() if isinstance(layer, nn.Linear))
    for layer in hidden:
        torch.renorm(layer.weight, p=2, dim=0, maxnorm=MAX_NORM, out=layer.weight)


def train(network: nn.Module, data: mnist.Data, epochs: int, title: str) -> list[dict[str, float]]:
    return mnist.fit(
        network,
        data,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.95, nesterov=True, fused=True),
        schedule=lambda done: min(1.0, done / 0.02 + 0.1) * (1 - done),
        epochs=epochs,
        batch_size=100,
        title=title,
        augment=mnist.shift_by_a_pixel,
        after_step=lambda: bound_incoming_weights(network),
    )


def main() -> None:
    arguments = mnist.parse_arguments(__doc__, HERE, epochs=60)
    started = time.time()
    data = mnist.load_data(arguments.data_dir)
    torch.manual_seed(arguments.seed)
    network = Network()
    with_dropout = train(network, data, arguments.epochs, "mnist-mlp")
    mnist.save_weights(arguments.out, network)
    torch.manual_seed(arguments.seed)
    plain = Network(input_dropout=0.0, hidden_dropout=0.0)
    without_dropout = train(plain, data, arguments.epochs, "mnist-mlp, no dropout")
    results = {
        "seed": arguments.seed,
        "epochs": arguments.epochs,
        **with_dropout[-1],
        "test_error_without_dropout": without_dropout[-1]["test_error"],
        "test_nll_without_dropout": without_dropout[-1]["test_nll"],
        "curve": with_dropout,
        "curve_without_dropout": without_dropout,
    }
    mnist.save_results(arguments.out, results, started)


if __name__ == "__main__":
    main()
