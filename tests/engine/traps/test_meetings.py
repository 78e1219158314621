"""Traps of rows that meet where no example shows it: what is padding, rare or extreme in all rows, or in any."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcdropout.engine import Engine, UnsupportedModelError
from mcdropout.engine.pytorch.meetings import rows_meet
from tests.engine.networks import Custom

STEPS, LENGTHS = 7, np.array([2, 7, 1, 4, 7, 3])
THERE = np.arange(STEPS) < LENGTHS[:, None]


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def words(rows, seed=0):
    return np.random.default_rng(seed).integers(4, 50, (rows, STEPS))


def padded(token):
    return words(3), np.where(THERE, words(6, 1), token)


def columns(there):
    """A network without the columns in which nothing is there in any row."""

    def forward(self, ids):
        return self.out(self.drop(self.words(ids[:, there(ids).any(0)].clamp(min=0))).mean(1))

    return forward


def without_steps(there):
    def forward(self, x):
        return self.out(self.drop(self.steps(x[:, there(x).any(0)])).mean(1))

    return forward


@torch.jit.script
def scripted(ids: torch.Tensor) -> torch.Tensor:
    return ids[:, (ids != 3).any(0)]


TRACED = torch.jit.trace(lambda ids: ids[:, (ids != 3).any(0)], torch.ones(2, 3, dtype=torch.long))


def counted(self, ids):
    steps = (ids - 3).count_nonzero(1).max()
    return self.out(self.drop(self.words(ids)).mean(1) * (torch.arange(16) / steps))


def of_size(self, ids):
    steps = torch.isin(ids, torch.tensor([3]), invert=True).any(0).nonzero().shape[0]
    return self.out(self.drop(self.words(ids[:, :steps])).mean(1))


def filled_with_the_mean(self, x):
    there = ~torch.isclose(x, torch.tensor(-999.0))
    mean = (x * there).sum(0) / there.sum(0).clamp(min=1)
    return self.out(self.drop(F.relu(self.first(torch.where(there, x, mean)))))


def leaves_where_all(condition):
    def forward(self, x):
        hidden = self.drop(F.relu(self.first(F.layer_norm(x, (8,)))))
        return (
            self.exit(hidden) if condition(F.cosine_similarity(F.layer_norm(x, (8,)), self.way)) else self.out(hidden)
        )

    return forward


def leaves_where_sure(self, ids):
    hidden = self.drop(self.words(ids).mean(1))
    p = self.exit(hidden).softmax(-1)
    return self.exit(hidden) if -(p * p.log()).sum(-1).max() < 0.9 else self.out(self.drop(hidden))


def another_layer_where_any(condition):
    def forward(self, ids):
        hidden = self.drop(self.words(ids).mean(1))
        return self.out(hidden + self.second(hidden)) if condition(ids) else self.out(hidden)

    return forward


def another_layer_where_one_is_missing(self, x, age):
    hidden = self.drop(F.relu(self.first(x)))
    return self.out(hidden + self.second(hidden)) if (age == -1).any() else self.out(hidden)


def brought_to_one(self, image):
    image = image.float()
    return self.out(self.drop(F.relu(self.first(image / 255 if image.max() > 1 else image))))


def brought_to_the_largest(self, image):
    return self.out(self.drop(F.relu(self.first(image.float() / image.float().amax()))))


def of_words():
    return {**layers(16), "words": nn.Embedding(101, 16)}


def layers(width=8):
    torch.manual_seed(4)
    parts = {"first": (width, 16), "second": (16, 16), "exit": (16, 3), "out": (16, 3), "steps": (4, 16)}
    module = {name: nn.Linear(*sizes) for name, sizes in parts.items()}
    return {**module, "drop": nn.Dropout(0.3), "way": nn.Parameter(torch.randn(8))}


BRIGHT = np.random.default_rng(0).integers(1, 256, (3, 8)).astype(np.uint8)
DARK = np.stack([BRIGHT[0], np.array([0, 1, 0, 0, 1, 1, 0, 1], np.uint8), BRIGHT[2] // 2])
# The forward pass, its parts, examples, and rows as a request brings them.
MEETING = {
    "pad -1 by >= 0": (columns(lambda ids: ids >= 0), of_words, (words(3),), (np.where(THERE, words(6, 1), -1),)),
    "pad 100 by <= 99": (columns(lambda ids: ids <= 99), of_words, *((x,) for x in padded(100))),
    "isin": (columns(lambda ids: ~torch.isin(ids, torch.tensor([3, 2]))), of_words, *((x,) for x in padded(3))),
    "arithmetic": (columns(lambda ids: (ids - 3).bool()), of_words, *((x,) for x in padded(3))),
    "full_like": (columns(lambda ids: ids != torch.full_like(ids, 3)), of_words, *((x,) for x in padded(3))),
    "by keyword": (columns(lambda ids: torch.ne(ids, other=3)), of_words, *((x,) for x in padded(3))),
    "one hot": (columns(lambda ids: F.one_hot(ids, 101)[..., 3] == 0), of_words, *((x,) for x in padded(3))),
    "a table": (columns(lambda ids: (torch.arange(101) != 3)[ids]), of_words, *((x,) for x in padded(3))),
    "scripted": (
        lambda self, ids: columns(lambda x: x >= 0)(self, scripted(ids)),
        of_words,
        *((x,) for x in padded(3)),
    ),
    "traced": (lambda self, ids: columns(lambda x: x >= 0)(self, TRACED(ids)), of_words, *((x,) for x in padded(3))),
    "steps that are close": (
        without_steps(lambda x: ~torch.isclose(x, torch.tensor(-1.0)).all(-1)),
        layers,
        (random(3, STEPS, 4),),
        (np.where(THERE[..., None], random(6, STEPS, 4, seed=1), np.float32(-1)),),
    ),
    "steps by their sum": (
        without_steps(lambda x: x.sum(-1) != -4),
        layers,
        (random(3, STEPS, 4),),
        (np.where(THERE[..., None], random(6, STEPS, 4, seed=1), np.float32(-1)),),
    ),
    "counted": (counted, of_words, *((x,) for x in padded(3))),
    "of a size": (of_size, of_words, *((x,) for x in padded(3))),
    "filled with the mean": (
        filled_with_the_mean,
        layers,
        (random(3, 8),),
        (np.where(random(6, 8, seed=2) > 1, np.float32(-999), random(6, 8, seed=1)),),
    ),
    "leaves where all are like": (
        leaves_where_all(lambda like: (like > 0.8).all()),
        layers,
        (random(3, 8),),
        (np.concatenate([random(2, 8, seed=1), np.repeat(random(1, 8, seed=5), 3, 0)]),),
    ),
    "leaves where one is like": (
        leaves_where_all(lambda like: like.max().item() > 0.4),
        layers,
        (random(3, 8),),
        (random(12, 8, seed=1),),
    ),
    "leaves where all are sure": (leaves_where_sure, of_words, (words(3),), (words(12, 1),)),
    "a token anywhere": (
        another_layer_where_any(lambda ids: 3 in ids),
        of_words,
        (words(3),),
        (np.where(THERE, words(6, 1), 3),),
    ),
    "tokens anywhere": (
        another_layer_where_any(lambda ids: torch.isin(ids, torch.tensor([2, 3])).any()),
        of_words,
        (words(3),),
        (np.where(THERE, words(6, 1), 3),),
    ),
    "one missing": (
        another_layer_where_one_is_missing,
        layers,
        (random(3, 8), np.full(3, 40)),
        (random(4, 8, seed=1), np.array([30, -1, 20, 60])),
    ),
    "brought to 0 to 1": (brought_to_one, layers, (BRIGHT,), (DARK,)),
    "brought to the largest": (
        brought_to_the_largest,
        layers,
        (np.maximum(BRIGHT, 255 * np.eye(3, 8, dtype=np.uint8)),),
        (DARK,),
    ),
}


def one(rows):
    return rows if len(rows) > 1 else rows[0]


@pytest.mark.wide
@pytest.mark.parametrize("case", MEETING)
def test_a_row_is_answered_alone_as_beside_others_and_as_its_network_does(case):
    forward, parts, examples, rows = MEETING[case]
    module = Custom(forward, **parts()).eval()
    engine = Engine.from_module(module, one(examples), task="regression", interval=None)
    with torch.no_grad():
        wanted = [module(*(torch.from_numpy(x[i : i + 1]) for x in rows)) for i in range(len(rows[0]))]
    np.testing.assert_allclose(engine.predict(one(rows), 0).mean, torch.cat(wanted), rtol=1e-4, atol=1e-5)
    together = engine.samples(one(rows), 6, seed=1)
    for i in range(len(rows[0])):
        alone = engine.run(engine.as_inputs(one(tuple(x[i : i + 1] for x in rows))), [1], [i], 6, samples=True).samples
        np.testing.assert_allclose(alone[0], together[:, i], rtol=1e-4, atol=1e-5)


def guarded(self, x):
    if not torch.isfinite(x).all() or (x > 1e9).any():
        raise ValueError("not so large")
    return self.out(self.drop(F.relu(self.first(x))))


def clamped_where_any(self, x):
    hidden = F.relu(self.first(x))
    if (hidden > 60).any():
        hidden = hidden.clamp(max=60)
    return self.out(self.drop(hidden))


def masked_where_any(self, ids):
    there = ids != 3
    hidden = self.words(ids)
    if not there.all():
        hidden = hidden * there.unsqueeze(-1)
    return self.out(self.drop(hidden).sum(1))


def sorted_and_put_back(self, x):
    order = x.sum(1).argsort()
    return self.out(F.relu(self.first(x[order]))[order.argsort()])


HARMLESS = {
    "a check": (guarded, layers, random(3, 8)),
    "a clamp where it is needed": (clamped_where_any, layers, random(3, 8)),
    "a mask where it is needed": (masked_where_any, of_words, words(3)),
    "rows put back": (sorted_and_put_back, layers, random(3, 8)),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_meetings_that_do_no_harm_are_seen_to_do_none(case):
    forward, parts, x = HARMLESS[case]
    module = Custom(forward, **parts()).eval()
    with torch.no_grad():
        assert not rows_meet(lambda inputs: (module(*inputs),), [torch.from_numpy(x)], 1e-5)


def test_a_loop_that_other_numbers_make_endless_ends():
    def run(inputs):
        (x,) = inputs
        while x.max() > 20:
            x = x * 1.0
        return (x,)

    assert not rows_meet(run, [torch.from_numpy(random(3, 4))], 1e-5)


def test_masks_that_fit_only_beside_some_rows_are_a_meeting():
    def run(inputs):
        if (inputs[0] > 0).all():
            raise UnsupportedModelError("no mask fits")
        return (inputs[0] * 2,)

    x = torch.tensor([[1.0], [-1.0], [2.0]])
    assert rows_meet(run, [x], 1e-5)
