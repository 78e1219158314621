"""Numbers of other distributions than uniform, normal and Bernoulli, which a network's own code draws."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcdropout.engine import Engine, FailedRowsError, UnsupportedModelError
from tests.engine.networks import Custom
from tests.engine.traps.common import find, ran

WEIGHTS = torch.tensor([0.1, 0.0, 0.4, 0.2, 0.3])


def at_each(x, draw):
    return draw(torch.empty_like(x))


# What is drawn `[rows, 4]` for rows `[rows, 4]`, each with its site's kind.
DRAWN = {
    "exponential_": (lambda x: at_each(x, lambda y: y.exponential_()), "uniform"),
    "exponential_ of a rate": (lambda x: at_each(x, lambda y: y.exponential_(lambd=3.0)), "uniform"),
    "geometric_": (lambda x: at_each(x, lambda y: y.geometric_(0.3)), "uniform"),
    "cauchy_": (lambda x: at_each(x, lambda y: y.cauchy_(1.0, sigma=0.5)), "uniform"),
    "log_normal_": (lambda x: at_each(x, lambda y: y.log_normal_(0.5, 0.3)), "normal"),
    "random_": (lambda x: at_each(x, lambda y: y.random_(7)), "uniform"),
    "random_ from": (lambda x: at_each(x, lambda y: y.random_(2, 5)), "uniform"),
    "randint": (lambda x: torch.randint(5, x.shape).float(), "uniform"),
    "randint from": (lambda x: torch.randint(-3, 5, size=x.shape, dtype=torch.float32), "uniform"),
    "randint by name": (lambda x: torch.randint(low=2, high=5, size=tuple(x.shape)).float(), "uniform"),
    "randint of many": (lambda x: torch.randint(100_000, x.shape).float(), "uniform"),
    "randint_like of a tensor": (lambda x: torch.randint_like(x, torch.tensor(9)), "uniform"),
    "randint_like": (lambda x: torch.randint_like(x, 2, 9), "uniform"),
    "multinomial": (lambda x: torch.multinomial(WEIGHTS.expand(len(x), 5), 1).expand(-1, 4).float(), "uniform"),
    "multinomial again": (lambda x: torch.multinomial(WEIGHTS.expand(len(x), 5), 4, True).float(), "uniform"),
    "multinomial each once": (lambda x: WEIGHTS.expand(len(x), 5).multinomial(4).float(), "uniform"),
    "gumbel_softmax": (lambda x: F.gumbel_softmax(WEIGHTS[[0, 2, 3, 4]].log().expand_as(x), 0.7), "uniform"),
    "gumbel": (lambda x: torch.distributions.Gumbel(0.0, 1.0).sample(x.shape), "uniform"),
    "exponential": (lambda x: torch.distributions.Exponential(2.0).sample(x.shape), "uniform"),
    "categorical": (lambda x: torch.distributions.Categorical(WEIGHTS).sample(x.shape).float(), "uniform"),
}
PASSES = 4_000
# Two samples of one distribution differ further than this in one of 10,000 cases (Kolmogorov and Smirnov).
FAR = 2.23 * (2 / PASSES) ** 0.5


def noisy(draw):
    return Custom(lambda self, x: x * draw(x) if self.training else x).eval()


def distance(some, others):
    """The largest difference of two samples' shares below a number."""
    ends = np.concatenate([some, others])
    some, others = np.sort(some), np.sort(others)
    return np.abs(np.searchsorted(some, ends, "right") - np.searchsorted(others, ends, "right")).max() / len(some)


@pytest.mark.wide
@pytest.mark.parametrize("name", DRAWN)
def test_are_of_the_distribution_that_pytorch_draws_from(name):
    draw, kind = DRAWN[name]
    engine = Engine.from_module(noisy(draw), torch.rand(3, 4), "regression", interval=None, runtime="eager")
    assert [(site.kind, site.p, site.scope) for site in engine.sites] == [(kind, None, "row")]
    found = engine.samples(np.ones((1, 4), np.float32), PASSES, seed=3)[:, 0]
    torch.manual_seed(4)
    wanted = draw(torch.ones(PASSES, 4)).double().numpy()
    for column in range(4):
        assert distance(found[:, column], wanted[:, column]) < FAR
    assert distance(found.sum(1), wanted.sum(1)) < FAR  # of those that are drawn together, some depend on the others


def test_an_order_is_as_likely_as_another():
    module = Custom(lambda self, x: x * torch.randperm(4) if self.training else x).eval()
    engine = Engine.from_module(module, torch.rand(3, 4), "regression", interval=None)
    assert [site.scope for site in engine.sites] == ["pass"]
    orders, counts = np.unique(engine.samples(np.ones((1, 4)), PASSES, seed=1)[:, 0], axis=0, return_counts=True)
    assert len(orders) == 24
    assert ((counts - PASSES / 24) ** 2 / (PASSES / 24)).sum() < 52.6  # chi-squared of 23 degrees: one of 2,500


@pytest.mark.parametrize(
    ("draw", "least", "most"),
    [
        (lambda x: torch.empty_like(x).exponential_(), 2.0**-24, 24 * np.log(2.0)),
        (lambda x: torch.empty_like(x).geometric_(0.5), 1.0, 24.0),
        (lambda x: torch.empty_like(x).random_(256), 0.0, 255.0),
        (lambda x: torch.randint(3, x.shape), 0.0, 2.0),
        (lambda x: torch.multinomial(WEIGHTS.expand(len(x), 5), 4, True), 0.0, 4.0),
    ],
    ids=["exponential_", "geometric_", "random_", "randint", "multinomial"],
)
def test_are_in_their_range_for_the_least_and_the_largest_uniform_number(draw, least, most):
    network = find(noisy(draw), torch.rand(2, 4))
    for number, wanted in ((0.0, least), (1.0 - 2.0**-24, most)):
        (site,) = network.sites
        found = ran(network, torch.ones(3, 4), masks=[torch.full((3, *site.shape), number)])
        np.testing.assert_allclose(found, np.full((3, 4), wanted), rtol=1e-5)


def test_exponential_numbers_are_never_0_so_that_their_logarithms_are_finite():
    engine = Engine.from_module(noisy(lambda x: F.gumbel_softmax(x, hard=True)), torch.rand(3, 4), "regression")
    assert set(np.unique(engine.samples(np.ones((3, 4), np.float32), 50, 1))) == {0.0, 1.0}


class StochasticPooling(nn.Module):
    """Zeiler & Fergus 2013: a place of each window, by its share of the window's sum; in eval mode their mean."""

    def forward(self, x):
        windows = F.unfold(x[:, None], 2, stride=2).transpose(1, 2)
        shares = windows / windows.sum(-1, keepdim=True)
        if not self.training:
            return (shares * windows).sum(-1)
        picked = torch.multinomial(shares.flatten(0, 1), 1).view(*windows.shape[:2], 1)
        return windows.gather(2, picked)[..., 0]


def test_stochastic_pooling_is_a_site_whose_mean_is_exact():
    torch.manual_seed(0)
    module, x = nn.Sequential(StochasticPooling(), nn.Linear(4, 2)).eval(), torch.rand(3, 4, 4) + 0.1
    engine = Engine.from_module(module, x, "regression")
    assert [(site.name, site.kind) for site in engine.sites] == [("0", "uniform")]
    found = engine.predict(x, PASSES, seed=1)
    with torch.no_grad():
        wanted = module(x).numpy()  # linear in what is picked
    np.testing.assert_allclose(engine.predict(x, 0).mean, wanted, atol=1e-5)
    assert (np.abs(found.mean - wanted) < 4.5 * found.std_error).all()


@pytest.mark.parametrize(
    ("draw", "told"),
    [
        (lambda x: torch.empty_like(x).exponential_(-1.0), "lambda"),
        (lambda x: torch.empty_like(x).cauchy_(0.0, -1.0), "sigma"),
        (lambda x: torch.empty_like(x).log_normal_(0.0, -1.0), "std"),
        (lambda x: torch.empty_like(x).geometric_(1.5), "geometric_"),
        (lambda x: torch.empty_like(x, dtype=torch.int64).exponential_(), "Exponential|exponential"),
        (lambda x: torch.randint(0, 300, x.shape, dtype=torch.uint8), "out of bounds"),
        (lambda x: torch.randint(5, 5, x.shape), "from"),
        (lambda x: torch.empty_like(x, dtype=torch.uint8).random_(0, 1000), "bounds"),
        (lambda x: torch.randperm(200, dtype=torch.int8)[:4], "int8|Char|overflow|max"),
        (lambda x: torch.multinomial(-torch.ones(len(x), 4), 4, True), "probability"),
        (lambda x: torch.multinomial(torch.zeros(len(x), 4), 4, True), "distribution"),
        (lambda x: torch.multinomial(torch.ones(len(x), 4, dtype=torch.int64), 4), "floating"),
        (lambda x: torch.multinomial(torch.ones(2, len(x), 4), 1)[0].expand(-1, 4), "dim"),
    ],
)
def test_what_pytorch_refuses_is_refused_in_its_words(draw, told):
    with pytest.raises(RuntimeError) as plain:
        draw(torch.ones(3, 4))
    assert re.search(told, str(plain.value))
    with pytest.raises(UnsupportedModelError, match=told):
        Engine.from_module(noisy(draw), torch.rand(3, 4), "regression")


@pytest.mark.wide
@pytest.mark.parametrize("runtime", ["auto", "eager"])
@pytest.mark.parametrize("weights", [-torch.ones(1, 4), torch.zeros(1, 4), torch.tensor([[0.5, -0.1, 0.3, 0.2]])])
@pytest.mark.parametrize("count", [1, 2])
def test_weights_that_are_none_are_an_error_of_their_row(runtime, weights, count):
    module = Custom(lambda self, x: x.gather(1, torch.multinomial(x, count)).sum(1) if self.training else x.sum(1))
    engine = Engine.from_module(module.eval(), torch.rand(3, 4) + 0.1, "regression", runtime=runtime)
    assert engine.predict(torch.ones(1, 4), 5, 1).mean == count
    with pytest.raises(FailedRowsError):
        engine.predict(weights, 5, 1)


def optional_for_all(hidden):
    if torch.rand(()) < 0.5:
        hidden = hidden + torch.randn(1, 6)
    return hidden + torch.randn_like(hidden)


def for_each_or_for_all(hidden):
    return hidden * (torch.rand(len(hidden), 6) if torch.rand(()) < 0.5 else torch.rand(1, 6))


@pytest.mark.parametrize("noise", [optional_for_all, for_each_or_for_all])
def test_what_all_rows_share_in_some_passes_is_not_what_each_row_has(noise):
    def forward(self, x):
        hidden = torch.tanh(self.first(x))
        return self.last(noise(hidden) if self.training else hidden)

    torch.manual_seed(0)
    module = Custom(forward, first=nn.Linear(6, 6), last=nn.Linear(6, 2)).eval()
    engine = Engine.from_module(module, torch.randn(3, 6), "regression")
    assert sorted((site.scope, site.shape) for site in engine.sites) == [("pass", ()), ("pass", (1, 6)), ("row", (6,))]
    x = torch.randn(1, 6).expand(5, -1)
    found = engine.samples(x, PASSES, seed=1)
    module.train()
    with torch.no_grad():
        wanted = torch.stack([module(x) for _ in range(PASSES)]).numpy()
    for row in range(2):
        assert distance(found[:, row, 0], wanted[:, row, 0]) < FAR
    assert distance(found[:, 0, 0] - found[:, 1, 0], wanted[:, 0, 0] - wanted[:, 1, 0]) < FAR
    assert distance(found.sum((1, 2)), wanted.sum((1, 2))) < FAR


@pytest.mark.parametrize(
    "draw",
    [
        lambda x: torch.empty_like(x).exponential_(generator=torch.Generator().manual_seed(1)),
        lambda x: torch.randint(5, x.shape, generator=torch.Generator().manual_seed(1)),
    ],
)
def test_of_a_generator_that_is_seeded_anew_are_not_random(draw):
    module = nn.Sequential(nn.Dropout(0.5), noisy(draw))
    assert [site.name for site in Engine.from_module(module, torch.rand(3, 4), "regression").sites] == ["0"]


@pytest.mark.parametrize(
    "draw",
    [lambda x: torch.empty_like(x).random_(), lambda x: torch.poisson(x.abs()).detach()],
    ids=["random_", "poisson"],
)
def test_that_no_uniform_number_makes_are_refused_by_their_name(draw):
    with pytest.raises(UnsupportedModelError, match="no mask can stand for: aten"):
        Engine.from_module(noisy(draw), torch.rand(3, 4), "regression")
