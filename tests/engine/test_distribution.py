"""Distribution: passes of the engine are spread like those that PyTorch draws itself.

For each network, mean and variance of each output over 4,000 passes of either are compared, and may differ by five
standard errors of the difference. Seeds are fixed, so that a result does not change from run to run; over the choice of
seeds, each of about 200 comparisons fails by chance with probability 6e-7, and any of them with 1e-4.
"""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcdropout.engine import Engine, Selection
from mcdropout.layers import (
    DropBlock2d,
    DropConnectLinear,
    GaussianDropout,
    StochasticDepth,
    VariationalDropout,
    VariationalLSTM,
)
from tests.engine.networks import Custom, drop_connect, drop_path

PASSES = 4000
ERRORS = 5.0
"""By how many standard errors of their difference two estimates may differ."""


def on_units(*layers):
    return lambda: nn.Sequential(nn.Linear(6, 8), *layers, nn.Linear(8, 3))


def on_maps(dimensions, *layers):
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    return lambda: nn.Sequential(
        convolution(1, 4, 3, padding=1), *layers, nn.Flatten(), nn.Linear(4 * 4**dimensions, 3)
    )


def on_steps(layer, width=6):
    """A layer of `[rows, steps, features]`, which may return states too."""

    def forward(self, x):
        steps = self.layer(x)
        return self.last((steps[0] if isinstance(steps, tuple) else steps).flatten(1))

    return lambda: Custom(forward, layer=layer(), last=nn.Linear(4 * width, 3))


def of_own_code(noise):
    return on_units(Custom(lambda self, x: x * noise(x) if self.training else x))


def attending(self, x):
    heads = x.unflatten(-1, (2, 3)).transpose(1, 2)
    mixed = F.scaled_dot_product_attention(heads, heads, heads, dropout_p=0.3 if self.training else 0.0)
    return mixed.transpose(1, 2).flatten(2)


def attending_with_queries_of_its_own(self, x):
    heads = x.unflatten(-1, (2, 3)).transpose(1, 2)
    mixed = F.scaled_dot_product_attention(self.queries, heads, heads, dropout_p=0.3 if self.training else 0.0)
    return mixed.transpose(1, 2).flatten(2)


def multi_head(need_weights):
    def forward(self, x):
        return self.attention(x, x, x, need_weights=need_weights)[0]

    return on_steps(lambda: Custom(forward, attention=nn.MultiheadAttention(6, 2, dropout=0.3, batch_first=True)))


UNITS, STEPS = (6,), (4, 6)
NETWORKS = {
    "element": (on_units(nn.ReLU(), nn.Dropout(0.3)), UNITS),
    "element with p of a half": (on_units(nn.ReLU(), nn.Dropout(0.5)), UNITS),
    "element with p of a quarter": (on_units(nn.ReLU(), nn.Dropout(0.25)), UNITS),
    "element that seldom drops": (on_units(nn.ReLU(), nn.Dropout(0.02)), UNITS),
    "element twice": (on_units(nn.Dropout(0.2), nn.ReLU(), nn.Dropout(0.3)), UNITS),
    "channel 1d": (on_maps(1, nn.Dropout1d(0.3)), (1, 4)),
    "channel 2d": (on_maps(2, nn.Dropout2d(0.3)), (1, 4, 4)),
    "channel 3d": (on_maps(3, nn.Dropout3d(0.3)), (1, 4, 4, 4)),
    "element of maps": (on_maps(2, nn.Dropout(0.3)), (1, 4, 4)),
    "alpha": (on_units(nn.SELU(), nn.AlphaDropout(0.2)), UNITS),
    "feature alpha": (on_maps(2, nn.SELU(), nn.FeatureAlphaDropout(0.2)), (1, 4, 4)),
    "attention": (on_steps(lambda: Custom(attending)), STEPS),
    "attention with queries of its own": (
        on_steps(lambda: Custom(attending_with_queries_of_its_own, queries=nn.Parameter(torch.randn(1, 2, 4, 3)))),
        STEPS,
    ),
    "multi-head attention with weights": (multi_head(True), STEPS),
    "multi-head attention without weights": (multi_head(False), STEPS),
    "transformer layer": (
        on_steps(lambda: nn.TransformerEncoderLayer(6, 2, 8, dropout=0.2, batch_first=True)),
        STEPS,
    ),
    "LSTM": (on_steps(lambda: nn.LSTM(6, 5, 3, dropout=0.3, batch_first=True), 5), STEPS),
    "GRU both ways": (on_steps(lambda: nn.GRU(6, 5, 2, dropout=0.3, batch_first=True, bidirectional=True), 10), STEPS),
    "DropConnect": (lambda: nn.Sequential(DropConnectLinear(6, 8, 0.3), nn.ReLU(), nn.Linear(8, 3)), UNITS),
    "DropConnect by hand": (drop_connect, (4,)),
    "DropBlock": (on_maps(2, DropBlock2d(0.3, 2)), (1, 4, 4)),
    "stochastic depth": (on_units(nn.Tanh(), StochasticDepth(0.3)), UNITS),
    "stochastic depth by hand": (on_units(nn.Tanh(), drop_path(0.3)), UNITS),
    "stochastic depth in stochastic depth": (on_units(drop_path(0.6), nn.Tanh(), drop_path(0.6)), UNITS),
    "variational": (on_steps(lambda: VariationalDropout(0.3)), STEPS),
    "variational LSTM": (on_steps(lambda: VariationalLSTM(6, 5, 2, 0.3), 5), STEPS),
    "Gaussian": (on_units(nn.ReLU(), GaussianDropout(0.3)), UNITS),
    "uniform": (of_own_code(torch.rand_like), UNITS),
    "uniform in a range": (of_own_code(lambda x: torch.empty_like(x).uniform_(-1.0, 2.0)), UNITS),
    "Bernoulli": (of_own_code(lambda x: torch.empty_like(x).bernoulli_(0.7)), UNITS),
    "Bernoulli of a tensor": (of_own_code(lambda x: torch.bernoulli(torch.sigmoid(x))), UNITS),
    "normal": (of_own_code(lambda x: torch.normal(torch.ones_like(x), 0.5)), UNITS),
    "normal of an odd count": (of_own_code(lambda x: 1 + torch.randn(x.shape[0], 1)), UNITS),
    "relaxed Bernoulli": (
        of_own_code(lambda x: torch.distributions.RelaxedBernoulli(0.2, torch.full_like(x, 0.6)).rsample()),
        UNITS,
    ),
}


def network_and_row(name):
    """The network, whose outputs are squashed so that a mean depends on more than means, and an input `[1, ...]`."""
    make, shape = NETWORKS[name]
    torch.manual_seed(sum(map(ord, name)))
    network = nn.Sequential(make(), nn.Tanh())
    return network, torch.randn(1, *shape)


def of_pytorch(network, x, shares_rows):
    """What PyTorch itself draws: `[passes, rows, outputs]`."""
    network = copy.deepcopy(network).train()
    with torch.no_grad():
        if shares_rows:
            repeated = x.repeat_interleave(PASSES, 0)
            return network(repeated).reshape(len(x), PASSES, -1).transpose(0, 1).double().numpy()
        return torch.stack([network(x) for _ in range(PASSES)]).double().numpy()


def variance_and_error(samples):
    """The variance over the first dimension, and the standard error of that estimate."""
    variance = samples.var(0, ddof=1)
    fourth = ((samples - samples.mean(0)) ** 4).mean(0)
    return variance, np.sqrt((fourth - variance**2) / len(samples))


def assert_no_further_apart(a, b, error_of_a, error_of_b):
    error = np.sqrt(error_of_a**2 + error_of_b**2)
    assert (np.abs(a - b) <= ERRORS * error + 1e-12).all(), (a - b) / error


@pytest.mark.wide
@pytest.mark.parametrize("name", NETWORKS)
def test_passes_have_the_mean_and_the_variance_of_pytorchs_own(name):
    network, x = network_and_row(name)
    engine = Engine.from_module(network, x, "regression", runtime="eager")
    ours = engine.samples(x, PASSES, seed=1)[:, 0]
    theirs = of_pytorch(network, x, engine.shares_rows)[:, 0]
    assert (ours.var(0) > 1e-6).all()
    (our_variance, our_error), (their_variance, their_error) = variance_and_error(ours), variance_and_error(theirs)
    assert_no_further_apart(our_variance, their_variance, our_error, their_error)
    assert_no_further_apart(
        ours.mean(0), theirs.mean(0), np.sqrt(our_variance / PASSES), np.sqrt(their_variance / PASSES)
    )


def correlation_of_two_rows(samples):
    """How far the first output of one row goes with that of another, `[passes, 2, outputs]`."""
    return np.corrcoef(samples[:, 0, 0], samples[:, 1, 0])[0, 1]


@pytest.mark.wide
@pytest.mark.parametrize(
    "name",
    ["element", "channel 2d", "attention", "attention with queries of its own", "LSTM", "DropConnect", "DropBlock"],
)
def test_equal_rows_of_one_request_go_together_as_far_as_in_pytorch(name):
    """By Fisher's transformation the correlations may differ by five standard errors too."""
    network, x = network_and_row(name)
    two = x.expand(2, *x.shape[1:])
    engine = Engine.from_module(network, x, "regression", runtime="eager")
    ours = correlation_of_two_rows(engine.samples(two, PASSES, seed=1))
    theirs = correlation_of_two_rows(of_pytorch(network, two, shares_rows=False))
    if engine.shares_rows:
        assert abs(np.arctanh(ours) - np.arctanh(theirs)) < ERRORS * np.sqrt(2 / (PASSES - 3))
        assert abs(ours) < ERRORS / np.sqrt(PASSES)
    else:
        assert ours == pytest.approx(1.0)
        assert theirs == pytest.approx(1.0)


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_a_program_draws_what_the_module_itself_draws(runtime):
    network, x = network_and_row("transformer layer")
    engine, plain = (Engine.from_module(network, x, "regression", runtime=name) for name in (runtime, "eager"))
    np.testing.assert_allclose(engine.samples(x, 50, 1), plain.samples(x, 50, 1), atol=1e-5)


def test_p_that_is_set_by_a_selection_is_the_p_that_units_are_dropped_with():
    network, x = network_and_row("element")
    engine = Engine.from_module(network, x, "regression", runtime="eager", selection=Selection(p={"*": 0.6}))
    other = copy.deepcopy(network)
    other[0][2].p = 0.6
    ours, theirs = engine.samples(x, PASSES, 1)[:, 0], of_pytorch(other, x, True)[:, 0]
    assert_no_further_apart(ours.mean(0), theirs.mean(0), ours.std(0) / PASSES**0.5, theirs.std(0) / PASSES**0.5)
    (our_variance, our_error), (their_variance, their_error) = variance_and_error(ours), variance_and_error(theirs)
    assert_no_further_apart(our_variance, their_variance, our_error, their_error)
