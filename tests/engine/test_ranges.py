"""Whole numbers that a network refuses are refused before a program that would answer them runs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcdropout.engine import Engine, FailedRowsError, InvalidInputError
from mcdropout.engine.inputs import InputSpec
from mcdropout.engine.ranges import with_ranges
from tests.engine.networks import Custom

IDS = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [2, 2, 9, 3]])
ONES = np.ones((3, 4), np.int64)
STEPS = np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32)


def embedded(self, ids):
    return self.out(self.drop(self.words(ids)).sum(1))


def one_hot(self, ids):
    return self.out(self.drop(F.one_hot(ids, 10).float() @ self.words.weight[:10]).sum(1))


def of_positions(self, ids):
    """A table without a module."""
    return self.out(self.drop(self.words.weight[ids]).sum(1))


def masked(self, ids, mask):
    return self.out((self.drop(self.words(ids)) * mask.unsqueeze(-1)).sum(1))


def packed(self, steps, lengths):
    packed = nn.utils.rnn.pack_padded_sequence(steps, lengths, batch_first=True, enforce_sorted=False)
    return self.out(self.drop(self.rnn(packed)[1][-1]))


def chosen(self, steps, step):
    hidden = self.drop(steps.repeat(1, 1, 4))
    return self.out(hidden.gather(1, step.unsqueeze(-1).expand(-1, -1, 8))[:, 0])


def network(forward):
    torch.manual_seed(0)
    parts = {"words": nn.Embedding(12, 8), "rnn": nn.GRU(2, 8, batch_first=True)}
    return Custom(forward, **parts, drop=nn.Dropout(0.3), out=nn.Linear(8, 3))


def ranges(engine):
    return [(spec.lowest, spec.highest) for spec in engine.inputs]


@pytest.mark.wide
@pytest.mark.parametrize(
    ("forward", "inputs", "wanted"),
    [
        (embedded, (IDS,), [(0, 11)]),
        (one_hot, (IDS,), [(0, 9)]),
        (of_positions, (IDS,), [(None, 11)]),
        (masked, (IDS, ONES), [(0, 11), (None, None)]),
        (packed, (STEPS, np.array([4, 2, 3])), [(None, None), (1, 4)]),
    ],
)
def test_are_those_that_the_network_itself_takes(forward, inputs, wanted):
    engine = Engine.from_module(network(forward), inputs if len(inputs) > 1 else inputs[0])
    assert ranges(engine) == wanted


def test_a_guess_of_the_last_number_spares_the_search_and_a_wrong_one_does_no_harm():
    tried = []

    def run(inputs):
        tried.append(int(inputs[0].max()))
        if inputs[0].min() < 0 or inputs[0].max() > 5000:
            raise IndexError

    specs = (InputSpec((4,), np.dtype(np.int64), "ids"),)
    found = with_ranges(specs, (IDS,), run)
    assert [(spec.lowest, spec.highest) for spec in found] == [(0, 5000)]
    searched = len(tried)
    assert with_ranges(specs, (IDS,), run, found) == found
    assert len(tried) - searched < searched // 2
    for wrong in (4999, 5001, 3, 2**30):
        assert with_ranges(specs, (IDS,), run, [replace(found[0], highest=wrong)]) == found


@pytest.mark.parametrize("number", [-1, 12, 2**40])
def test_others_are_refused_with_what_is_taken(number):
    engine = Engine.from_module(network(embedded), IDS)
    x = IDS.copy()
    x[1, 2] = number
    with pytest.raises(InvalidInputError, match=rf"holds {number} at \[1, 2\]; 0 to 11 is what the network takes"):
        engine.predict(x, 5)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool])
def test_zeros_and_ones_are_truth_values_and_nothing_else_is(dtype):
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    engine = Engine.from_module(network(masked), (IDS, mask.astype(bool)))
    wanted = engine.predict((IDS, mask.astype(bool)), 5, 1)
    np.testing.assert_array_equal(engine.predict((IDS, mask.astype(dtype)), 5, 1).mean, wanted.mean)
    if dtype is not bool:
        mask[2, 3] = 2
        with pytest.raises(InvalidInputError, match=r"holds 2 at \[2, 3\]; 0 and 1 are accepted"):
            engine.predict((IDS, mask.astype(dtype)), 5)


def test_are_the_same_at_all_sizes_or_not_known():
    sizes = {"sizes": {"steps": (1, 9)}}
    assert ranges(Engine.from_module(network(embedded), IDS, shapes=("steps",), **sizes)) == [(0, 11)]
    of_one_size = Engine.from_module(network(chosen), (STEPS, np.zeros((3, 1), np.int64)))
    assert ranges(of_one_size) == [(None, None), (0, 3)]
    engine = Engine.from_module(
        network(chosen), (STEPS, np.zeros((3, 1), np.int64)), shapes=[("steps", 2), (1,)], **sizes
    )
    assert ranges(engine) == [(None, None), (0, None)]


def test_are_saved_with_the_engine(tmp_path):
    Engine.from_module(network(embedded), IDS).save(tmp_path)
    assert ranges(Engine.load(tmp_path)) == [(0, 11)]


def test_numbers_of_a_graph_are_those_that_it_takes(tmp_path):
    module = network(embedded).train()
    torch.onnx.export(
        module, (torch.from_numpy(IDS),), tmp_path / "n.onnx", dynamo=False, training=torch.onnx.TrainingMode.TRAINING
    )
    (found,) = ranges(Engine.from_onnx(tmp_path / "n.onnx", IDS))
    assert found == (None, 11)  # as ONNX has it, -1 is the last


TABLE = np.array([[0, 1], [4, 2], [1, 3]])


def columns(self, x):
    """A table for each column, of 5 and of 12 entries."""
    return self.out(self.drop(torch.cat([self.few(x[:, 0]), self.words(x[:, 1])], 1)))


def apart(self, x):
    return self.out(self.drop(self.words(x[:, 1] - x[:, 0])))


def of_floats(self, x):
    return self.out(self.drop(self.words(x[:, 0].long())))


def table(forward, width):
    torch.manual_seed(0)
    parts = {"few": nn.Embedding(5, 8), "words": nn.Embedding(12, 8)}
    return Custom(forward, **parts, drop=nn.Dropout(0.3), out=nn.Linear(width, 3))


@pytest.mark.parametrize("runtime", ["onnx", "torch", "eager"])
@pytest.mark.parametrize("examples", [TABLE, np.array([[0, 11], [4, 0], [1, 3]])], ids=["small", "whole"])
def test_columns_with_tables_of_their_own_take_what_their_own_tables_hold(runtime, examples):
    network = table(columns, 16)
    engine = Engine.from_module(network, examples, "regression", runtime=runtime)
    row = np.array([[4, 11]])
    with torch.no_grad():
        wanted = network.eval()(torch.from_numpy(row)).numpy()
    np.testing.assert_allclose(engine.predict(row, 0).mean, wanted, atol=1e-5)
    for wrong in ([[5, 0]], [[0, 12]], [[-1, 3]], [[0, -1]]):
        with pytest.raises((InvalidInputError, FailedRowsError)):
            engine.predict(np.array(wrong), 4)


@pytest.mark.parametrize("runtime", ["onnx", "torch", "eager"])
@pytest.mark.parametrize(
    ("forward", "examples", "wrong"),
    [
        (apart, np.array([[0, 1], [1, 4], [2, 9]]), np.array([[4, 3]])),
        (of_floats, np.array([[0.0, 1.0], [4.0, 2.0], [11.0, 3.0]], np.float32), np.array([[-1.0, 0.0]], np.float32)),
        (of_floats, np.array([[0.0, 1.0], [4.0, 2.0], [11.0, 3.0]], np.float32), np.array([[12.0, 0.0]], np.float32)),
    ],
    ids=["a difference", "a float below", "a float beyond"],
)
def test_an_index_that_the_network_works_out_is_no_other_to_a_program(runtime, forward, examples, wrong):
    engine = Engine.from_module(table(forward, 8), examples, "regression", runtime=runtime)
    with pytest.raises(FailedRowsError, match="the network fails for these rows"):
        engine.predict(wrong, 4)


def test_lengths_that_must_not_grow_are_tried_by_themselves():
    def forward(self, steps, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(steps, lengths, batch_first=True)
        return self.out(self.drop(self.rnn(packed)[1][-1]))

    engine = Engine.from_module(network(forward), (STEPS, np.array([4, 4, 4])), "regression")
    assert ranges(engine)[1] == (1, 4)
    assert np.isfinite(engine.predict((STEPS[:1], np.array([2])), 4).mean).all()
