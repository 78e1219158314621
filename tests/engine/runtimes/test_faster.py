"""Which runtime serves, where the first that passes its checks is not the fastest."""

import numpy as np
import pytest
import torch
from torch import nn

from mcdropout.engine import Engine
from mcdropout.engine.runtimes import batches
from mcdropout.engine.runtimes.tensors import TorchRuntime

X = np.random.default_rng(0).normal(size=(3, 4, 24, 24)).astype(np.float32)


class Convolutions(nn.Module):
    """Dropout before all that takes time, so that nothing is left to do once a row."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout2d(0.3), nn.Conv2d(4, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU()
        )
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.layers(x).mean((2, 3)))


def prepared(width=48, **arguments):
    torch.manual_seed(0)
    return Engine.from_module(Convolutions(width), X, **arguments)


@pytest.fixture
def seconds(monkeypatch):
    """What each runtime takes, by its name; whichever is not there is not to be measured."""
    found = {}
    monkeypatch.setattr(batches, "_seconds", lambda runtime, _, rows, masks: len(rows) * found[type(runtime).__name__])
    return found


def test_modules_that_are_faster_than_graphs_take_their_place(seconds, tmp_path):
    seconds.update(OnnxRuntime=2.0, TorchRuntime=1.0)
    engine = prepared()
    assert (engine.program.runtime, engine.program.reason) == ("torch", None)
    engine.save(tmp_path)
    loaded = Engine.load(tmp_path)
    assert loaded.program.runtime == "onnx"
    np.testing.assert_allclose(loaded.predict(X, 20, seed=3).mean, engine.predict(X, 20, seed=3).mean, atol=1e-5)


def test_graphs_that_are_about_as_fast_serve(seconds):
    seconds.update(OnnxRuntime=1.1, TorchRuntime=1.0)
    assert prepared().program.runtime == "onnx"


@pytest.mark.parametrize("arguments", [{"width": 4}, {"runtime": "onnx"}], ids=["short calls", "asked for by name"])
def test_nothing_is_measured_where_there_is_no_choice(seconds, arguments):
    assert prepared(**arguments).program.runtime == "onnx"


def test_modules_that_fail_their_checks_do_not_serve_however_fast(seconds, monkeypatch):
    seconds.update(OnnxRuntime=2.0, TorchRuntime=1.0)
    suffix = TorchRuntime.suffix
    monkeypatch.setattr(TorchRuntime, "suffix", lambda *given: tuple(out + 1.0 for out in suffix(*given)))
    assert prepared().program.runtime == "onnx"


def test_modules_in_batches_answer_as_all_at_once():
    engine = prepared(width=4, runtime="torch")
    expected = engine.predict(X, 20, seed=3)
    runtime = engine._prepared.runtime
    runtime.batches.measure(runtime, engine._prepared.source, X[None])
    runtime.batches.size = 7
    np.testing.assert_allclose(engine.predict(X, 20, seed=3).mean, expected.mean, atol=1e-6)
