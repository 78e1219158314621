"""Lengths: networks that ask `len(x)` for their rows are programs for any number of rows."""

import builtins
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcdropout.engine import Engine
from mcdropout.engine.pytorch.cut.lengths import open_lengths
from tests.engine.networks import Custom
from tests.engine.test_engine import assert_same, random


def state_of_a_recurrent_layer(self, x):
    state = torch.zeros(2, len(x), 6)
    return self.last(self.drop(self.layer(x, (state, state))[0][:, -1]))


def flattened(self, x):
    return self.last(self.drop(F.relu(self.first(x.reshape(len(x), -1)))))


def query(self, x):
    found, _ = self.attention(self.query.expand(len(x), -1, -1), x, x)
    return self.last(self.drop(found[:, 0]))


def places(self, x):
    rows = torch.arange(len(x))
    return self.last(self.drop(F.relu(x[rows, 2])))


def network(forward):
    torch.manual_seed(0)
    return Custom(
        forward,
        layer=nn.LSTM(8, 6, 2, batch_first=True, dropout=0.3),
        first=nn.Linear(40, 8 if forward is places else 6),
        attention=nn.MultiheadAttention(8, 2, dropout=0.2, batch_first=True),
        drop=nn.Dropout(0.5),
        last=nn.Linear(6 if forward in (state_of_a_recurrent_layer, flattened) else 8, 3),
    )


@pytest.mark.wide
@pytest.mark.parametrize("forward", [state_of_a_recurrent_layer, flattened, query, places])
def test_a_network_that_asks_for_its_rows_by_len_is_split_and_runs_on_onnx(forward):
    module = network(forward)
    if forward is query:
        module.query = nn.Parameter(torch.randn(1, 1, 8))
    engine = Engine.from_module(module, random(2, 5, 8))
    assert (engine.program.strategy, engine.program.runtime, engine.program.reason) == ("split", "onnx", None)
    eager = Engine.from_module(module, random(2, 5, 8), runtime="eager")
    for rows in (1, 7):
        assert_same(engine.predict(random(rows, 5, 8), 20, 1), eager.predict(random(rows, 5, 8), 20, 1), atol=1e-5)


def test_a_network_that_goes_another_way_from_some_len_on_is_no_program():
    def forward(self, x):
        return self.last(self.drop(F.relu(self.first(x - 1 if len(x) > 20 else x))))

    module = Custom(forward, first=nn.Linear(8, 8), drop=nn.Dropout(0.5), last=nn.Linear(8, 3))
    engine = Engine.from_module(module, random(2, 8))
    assert (engine.program.strategy, engine.program.runtime) == ("whole", "eager")
    assert "torch.export cannot follow" in engine.program.reason


def test_len_is_pythons_own_again_once_nobody_exports():
    own = builtins.len
    inside, done = threading.Event(), threading.Event()

    def export():
        with open_lengths():
            inside.set()
            done.wait(10)

    other = threading.Thread(target=export)
    with open_lengths():
        other.start()
        assert inside.wait(10)
        assert len(torch.zeros(4, 2)) == 4
        assert len([1, 2]) == 2
        with pytest.raises(TypeError, match="0-d"):
            len(torch.tensor(1.0))
    assert builtins.len is not own  # the other is still at it
    done.set()
    other.join()
    assert builtins.len is own


def test_len_is_pythons_own_again_when_an_export_fails():
    own = builtins.len
    with pytest.raises(RuntimeError, match="no"), open_lengths():
        raise RuntimeError("no")
    assert builtins.len is own
