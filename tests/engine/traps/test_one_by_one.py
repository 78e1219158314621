"""Traps of networks that drop for each row by itself: loops over rows, experts that are handed rows, batches of one."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcdropout.engine import Engine, UnsupportedModelError, VerificationError
from tests.engine.networks import Custom, mlp
from tests.engine.traps.common import looped

X = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
PASSES = 600


def parts():
    torch.manual_seed(0)
    return {"first": nn.Linear(4, 8), "drop": nn.Dropout(0.4), "last": nn.Linear(8, 3)}


def stacked(self, x):
    return torch.stack([self.last(self.drop(F.relu(self.first(row)))) for row in x])


def joined(self, x):
    return torch.cat([self.last(F.dropout(self.first(x[i : i + 1]), 0.4, self.training)) for i in range(len(x))])


def filled(self, x):
    out = x.new_zeros(len(x), 3)
    for i in range(x.shape[0]):
        hidden = torch.tanh(self.first(x[i]))
        for _ in range(2):
            hidden = self.drop(hidden)
        out[i] = self.last(hidden)
    return out


def self_normalizing(self, x):
    return torch.stack([self.last(self.alpha(F.selu(self.first(row)))) for row in x])


def drawing_itself(self, x):
    rows = []
    for row in x:
        hidden = F.relu(self.first(row))
        if self.training:
            hidden = hidden * (torch.rand_like(hidden) > 0.4) / 0.6
        rows.append(self.last(hidden))
    return torch.stack(rows)


def leaving_out_layers(self, x):
    rows = []
    for row in x:
        hidden = self.drop(self.first(row))
        if not self.training or torch.rand(()).item() > 0.3:
            hidden = hidden + self.block(hidden)
        rows.append(self.last(hidden))
    return torch.stack(rows)


def of_many_lengths(self, x):
    rows = []
    for row in x:
        steps = 1 + int(row[0] > 0) + int(row[1] > 0)
        hidden = self.drop(F.relu(self.first(row)).repeat(steps, 1))
        rows.append(self.last(hidden.sum(0)))
    return torch.stack(rows)


def routed(self, x):
    chosen = self.router(x).argmax(-1)
    out = x.new_zeros(len(x), 8)
    for index, expert in enumerate(self.experts):
        rows = (chosen == index).nonzero().flatten()
        if len(rows):
            out = out.index_copy(0, rows, self.drop(F.relu(expert(x[rows]))))
    return self.last(out)


def a_batch_of_one(self, x):
    return self.last(self.drop(F.relu(self.first(x.view(4))))).view(1, 3)


def routing():
    torch.manual_seed(1)
    return {"router": nn.Linear(4, 3), "experts": nn.ModuleList(nn.Linear(4, 8) for _ in range(3))}


NETWORKS = {
    "a list of rows, stacked": lambda: Custom(stacked, **parts()),
    "slices of one row, joined": lambda: Custom(joined, **parts()),
    "an output that is filled row by row": lambda: Custom(filled, **parts()),
    "self-normalizing dropout": lambda: Custom(self_normalizing, alpha=nn.AlphaDropout(0.3), **parts()),
    "numbers that it draws itself": lambda: Custom(drawing_itself, **parts()),
    "layers left out of a row": lambda: Custom(leaving_out_layers, block=nn.Linear(8, 8), **parts()),
    "more steps in some rows": lambda: Custom(of_many_lengths, **parts()),
    "experts that are handed rows": lambda: Custom(routed, **routing(), **parts()),
    "a batch of one": lambda: Custom(a_batch_of_one, **parts()),
}


@pytest.mark.wide
@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_answered_as_a_plain_loop_answers_it_and_a_row_alone_as_beside_others(name):
    module = NETWORKS[name]().eval()
    engine = Engine.from_module(module, X[:1] if name == "a batch of one" else X, task="regression", interval=None)
    with torch.no_grad():
        deterministic = torch.cat([module(X[i : i + 1]) for i in range(len(X))]).numpy()
    np.testing.assert_allclose(engine.predict(X, passes=0).mean, deterministic, atol=1e-5)
    found, wanted = engine.samples(X, PASSES, seed=3), looped(module, X, PASSES)
    error = np.sqrt((found.var(0) + wanted.var(0)) / PASSES) + 1e-6
    assert (np.abs(found.mean(0) - wanted.mean(0)) / error).max() < 5
    np.testing.assert_allclose(found.std(0), wanted.std(0), rtol=0.15, atol=1e-3)
    for row in range(len(X)):
        alone = engine.run((X[row : row + 1].numpy(),), [3], [row], 6, samples=True).samples
        np.testing.assert_allclose(alone[0], found[:6, row], atol=1e-6)


def test_its_sites_are_calls_of_one_row():
    engine = Engine.from_module(NETWORKS["a list of rows, stacked"](), X)
    (site,) = engine.sites
    assert (site.name, site.scope, site.shape, site.row_axis) == ("drop", "row", (8,), None)
    assert engine.program.runtime == "eager"
    assert "it drops for each row by itself, so that each is run as a batch of its own" in engine.program.reason


def test_a_weight_that_is_dropped_once_for_all_of_its_rows_stays_one_site_for_all():
    def forward(self, x):
        weight = self.drop_weight(self.first.weight)
        return torch.stack([self.last(self.drop(F.linear(row, weight))) for row in x])

    engine = Engine.from_module(Custom(forward, drop_weight=nn.Dropout(0.2), **parts()), X)
    assert {site.name: (site.scope, site.shape) for site in engine.sites} == {
        "drop_weight": ("pass", (8, 4)),
        "drop": ("row", (8,)),
    }


@pytest.mark.parametrize(("most", "why"), [(1, "no dropout to switch on"), (2, "other dropout calls with 3 rows")])
def test_a_network_that_counts_its_rows_is_refused(most, why):
    def forward(self, x):
        hidden = self.first(x)
        return self.last(self.drop(hidden) if len(x) <= most else hidden)

    with pytest.raises(UnsupportedModelError, match=why):
        Engine.from_module(Custom(forward, **parts()), X)


def test_a_network_that_loops_over_rows_and_looks_at_all_of_them_is_refused():
    def forward(self, x):
        x = x - x.mean(0)
        return stacked(self, x)

    with pytest.raises(VerificationError, match="a row's answer does not depend on the rows beside it"):
        Engine.from_module(Custom(forward, **parts()), X)


def test_a_network_that_takes_three_rows_alone_is_refused():
    with pytest.raises(UnsupportedModelError, match="the network runs on 3 rows and not on 2"):
        Engine.from_module(Custom(lambda self, x: self.net(x).view(3, 3), net=mlp()), X[:3])


ONE = torch.rand(1, 4, generator=torch.Generator().manual_seed(1))
PROGRAMS = {
    "exported": lambda module: torch.export.export(module.eval(), (ONE,)),
    "exported in train mode": lambda module: torch.export.export(module.train(), (ONE,)),
    "an exported module": lambda module: torch.export.export(module.eval(), (ONE,)).module(),
    "unflattened": lambda module: torch.export.unflatten(torch.export.export(module.eval(), (ONE,))),
    "decomposed": lambda module: torch.export.export(module.train(), (ONE,)).run_decompositions({}),
    "traced": lambda module: torch.jit.trace(module.eval(), ONE),
}


@pytest.mark.wide
@pytest.mark.parametrize("form", PROGRAMS)
def test_a_program_that_was_made_of_one_row_answers_many_as_the_network_does(form):
    program = PROGRAMS[form](Custom(of_any_rows if form != "traced" else a_batch_of_one, **parts()))
    found = Engine.from_module(program, ONE)
    wanted = Engine.from_module(Custom(of_any_rows, **parts()), X, runtime="eager")
    np.testing.assert_allclose(found.predict(X, passes=0).mean, wanted.predict(X, passes=0).mean, atol=1e-6)
    np.testing.assert_allclose(found.samples(X, 9, seed=2), wanted.samples(X, 9, seed=2), atol=1e-6)
    if form != "unflattened":  # which has forgotten of how many rows it was made
        assert all(site.row_axis is None for site in found.sites)


def of_any_rows(self, x):
    return self.last(self.drop(F.relu(self.first(x))))


@pytest.mark.long
def test_texts_of_several_lengths_are_read_row_by_row():
    def forward(self, tokens):
        return torch.stack([self.last(self.drop(self.table(row)).mean(0)) for row in tokens])

    torch.manual_seed(0)
    module = Custom(forward, table=nn.Embedding(20, 8), drop=nn.Dropout(0.4), last=nn.Linear(8, 3))
    tokens = torch.arange(15).reshape(3, 5)
    engine = Engine.from_module(module, tokens, "regression", shapes=("tokens",), sizes={"tokens": (1, 9)})
    assert engine.site_shapes == [["tokens", 8]]
    long, short = np.arange(9), np.arange(3)
    together = engine.predict([long, short, long], passes=20, seed=4)
    np.testing.assert_allclose(engine.predict([long], passes=20, seed=4).mean[0], together.mean[0], atol=1e-6)
    found = engine.samples([short], 2000, seed=5)[:, 0]
    module.train()
    with torch.no_grad():
        wanted = torch.cat([module(torch.from_numpy(short)[None]) for _ in range(2000)]).numpy()
    error = np.sqrt((found.var(0) + wanted.var(0)) / 2000)
    assert (np.abs(found.mean(0) - wanted.mean(0)) / error).max() < 5
