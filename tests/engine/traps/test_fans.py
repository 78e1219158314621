"""Traps of passes in one batch of a network that makes calls for each row: whose each is, and when that changes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcdropout.engine import Engine
from tests.engine.networks import Custom
from tests.engine.traps.common import looped

X = torch.rand(4, 4, generator=torch.Generator().manual_seed(0)) - torch.tensor([0.2, 0.4, 0.1, 0.1])
PASSES = 600
HELD = []  # of how many rows each batch was, beside the networks, whose own state is not to change


def parts():
    torch.manual_seed(0)
    return {"first": nn.Linear(4, 8), "drop": nn.Dropout(0.4), "last": nn.Linear(8, 3)}


def cut(row):
    """What follows from how much of a row is positive, which nothing can map over rows."""
    return row * float((row > 0).sum())


def batched(forward):
    def counting(self, x):
        HELD.append(len(x))
        return forward(self, x)

    return counting


def one_behind_another(self, x):
    """Two calls of one module and one shape, both for a row before any for the next."""
    rows = []
    for row in x:
        hidden = F.dropout(torch.tanh(self.first(cut(row))), 0.4, self.training)
        rows.append(self.last(F.dropout(hidden.cumsum(0), 0.4, self.training)))
    return torch.stack(rows)


def layer_by_layer(self, x):
    """The same two, the first for all rows before the second for any."""
    hidden = [F.dropout(torch.tanh(self.first(cut(row))), 0.4, self.training) for row in x]
    return torch.stack([self.last(F.dropout(row.cumsum(0), 0.4, self.training)) for row in hidden])


def together_too(self, x):
    """A call for all rows before calls for each, and one behind them whose rows are in another dimension."""
    hidden = F.dropout(self.first(x), 0.2, self.training)
    hidden = torch.stack([F.dropout(cut(row), 0.4, self.training) for row in hidden], 1)
    return self.last(F.dropout(hidden[None], 0.3, self.training)[0].T)


def of_two_parts(self, x):
    """Self-normalizing dropout has factors and summands, for each row and for all."""
    hidden = torch.stack([self.alpha(cut(row)) for row in self.first(x)])
    return self.last(self.beta(hidden.repeat(1, 2).unflatten(1, (2, 8))).mean(1))


def numbers(self, x):
    """A permutation and a number of each row."""
    rows = []
    for row in self.first(x):
        hidden = cut(row)
        if self.training:
            hidden = hidden[torch.randperm(8)] + torch.randn(()).item()
        rows.append(hidden)
    return self.last(self.drop(torch.stack(rows)))


NETWORKS = {
    "calls of a row one behind another": lambda: Custom(batched(one_behind_another), **parts()),
    "calls layer by layer": lambda: Custom(batched(layer_by_layer), **parts()),
    "calls for all rows too": lambda: Custom(batched(together_too), **parts()),
    "factors and summands": lambda: Custom(
        batched(of_two_parts), alpha=nn.AlphaDropout(0.3), beta=nn.FeatureAlphaDropout(0.3), **parts()
    ),
    "numbers of each row": lambda: Custom(batched(numbers), **parts()),
}


@pytest.mark.wide
@pytest.mark.parametrize("name", NETWORKS)
def test_passes_of_a_row_are_one_batch_and_answer_as_a_plain_loop_does(name):
    module = NETWORKS[name]().eval()
    engine = Engine.from_module(module, X, task="regression", interval=None)
    HELD.clear()
    found = engine.samples(X, PASSES, seed=3)
    assert len(HELD) <= len(X) * PASSES / 8
    wanted = looped(module, X, PASSES)
    error = np.sqrt((found.var(0) + wanted.var(0)) / PASSES) + 1e-6
    assert (np.abs(found.mean(0) - wanted.mean(0)) / error).max() < 5
    np.testing.assert_allclose(found.std(0), wanted.std(0), rtol=0.2, atol=1e-3)
    for row in range(len(X)):
        for passes in (1, 5):
            alone = engine.run((X[row : row + 1].numpy(),), [3], [row], passes, samples=True).samples
            np.testing.assert_allclose(alone[0], found[:passes, row], atol=1e-5)


@pytest.mark.long
def test_a_row_that_makes_other_calls_than_the_examples_is_run_by_itself():
    def forward(self, x):
        rows = []
        for row in x:
            hidden = self.drop(self.first(cut(row)))
            hidden = hidden[:4].repeat(2) if (row > 5).any() else self.drop(hidden)
            rows.append(self.last(hidden))
        return torch.stack(rows)

    module = Custom(batched(forward), **parts()).eval()
    given = X.clone()
    given[2] = 6.0
    engine = Engine.from_module(module, X, task="regression", interval=None)
    HELD.clear()
    found = engine.samples(given, PASSES, seed=3)
    assert {1, 64} <= set(HELD)
    wanted = looped(module, given, PASSES)
    np.testing.assert_allclose(found.mean(0), wanted.mean(0), atol=5 * wanted.std(0).max() / PASSES**0.5)
    np.testing.assert_allclose(found.std(0), wanted.std(0), rtol=0.2, atol=1e-3)


@pytest.mark.long
def test_calls_that_a_pass_may_leave_out_are_not_made_in_one_batch():
    """Whose a call is cannot be told where some passes make fewer."""

    def forward(self, x):
        rows = []
        for row in x:
            hidden = self.drop(self.first(cut(row)))
            if not self.training or torch.rand(()).item() > 0.5:
                hidden = self.other(hidden)
            rows.append(self.last(hidden))
        return torch.stack(rows)

    module = Custom(batched(forward), other=nn.Dropout(0.4), **parts()).eval()
    engine = Engine.from_module(module, X, task="regression", interval=None)
    HELD.clear()
    found = engine.samples(X, PASSES, seed=3)
    assert set(HELD) == {1}
    wanted = looped(module, X, PASSES)
    np.testing.assert_allclose(found.mean(0), wanted.mean(0), atol=6 * wanted.std(0).max() / PASSES**0.5)
    np.testing.assert_allclose(found.std(0), wanted.std(0), rtol=0.2, atol=1e-3)
