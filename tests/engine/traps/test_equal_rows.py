"""Traps of equal rows: the passes of one row stand side by side in a batch, and must not influence one another."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcdropout.engine import Engine
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.pytorch.module import understand
from tests.engine.networks import Custom
from tests.engine.traps.common import looped

X = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
PASSES = 600


def parts():
    torch.manual_seed(0)
    return {"first": nn.Linear(12, 16), "drop": nn.Dropout(0.4), "last": nn.Linear(16, 3)}


def hidden(self, x):
    return self.drop(F.relu(self.first(x)))


def mean_of_equal_rows(self, x):
    same = (x[:, None] == x[None]).all(-1).float()
    return self.last(same @ hidden(self, x) / same.sum(1, keepdim=True))


def first_of_equal_rows(self, x):
    groups, number = torch.unique(x, dim=0, return_inverse=True)
    places = torch.arange(len(x)).flip(0)
    first = number.new_zeros(len(groups)).scatter(0, number.flip(0), places)
    return self.last(hidden(self, x)[first][number])


def remembered(self, x):
    found = {}
    for row, output in zip(x, self.last(hidden(self, x)), strict=True):
        found.setdefault(tuple(row.tolist()), output)
    return torch.stack([found[tuple(row.tolist())] for row in x])


def nearest(self, x):
    return self.last(hidden(self, x)[torch.cdist(x, x).argmin(1)])


def nearest_by_sorting(self, x):
    return self.last(hidden(self, x)[torch.cdist(x, x).argsort(1)[:, 0]])


def counted(self, x):
    """The mask is shared by all rows, so that equal ones are answered alike, but not as one alone."""
    same = (x[:, None] == x[None]).all(-1).float()
    weight = F.dropout(self.last.weight, 0.4, self.training)
    return F.linear(F.relu(self.first(x)) * same.sum(1, keepdim=True), weight)


def only_among_many(self, x):
    return mean_of_equal_rows(self, x) if len(x) > 20 else self.last(hidden(self, x))


NETWORKS = {
    function.__name__.replace("_", " "): function
    for function in (
        mean_of_equal_rows,
        first_of_equal_rows,
        remembered,
        nearest,
        nearest_by_sorting,
        counted,
        only_among_many,
    )
}


@pytest.mark.wide
@pytest.mark.parametrize("name", NETWORKS)
def test_mean_and_variance_are_those_of_a_plain_loop_and_a_row_alone_is_answered_as_beside_equal_ones(name):
    """Bound of 5 standard deviations of the mean: false alarms 6e-7 a value."""
    module = Custom(NETWORKS[name], **parts()).eval()
    engine = Engine.from_module(module, X[:3], task="regression", interval=None)
    with torch.no_grad():
        deterministic = torch.cat([module(X[i : i + 1]) for i in range(len(X))]).numpy()
    np.testing.assert_allclose(engine.predict(X, passes=0).mean, deterministic, atol=1e-5)
    found, wanted = engine.samples(X, PASSES, seed=3), looped(module, X, PASSES)
    error = np.sqrt((found.var(0) + wanted.var(0)) / PASSES) + 1e-6
    assert (np.abs(found.mean(0) - wanted.mean(0)) / error).max() < 5
    np.testing.assert_allclose(found.std(0), wanted.std(0), rtol=0.15, atol=1e-3)
    for row in range(len(X)):
        alone = engine.run((X[row : row + 1].numpy(),), [3], [row], 6, samples=True).samples
        np.testing.assert_allclose(alone[0], found[:6, row], atol=1e-5)
    twice = engine.samples(X[[0, 0, 1, 0]], 30, seed=3)
    np.testing.assert_allclose(twice[:, 0], found[:30, 0], atol=1e-5)


@pytest.mark.wide
@pytest.mark.parametrize("p", [0.4, 0.002])
@pytest.mark.parametrize("name", NETWORKS)
def test_each_pass_of_a_row_is_answered_under_its_own_mask_however_seldom_units_are_dropped(name, p):
    engine = Engine.from_module(Custom(NETWORKS[name], **{**parts(), "drop": nn.Dropout(p)}), X[:3], "regression")
    passes, source = 128, MaskSource(engine.sites)
    found = engine.samples(X[:1], passes, seed=3)
    wanted = [engine.outputs(X[:1], source.draw([3], [0], number, 1))[0] for number in range(passes)]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("p", [0.4, 0.002])
@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - {"only among many"}))  # what shows that is another check
def test_one_pass_shows_it_of_a_network_that_takes_long(name, p, monkeypatch):
    monkeypatch.setattr("mcdropout.engine.verify._MOST_SECONDS_BESIDE", -1.0)
    subject = understand(Custom(NETWORKS[name], **{**parts(), "drop": nn.Dropout(p)}).eval(), X[:3])
    assert subject.network.alone


def sorted_and_put_back(self, x):
    order = x.sum(1).argsort(stable=True)
    return self.last(hidden(self, x)[order])[order.argsort()]


def normalized(self, x):
    return self.last(hidden(self, self.norm(x)))


def on_a_weight(self, x):
    return F.linear(hidden(self, x), F.dropout(self.last.weight, 0.2, self.training))


RIGHT = {
    "an ordinary one": lambda self, x: self.last(hidden(self, x)),
    "rows that are sorted and put back": sorted_and_put_back,
    "batch normalization": normalized,
    "a weight that is dropped once for all rows": on_a_weight,
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_network_whose_equal_rows_do_not_mix_is_run_with_rows_together(name):
    module = Custom(RIGHT[name], norm=nn.BatchNorm1d(12), **parts()).eval()
    program = Engine.from_module(module, X[:3]).program
    assert program.strategy in ("split", "whole")
    assert "influence one another" not in (program.reason or "")
