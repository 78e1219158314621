"""Suffixes on ONNX Runtime: pairs are run in the way that takes the least time, and answered the same in each."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mcdropout.engine import Engine
from mcdropout.engine.runtimes import suffix as module
from mcdropout.engine.runtimes.onnx import OnnxRuntime
from mcdropout.engine.runtimes.protocol import measure
from mcdropout.engine.runtimes.suffix import OnnxSuffix
from tests.engine.networks import drop_connect
from tests.engine.onnx.common import dropout, model, node, numbers, saved, value
from tests.engine.test_engine import random

X = random(8, 4)
PAIRS = (1, 64, 300)
SECONDS = {"shared": 3.0, "single": 2.0, "parts": 1.0}


def transformer():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.2, batch_first=True)
    return nn.Sequential(
        nn.Unflatten(1, (4, 1)),
        nn.Linear(1, 8),
        nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
        nn.Flatten(),
        nn.Linear(32, 3),
    )


def threads(monkeypatch, count):
    monkeypatch.setattr(module, "thread_count", lambda: count)


def timed(monkeypatch, seconds):
    """Have each way take so many seconds, as far as anybody looks."""
    real = OnnxSuffix._run

    def run(self, way, values):
        now[0] += seconds[way]
        return real(self, way, values)

    now = [0.0]
    monkeypatch.setattr(OnnxSuffix, "_run", run)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))


def from_onnx(folder):
    """An engine of a graph that was not made of a network of PyTorch."""
    made = model(
        [
            node("Gemm", ["x", "w"], ["h"]),
            node("Relu", ["h"], ["r"]),
            dropout("r", "d"),
            node("Gemm", ["d", "v"], ["y"]),
        ],
        [value("x", ["rows", 4])],
        [value("y", ["rows", 3])],
        w=numbers(4, 16),
        v=numbers(16, 3, seed=1),
    )
    return Engine.from_onnx(saved(made, folder), X, runtime="onnx")


@pytest.fixture(scope="module", params=["a mask a pair", "a mask for all", "from ONNX"])
def prepared(request, tmp_path_factory):
    if request.param == "from ONNX":
        return from_onnx(tmp_path_factory.mktemp("onnx"))._prepared
    network = transformer() if request.param == "a mask a pair" else drop_connect()
    return Engine.from_module(network, X, runtime="onnx")._prepared


def measured(prepared):
    """The suffix of a runtime that has found out how it runs pairs fastest."""
    runtime = OnnxRuntime(prepared.graphs)
    measure(runtime, (X,), lambda pairs: masks_of(prepared, pairs))
    return runtime._suffix


def masks_of(prepared, pairs):
    return prepared.source.draw([1] * pairs, range(pairs), 0, 1)


@pytest.mark.wide
@pytest.mark.parametrize("count", [2, 3])
def test_pairs_in_parts_are_answered_to_the_bit_as_together(monkeypatch, prepared, count):
    threads(monkeypatch, count)
    timed(monkeypatch, SECONDS)
    suffix, frontier = measured(prepared), prepared.runtime.prefix((X,))
    assert suffix._ways == ["parts"] * 4
    for pairs in PAIRS:
        rows, masks = np.arange(pairs) % len(X), masks_of(prepared, pairs)
        found = suffix.run(rows, frontier, masks)
        np.testing.assert_array_equal(found[0], suffix._shared.run((rows, *frontier, *masks))[0])


@pytest.mark.parametrize("fastest", SECONDS)
def test_the_fastest_way_is_found(monkeypatch, prepared, fastest):
    threads(monkeypatch, 2)
    timed(monkeypatch, {way: 1.0 if way == fastest else 2.0 for way in SECONDS})
    assert measured(prepared)._ways == [fastest] * 4


def test_one_thread_runs_all_unless_more_are_clearly_faster(monkeypatch, prepared):
    threads(monkeypatch, 2)
    timed(monkeypatch, {"shared": 0.95, "single": 1.0, "parts": 0.95})
    assert measured(prepared)._ways == ["single"] * 4


def test_where_operations_are_always_shared_out_no_second_session_is_kept(monkeypatch, prepared):
    threads(monkeypatch, 2)
    timed(monkeypatch, {"shared": 1.0, "single": 2.0, "parts": 2.0})
    suffix = measured(prepared)
    assert suffix._ways == ["shared"] * 4
    assert suffix._single is suffix._shared


def test_a_way_that_answers_otherwise_is_not_taken(monkeypatch, prepared):
    threads(monkeypatch, 2)
    timed(monkeypatch, SECONDS)
    real = OnnxSuffix._in_parts
    monkeypatch.setattr(
        OnnxSuffix, "_in_parts", lambda self, values: tuple(np.nextafter(x, np.inf) for x in real(self, values))
    )
    assert measured(prepared)._ways == ["single"] * 4


def test_a_large_network_has_one_session(monkeypatch, prepared):
    threads(monkeypatch, 2)
    monkeypatch.setattr(module, "_MOST_SECONDS", 0.0)
    suffix = measured(prepared)
    assert suffix._ways == ["shared"] * 4
    assert suffix._single is suffix._shared


def test_more_pairs_than_there_is_memory_for_are_not_measured(monkeypatch, prepared):
    threads(monkeypatch, 2)
    sizes = []
    monkeypatch.setattr(OnnxSuffix, "_fastest", lambda self, values: sizes.append(len(values[0])) or "parts")
    monkeypatch.setattr(module, "_MOST_BYTES", 40 * prepared.outline.suffix_bytes)
    assert measured(prepared)._ways == ["parts"] * 4
    assert sizes == [1, 16, 40, 40]


def test_operations_are_shared_out_where_runs_are_long(monkeypatch, prepared):
    threads(monkeypatch, 2)
    timed(monkeypatch, SECONDS)
    seconds = iter([0.0, 0.0, 1.0])
    monkeypatch.setattr(OnnxSuffix, "_fastest", lambda self, values: "single")
    monkeypatch.setattr(module, "_seconds", lambda run: next(seconds))
    assert measured(prepared)._ways == ["single", "single", "shared", "shared"]


def test_one_thread_runs_all_pairs_without_measuring(monkeypatch, prepared):
    threads(monkeypatch, 1)
    monkeypatch.setattr(OnnxSuffix, "_fastest", lambda self, values: pytest.fail("it was measured"))
    suffix = measured(prepared)
    assert suffix._single is suffix._shared


def test_a_network_that_is_prepared_is_measured(monkeypatch):
    threads(monkeypatch, 2)
    timed(monkeypatch, SECONDS)
    assert Engine.from_module(drop_connect(), X, runtime="onnx")._runtime._suffix._ways == ["parts"] * 4
