"""Rows of a frontier, taken and joined by the runtime that keeps it: steps need not know in which form."""

import numpy as np
import pytest
import torch
from torch import nn

from mcdropout.engine.masks import MaskSource
from mcdropout.engine.native import library
from mcdropout.engine.preparation import prepare
from mcdropout.engine.pytorch.module import understand
from mcdropout.engine.reading import Reading
from mcdropout.engine.runtimes import TABLE, Target
from mcdropout.engine.runtimes.protocol import drawing_of
from tests.engine.onnx.common import understood
from tests.engine.onnx.test_subject import network as onnx_network


def chain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Dropout(0.5), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3))


def rows(count, seed):
    return np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)


def check(subject, name):
    runtime = prepare(Reading("classification"), subject, Target(runtime=name)).runtime
    source, x, y = MaskSource(subject.sites), rows(3, 1), rows(2, 2)
    frontiers = runtime.prefix((x,)), runtime.prefix((y,))
    joined = tuple(runtime.join(parts) for parts in zip(*frontiers, strict=True))
    taken = tuple(runtime.take(value, np.array([4, 0, 3])) for value in joined)
    masks = source.draw([1], [0], 0, 3)
    (found,) = runtime.suffix(taken, np.arange(3), masks)
    every = np.concatenate([x, y])
    (wanted,) = runtime.suffix(runtime.prefix((every[[4, 0, 3]],)), np.arange(3), masks)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert len({row.tobytes() for row in wanted}) == 3
    return runtime


@pytest.mark.parametrize("name", TABLE)
def test_rows_of_two_frontiers_go_on_as_one_on_every_runtime(name):
    if name == "sparse" and not library.available():
        pytest.skip("the C extension was not built")
    runtime = check(understand(chain(), rows(3, 0)), name)
    assert (drawing_of(runtime) is not None) == (name == "sparse")


def test_rows_of_two_frontiers_go_on_as_one_where_an_onnx_model_runs_as_it_is(tmp_path):
    check(understood(onnx_network(), tmp_path, rows(3, 0)), "eager")
