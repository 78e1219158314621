"""The network itself as a runtime: how many pairs one call takes, and what it costs to know where it is."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcdropout.engine import Engine
from mcdropout.engine.pytorch import batches
from mcdropout.engine.pytorch.eager import EagerRuntime
from mcdropout.engine.pytorch.module import understand
from mcdropout.engine.pytorch.silent import never_draws


class Branching(nn.Module):
    """Which way it goes depends on numbers, so that no program can be made of it; a dropout a row, one a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.weight, self.drop = nn.Linear(4, 8), nn.Parameter(torch.randn(3, 8)), nn.Dropout(0.3)

    def forward(self, x):
        hidden = self.drop(torch.relu(self.first(x)))
        if (hidden > 1e6).any():
            hidden = hidden.clamp(max=1e6)
        return F.linear(hidden, F.dropout(self.weight, 0.5, self.training))


def understood(seed=0):
    torch.manual_seed(seed)
    return understand(Branching(), torch.randn(3, 4).numpy())


def test_pairs_in_batches_answer_as_all_at_once():
    subject = understood()
    runtime, x = EagerRuntime(subject.network), np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    rows = np.array([4, 0, 0, 3, 1, 2, 4])
    masks = subject.source.draw([7] * 7, range(7), 0, 1)
    (together,) = runtime.suffix(runtime.prefix((x,)), rows, masks)
    sizes = []
    run = subject.network.run
    subject.network.run = lambda inputs, masks: sizes.append(len(inputs[0])) or run(inputs, masks)
    runtime.batches.measure(runtime, subject.source, subject.arrays, 1e-5)
    sizes.clear()
    runtime.batches.size = 3
    (parted,) = runtime.suffix(runtime.prefix((x,)), rows, masks)
    assert sizes == [3, 3, 1]
    np.testing.assert_allclose(parted, together, atol=1e-6)


@pytest.mark.parametrize(
    ("seconds", "batch", "tried"),
    [
        ({8: 0.010, 32: 0.020, 128: 0.050, 512: 0.060}, 512, [8, 32, 128, 512]),
        ({8: 0.010, 32: 0.060, 128: 0.200}, 8, [8, 32, 128]),
        ({8: 0.010, 32: 0.020, 128: 0.200}, 32, [8, 32, 128]),
        ({8: 2.0}, 8, [8]),
    ],
    ids=["the repeated batch", "the plain loop", "between them", "too slow for more to be tried"],
)
def test_the_batch_that_takes_the_least_time_a_pair_is_taken(monkeypatch, seconds, batch, tried):
    subject, seen = understood(), []

    def scripted(runtime, frontier, rows, masks):
        assert len(rows) == runtime.batches.size
        seen.append(len(rows))
        return seconds[len(rows)], (np.zeros((len(rows), 1), np.float32),)

    monkeypatch.setattr(batches, "_timed", scripted)
    runtime = EagerRuntime(subject.network)
    assert runtime.batches.measure(runtime, subject.source, subject.arrays, 1e-5) == seconds[batch] / batch
    assert runtime.batches.size == batch
    assert list(dict.fromkeys(seen)) == tried


def test_a_network_that_runs_as_it_is_has_its_batch_measured():
    torch.manual_seed(0)
    engine = Engine.from_module(Branching(), torch.randn(3, 4).numpy())
    assert engine.program.runtime == "eager"
    assert engine._prepared.runtime.batches.size is not None


def test_a_network_that_fails_while_it_is_measured_is_left_to_its_checks(monkeypatch):
    def failing(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(batches, "_timed", failing)
    torch.manual_seed(0)
    engine = Engine.from_module(Branching(), torch.randn(3, 4).numpy())
    assert engine._prepared.runtime.batches.size is None


class Hooked(nn.Module):
    """A layer that draws nothing itself, with a hook that does."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        self.layers[0].register_forward_hook(lambda part, _, out: F.dropout(out, 0.5, part.training))

    def forward(self, x):
        return self.layers(x)


def test_a_layer_with_a_hook_that_drops_is_where_that_dropout_is():
    torch.manual_seed(0)
    engine = Engine.from_module(Hooked(), torch.randn(3, 4).numpy())
    assert [site.path for site in engine.sites] == ["layers.0"]
    assert engine.predict(torch.randn(2, 4).numpy(), 20, seed=1).variance.min() > 0.0


def test_only_layers_that_draw_nothing_as_they_came_are_known_not_to():
    changed = nn.Linear(2, 2)
    changed.forward = lambda x: F.dropout(x)
    quiet = [nn.Linear(2, 2), nn.Conv2d(1, 1, 1), nn.ReLU(), nn.LayerNorm(2), nn.Embedding(2, 2), nn.Sequential()]
    drawing = [nn.Dropout(), nn.RReLU(), nn.LSTM(2, 2, 2), nn.MultiheadAttention(2, 1), Hooked(), Hooked().layers[0]]
    drawing += [changed, nn.utils.weight_norm(nn.Linear(2, 2)), type("Own", (nn.Linear,), {})(2, 2)]
    drawing += [nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), nn.FractionalMaxPool2d(2, output_size=2)]
    assert [never_draws(part) for part in quiet] == [True] * len(quiet)
    assert [never_draws(part) for part in drawing] == [False] * len(drawing)


class SortsRows(nn.Module):
    """Dropout follows on rows sorted by their length, so that which mask a row gets depends on those beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.drop, self.head = nn.GRU(4, 8, batch_first=True), nn.Dropout(0.3), nn.Linear(8, 3)

    def forward(self, x, lengths):
        lengths, order = lengths.sort(descending=True)
        packed = nn.utils.rnn.pack_padded_sequence(self.drop(x[order]), lengths.cpu(), batch_first=True)
        return self.head(self.layer(packed)[1][-1])[order.argsort()]


class ScaledByTheBatch(nn.Module):
    """Dropout is scaled by what it left of the whole batch, a number for Python."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, x):
        hidden = torch.relu(self.first(x))
        if self.training:
            kept = (torch.rand_like(hidden) > 0.3).float()
            hidden = hidden * kept * (kept.numel() / max(kept.sum().item(), 1.0))
        return self.head(hidden)


class ReversesRows(nn.Module):
    """Every second mask belongs to another row, whatever the rows are."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.head = nn.Dropout(0.4), nn.Linear(4, 3)

    def forward(self, x):
        if float(x.sum()) > 1e9:
            x = -x
        return self.head(self.drop(x.flip(0)).flip(0))


@pytest.mark.parametrize(
    ("module", "strategy"), [(SortsRows, "repeated"), (ScaledByTheBatch, "loop"), (ReversesRows, "loop")]
)
def test_passes_of_a_row_are_one_batch_only_where_that_answers_as_each_alone(module, strategy):
    torch.manual_seed(0)
    generator = np.random.default_rng(0)

    def inputs(rows):
        if module is not SortsRows:
            return generator.normal(size=(rows, 4)).astype(np.float32)
        return generator.normal(size=(rows, 6, 4)).astype(np.float32), np.array([2, 6, 4, 3, 6])[:rows]

    engine = Engine.from_module(module(), inputs(3))
    assert (engine.program.strategy, engine.program.runtime) == (strategy, "eager")
    x, sizes = inputs(5), []
    call = engine._prepared.runtime._network.signature.call
    object.__setattr__(
        engine._prepared.runtime._network.signature,
        "call",
        lambda part, given: sizes.append(len(given[0])) or call(part, given),
    )
    found = engine.predict(x, 50, seed=3)
    assert max(sizes) == (1 if strategy == "loop" else 50)
    engine.steps.most_pairs = 1
    alone = engine.samples(x, 50, seed=3)
    assert sizes[-1] == 1
    np.testing.assert_allclose(found.mean, alone.mean(axis=0), atol=1e-6)
