"""An engine whose sites drop with another p than their own answers as the network that has it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mcdropout import Engine
from mcdropout.engine.errors import InvalidInputError


def dense(p: float) -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 64), nn.ReLU(), nn.Dropout(p), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(p), nn.Linear(64, 3)
    )


def convolutional(p: float) -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 5, 3), nn.BatchNorm1d(5), nn.Dropout1d(p), nn.Flatten(), nn.Linear(20, 3)
    )


def normalizing(p: float) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.SELU(), nn.AlphaDropout(p), nn.Linear(16, 3))


class Attending(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, dropout=p, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.stack([x, x.flip(1), x * 0.5], 1)
        out: Tensor = self.head(self.attention(steps, steps, steps)[0].mean(1))
        return out


class Connecting(nn.Module):
    """DropConnect: a mask on a weight, one for all rows."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p, self.linear = p, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = nn.functional.dropout(self.linear.weight, self.p, self.training)
        return nn.functional.linear(x, weight, self.linear.bias)


MAKERS: dict[str, Callable[[float], nn.Module]] = {
    "dense": dense,
    "convolutional": convolutional,
    "normalizing": normalizing,
    "attending": Attending,
    "connecting": Connecting,
}


def engine_of(make: Callable[[float], nn.Module], p: float, runtime: str = "auto") -> Engine:
    torch.manual_seed(3)
    return Engine.from_module(make(p).eval(), torch.randn(3, 6), runtime=runtime)


@pytest.mark.parametrize("p", [0.1, 0.37])
@pytest.mark.parametrize("kind", MAKERS)
def test_it_answers_as_the_network_that_has_this_p(kind: str, p: float) -> None:
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    engine, other = engine_of(MAKERS[kind], 0.5), engine_of(MAKERS[kind], p)
    found, wanted = engine.dropping(p).samples(x, 20, seed=9), other.samples(x, 20, seed=9)
    assert found == pytest.approx(wanted, abs=1e-6)
    assert np.abs(found - engine.samples(x, 20, seed=9)).max() > 1e-3
    assert [site.p for site in engine.dropping(p).sites] == [p] * len(engine.sites)
    # What is deterministic stays, and so does the engine itself.
    assert (engine.dropping(p).predict(x, 0).mean == engine.predict(x, 0).mean).all()
    assert {site.p for site in engine.sites} == {0.5}


@pytest.mark.parametrize("runtime", ["sparse", "onnx", "torch", "eager"])
def test_it_does_so_on_each_runtime(runtime: str) -> None:
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    found = engine_of(dense, 0.5, runtime).dropping(0.2).samples(x, 20, seed=9)
    assert found == pytest.approx(engine_of(dense, 0.2, runtime).samples(x, 20, seed=9), abs=1e-6)


def test_the_same_p_is_not_prepared_again_and_many_are_not_kept() -> None:
    engine = engine_of(dense, 0.5)
    first = engine.dropping(0.2)
    assert engine.dropping(0.2) is first
    for p in np.linspace(0.3, 0.6, 40):
        engine.dropping(float(p))
    assert engine.dropping(0.2) is not first


@pytest.mark.parametrize("p", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_what_is_no_probability_is_refused(p: float) -> None:
    with pytest.raises(InvalidInputError, match="above 0 and below 1"):
        engine_of(dense, 0.5).dropping(p)


def test_numbers_of_the_networks_own_have_no_other_p() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.linear(x)
            return out * torch.bernoulli(torch.full_like(out, 0.5)) * 2 if self.training else out

    engine = Engine.from_module(Own().eval(), torch.randn(3, 6))
    with pytest.raises(InvalidInputError, match="draws uniform numbers of the network's own"):
        engine.dropping(0.3)
