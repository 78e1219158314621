"""Networks that leave out layers at random: passes that decide alike are one batch, and answer as each alone."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from mcdropout.engine import Engine, EngineError
from mcdropout.engine.pytorch import eager
from mcdropout.engine.pytorch.decisions import Decisions, extreme_draws
from mcdropout.engine.pytorch.eager import EagerRuntime
from mcdropout.engine.pytorch.module import understand

X = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.drop = nn.Linear(8, 8), nn.Dropout(0.25)

    def forward(self, x):
        return x + self.drop(torch.relu(self.linear(x)))


class Skipping(nn.Module):
    """Leaves out each of its blocks where `skips()` says so, in train mode."""

    def __init__(self, skips, count=3):
        super().__init__()
        self.skips, self.blocks, self.last = skips, nn.ModuleList(Block() for _ in range(count)), nn.Linear(8, 3)

    def forward(self, x):
        for block in self.blocks:
            if self.training and self.skips():
                continue
            x = block(x)
        return self.last(x)


class Listed(Skipping):
    """Draws for all of its blocks at once."""

    def __init__(self, kept):
        super().__init__(None)
        self.kept = kept

    def forward(self, x):
        if self.training:
            for block, keep in zip(self.blocks, self.kept(len(self.blocks)), strict=True):
                if keep:
                    x = block(x)
        else:
            for block in self.blocks:
                x = block(x)
        return self.last(x)


class Gated(Skipping):
    """Puts what was decided on its values too."""

    def forward(self, x):
        for block in self.blocks:
            gate = (torch.rand(()) > 0.4).float() if self.training else torch.ones(())
            x = x + gate * block(x)
        return self.last(x) if bool(gate) else -self.last(x)


class Swallowing(Skipping):
    """Catches whatever goes wrong in it."""

    def forward(self, x):
        for block in self.blocks:
            try:
                if self.training and torch.rand(()) < 0.4:
                    continue
            except Exception:
                return self.last(x)
            x = block(x)
        return self.last(x)


def _keeps_its_tensor():
    number = torch.empty(1)
    number.uniform_()
    return number < 0.4


DECIDED = {
    "a tensor is compared": lambda: Skipping(lambda: torch.rand([]) < 0.4),
    "one of one number": lambda: Skipping(lambda: torch.rand(1) < 0.4),
    "its item": lambda: Skipping(lambda: torch.rand(1).item() < 0.4),
    "the other way round": lambda: Skipping(lambda: torch.rand(()) <= torch.tensor(0.4)),
    "by a function": lambda: Skipping(lambda: torch.lt(torch.rand(()), 0.4)),
    "what is not so": lambda: Skipping(lambda: not torch.rand(()) > 0.4),
    "both": lambda: Skipping(lambda: (torch.rand(()) < 0.6) & (torch.rand(()) < 0.6)),
    "a normal number": lambda: Skipping(lambda: torch.randn(()).abs() > 1.0),
    "a number between others": lambda: Skipping(lambda: torch.empty(1).uniform_(2.0, 4.0).item() < 2.8),
    "a Bernoulli number": lambda: Skipping(lambda: torch.bernoulli(torch.tensor(0.4)).item() == 1),
    "one of a tensor": lambda: Skipping(lambda: bool(torch.empty(()).bernoulli_(0.4))),
    "a floor": lambda: Skipping(lambda: (torch.rand(()) + 0.6).floor_() == 0),
    "a whole number": lambda: Skipping(lambda: [True, False][int((torch.rand(()) * 2).floor())]),
    "one of some": lambda: Listed(lambda count: [torch.rand(count)[place] > 0.4 for place in range(count)]),
    "each of some": lambda: Listed(lambda count: torch.rand(count) > 0.4),
    "each of a list": lambda: Listed(lambda count: [number > 0.4 for number in torch.rand(count).tolist()]),
    "what is put on values too": lambda: Gated(None),
    "where errors are caught": lambda: Swallowing(None),
}
UNDECIDED = {
    "a number that is no tensor any more": lambda: Skipping(lambda: float(torch.rand(())) < 0.4),
    "the tensor that it was drawn into": lambda: Skipping(_keeps_its_tensor),
}


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Each run takes less time than the one before, so that passes together, which are tried last, pay."""
    runs = []

    def timed(run):
        runs.append(run)
        return 0.1 / len(runs), tuple(map(np.concatenate, zip(*run(), strict=True)))

    monkeypatch.setattr(eager, "_timed", timed)


def prepared(make):
    """A runtime of a network, the masks of 40 passes, and what each answers alone."""
    torch.manual_seed(0)
    subject = understand(make(), X)
    runtime = EagerRuntime(subject.network)
    runtime.decide(subject.source, subject.arrays, 1e-5)
    masks = subject.source.draw_each([7, 7], [0, 1], 0, 40)
    frontier, places = runtime.prefix((X,)), np.array([2, 0])
    alone = [runtime.suffix(frontier, places, each)[0] for each in masks]
    return subject, runtime, (frontier, places, masks), np.stack(alone)


def counted(network):
    """How often a network is called, as a list that grows."""
    calls, run = [], network.run
    network.run = lambda inputs, masks: calls.append(len(inputs[0])) or run(inputs, masks)
    return calls


@pytest.mark.wide
@pytest.mark.parametrize("make", DECIDED.values(), ids=DECIDED)
def test_passes_that_decide_alike_are_one_batch_and_answer_as_each_alone(make):
    subject, _, (frontier, places, masks), alone = prepared(make)
    assert [site.scope for site in subject.sites if site.raw].count("pass") >= 1
    runtime = EagerRuntime(subject.network)
    runtime.decisions = Decisions(subject.network, 64, learning=True)
    calls = counted(subject.network)
    for number in range(2):
        calls.clear()
        found = np.stack([outputs[0] for outputs in runtime.passes(frontier, places, masks)])
        np.testing.assert_allclose(found, alone, atol=1e-5, err_msg=f"time {number}")
    assert len(alone[:, 0].round(5)) == 40 > len(calls)  # which are known by then, so that none is broken off
    assert sum(calls) == 2 * 40
    assert max(calls) <= 64


@pytest.mark.wide
@pytest.mark.parametrize("make", DECIDED.values(), ids=DECIDED)
def test_numbers_that_hardly_any_pass_draws_decide_too(make):
    subject, runtime, (frontier, places, masks), _ = prepared(make)
    ends = extreme_draws(subject.sites, masks)
    assert len(ends) == 2 * sum(site.scope == "pass" for site in subject.sites)
    runtime.decisions = Decisions(subject.network, 64)
    runtime.passes(frontier, places, masks[:1] * 2)
    found = np.stack([outputs[0] for outputs in runtime.passes(frontier, places, ends)])
    alone = np.stack([runtime.suffix(frontier, places, each)[0] for each in ends])
    np.testing.assert_allclose(found, alone, atol=1e-5)


@pytest.mark.parametrize("make", UNDECIDED.values(), ids=UNDECIDED)
def test_where_more_is_done_with_a_number_than_to_decide_each_pass_runs_alone(make):
    _, runtime, given, alone = prepared(make)
    assert runtime.decisions is None
    np.testing.assert_array_equal(np.stack([outputs[0] for outputs in runtime.passes(*given)]), alone)


def test_the_tensor_that_a_number_was_drawn_into_is_not_read_unseen():
    subject, runtime, (frontier, places, masks), alone = prepared(UNDECIDED["the tensor that it was drawn into"])
    runtime.decisions = Decisions(subject.network, 64)
    assert not np.allclose(np.stack([outputs[0] for outputs in runtime.passes(frontier, places, masks)]), alone)


def test_a_decision_that_is_hardly_ever_taken_shows_while_a_network_is_prepared():
    """So that a number is not taken for one that can be batched which is read elsewhere."""

    def skips():
        number = torch.empty(1)
        number.uniform_()
        return number < 1e-4

    _, runtime, _, _ = prepared(lambda: Skipping(skips))
    assert runtime.decisions is None


class Keeping(Skipping):
    """The first and the last are never left out."""

    def __init__(self, kept=None):
        super().__init__(None)
        self.kept = kept

    def forward(self, x):
        keep = torch.ones(len(self.blocks), dtype=torch.bool)
        if self.training:
            keep = torch.rand(len(self.blocks)) > 0.4
            (self.kept or self.keep)(keep)
        for block, each in zip(self.blocks, keep, strict=True):
            if each:
                x = block(x)
        return self.last(x)

    @staticmethod
    def keep(drawn):
        drawn[0] = drawn[-1] = True


WRITTEN = {
    "by places": Keeping,
    "by a part": lambda: Keeping(lambda drawn: drawn[1:].logical_not_()),
    "by a mask": lambda: Keeping(lambda drawn: drawn.masked_fill_(torch.tensor([True, False, True]), True)),
    "by another shape": lambda: Keeping(lambda drawn: drawn.view(1, 3)[0].fill_(True)),
    "in NumPy": lambda: Keeping(lambda drawn: drawn.numpy().__setitem__(0, True)),
}


@pytest.mark.parametrize("make", WRITTEN.values(), ids=WRITTEN)
def test_what_is_written_to_numbers_that_were_drawn_is_not_lost(make):
    subject, runtime, (frontier, places, masks), alone = prepared(make)
    for decisions in (runtime.decisions, Decisions(subject.network, 64)):
        runtime.decisions = decisions
        found = np.stack([outputs[0] for outputs in runtime.passes(frontier, places, masks)])
        np.testing.assert_allclose(found, alone, atol=1e-5)


class Counting(Skipping):
    """Has things in its attributes while it runs, and none afterwards."""

    def __init__(self, seldom=0.4):
        super().__init__(lambda: (torch.rand(()) - 0.5).abs() < seldom / 2)
        self.level, self.mask, self.seen, self.known = 0, None, [], {}

    def forward(self, x):
        self.level += 1
        self.mask = torch.ones_like(x) if self.mask is None else self.mask
        self.seen.append(x)
        self.known["x"] = self.known.get("x", 0) + 1
        x = super().forward(x * self.mask * self.level * len(self.seen) * self.known["x"])
        self.level, self.mask = self.level - 1, None
        self.seen.clear()
        del self.known["x"]
        return x


@pytest.mark.parametrize("seldom", [0.4, 0.001])
def test_passes_that_are_no_longer_followed_leave_the_network_as_every_pass_does(seldom):
    subject, runtime, (frontier, places, _), _ = prepared(lambda: Counting(seldom))
    assert runtime.decisions is not None
    masks = subject.source.draw_each([7, 7], [0, 1], 0, 2000)
    for _ in range(2):
        found = np.stack([outputs[0] for outputs in runtime.passes(frontier, places, masks)])
        network = subject.network.module
        assert (network.level, network.mask, network.seen, network.known) == (0, None, [], {})
    alone = np.stack([runtime.suffix(frontier, places, each)[0] for each in masks[:200]])
    np.testing.assert_allclose(found[:200], alone, atol=1e-5)


KEPT = []


def test_a_network_that_keeps_what_it_drew_gets_its_own_numbers():
    def skips():
        KEPT.append(torch.rand(1).item())
        return KEPT[-1] < 0.4

    _, runtime, given, _ = prepared(lambda: Skipping(skips))
    assert runtime.decisions is None
    KEPT.clear()
    runtime.passes(*given)
    assert len(KEPT) == 3 * 40
    assert all(type(number) is float for number in KEPT)


def test_a_seed_gives_the_same_bytes_whatever_was_asked_before():
    torch.manual_seed(0)
    engine = Engine.from_module(DECIDED["one of one number"](), X)
    assert engine.steps._runtime.decisions is not None
    first, *others = (engine.predict(X, 200, seed=1).mean for _ in range(3))
    engine.predict(X, 500, seed=2)
    for other in (*others, engine.predict(X, 200, seed=1).mean):
        assert other.tobytes() == first.tobytes()


def test_it_is_measured_whether_that_pays(monkeypatch):
    make = DECIDED["a tensor is compared"]
    assert prepared(make)[1].decisions.most_pairs == 3 * 64
    times = itertools.count(1)
    timed = eager._timed
    monkeypatch.setattr(eager, "_timed", lambda run: (0.001 * next(times), timed(run)[1]))
    assert prepared(make)[1].decisions is None


def test_an_engine_answers_as_from_one_pass_after_another():
    torch.manual_seed(0)
    engine = Engine.from_module(DECIDED["its item"](), X)
    runtime = engine.steps._runtime
    assert runtime.decisions is not None
    together = engine.predict(X, 60, 3)
    runtime.decisions = None
    alone = engine.predict(X, 60, 3)
    np.testing.assert_allclose(together.mean, alone.mean, atol=1e-6)
    np.testing.assert_allclose(together.variance, alone.variance, atol=1e-6)


def test_a_pass_that_fails_is_an_error_and_the_next_request_is_answered():
    class Fragile(Skipping):
        def forward(self, x):
            if (x > 50.0).any():
                raise ValueError("too large")
            return super().forward(x)

    torch.manual_seed(0)
    engine = Engine.from_module(Fragile(lambda: torch.rand(()) < 0.4), X)
    wanted = engine.predict(X, 20, 1).mean
    with pytest.raises(EngineError, match="too large"):
        engine.predict(X + 100.0, 20, 1)
    np.testing.assert_array_equal(engine.predict(X, 20, 1).mean, wanted)
