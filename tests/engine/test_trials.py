"""Rows unlike the examples: what depends on its neighbours in them is run row by row, whatever the examples hold."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcdropout.engine import Engine, UnsupportedModelError, VerificationError
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.pytorch.module import understand
from mcdropout.engine.trials import steady, varied
from mcdropout.engine.verify import check_program, take_reference
from tests.engine.networks import Custom, mlp
from tests.engine.test_verify import Faulty

STEPS = 7


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def words(rows, seed=0):
    return np.random.default_rng(seed).integers(1, 50, (rows, STEPS))


def masks_of(lengths):
    return (np.arange(STEPS) < np.asarray(lengths)[:, None]).astype(np.int64)


def put_back(rows, order):
    return rows[order.argsort()]


def packed_by_length(self, x, lengths):
    lengths, order = lengths.sort(descending=True)
    packed = nn.utils.rnn.pack_padded_sequence(self.drop(x[order]), lengths.cpu(), batch_first=True)
    return put_back(self.out(self.rnn(packed)[1][-1]), order)


def sorted_by_mask(self, ids, mask):
    order = mask.sum(1).argsort(descending=True, stable=True)
    hidden = self.drop(self.words(ids[order])) * mask[order].unsqueeze(-1)
    return put_back(self.out(hidden.sum(1)), order)


def sorted_by_padding(self, ids):
    return sorted_by_mask(self, ids, (ids != 0).long())


def sorted_by_value(self, x):
    order = x.sum(1).argsort()
    return put_back(self.out(self.drop(F.relu(self.first(x[order])))), order)


def unpadded(self, ids, mask):
    kept = mask.bool()
    hidden = torch.zeros(*ids.shape, 16)
    hidden[kept] = self.drop(self.words(ids[kept]))
    return self.out(hidden.sum(1) / mask.sum(1, keepdim=True))


def ignored(self, ids, mask):
    """A mask of what to leave out, as PyTorch's `key_padding_mask`."""
    return unpadded(self, ids, 1 - mask.long())


def without_steps_of_zeros(self, x):
    kept = x.abs().sum(-1) > 0
    hidden = torch.zeros(*kept.shape, 16)
    hidden[kept] = self.drop(F.relu(self.steps(x[kept])))
    return self.out(hidden.sum(1) / kept.sum(1, keepdim=True))


def trimmed(self, ids, mask):
    steps = int(mask.sum(1).max())
    ids, mask = ids[:, :steps], mask[:, :steps]
    return self.out((self.drop(self.words(ids)) * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True))


def early(share):
    def forward(self, x):
        hidden = self.drop(F.relu(self.first(x)))
        sure = self.exit(hidden).softmax(-1).amax(-1)
        if share(sure) > 0.95:
            return self.exit(hidden)
        return self.out(self.drop(F.relu(self.second(hidden))))

    return forward


def early_rows(self, x):
    hidden = self.drop(F.relu(self.first(x)))
    out = self.exit(hidden).clone()
    unsure = out.softmax(-1).amax(-1) < 0.95
    if unsure.any():
        out[unsure] = self.out(self.drop(F.relu(self.second(hidden[unsure]))))
    return out


def scaled_down(self, x):
    top = x.abs().max()
    return self.out(self.drop(F.relu(self.first(torch.where(top > 20, x / top, x)))))


def masked_mean(self, ids, mask):
    return self.out((self.drop(self.words(ids)) * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True))


def trimmed_at_the_beginning(self, ids, mask):
    skipped = int((1 - mask).sum(1).min())
    return masked_mean(self, ids[:, skipped:], mask[:, skipped:])


def centred_where_there_are_many(self, x):
    return self.out(self.drop(F.relu(self.first(x - x.mean(0) if len(x) > 4 else x))))


def with_a_capacity(self, x):
    """Of the rows, the first four get a second layer: what a layer of experts does that is full."""
    hidden = self.drop(F.relu(self.first(x)))
    return self.out(torch.cat([self.second(hidden[:4]), hidden[4:]]))


def without_empty_rows(self, ids):
    some = (ids != 1).sum(1) > 1
    out = torch.zeros(len(ids), 3)
    out[some] = self.out(self.drop(self.words(ids[some])).sum(1))
    return out


def sorted_by_padding_of_ones(self, ids):
    return sorted_by_mask(self, ids, (ids != 1).long())


def cut_to_the_longest(padding):
    """The longest of a batch, whose code alone knows what padding is: a number is taken out of all rows."""

    def forward(self, ids):
        ids = ids[:, : int((ids != padding).sum(1).max())]
        return self.out(self.drop(self.words(ids)).mean(1))

    return forward


def cut_by_a_tensor(self, ids):
    longest = (ids != 2).sum(1).max()
    return self.out(self.drop(self.words(ids[:, :longest])).mean(1))


def cut_sentences(self, ids):
    ids = ids[:, :, : int((ids != 0).sum(-1).max())]
    return self.out(self.drop(self.words(ids)).mean((1, 2)))


def cut_to_what_is_there(self, x):
    ends = (x != 0).any(0).nonzero().flatten()
    return self.out(self.drop(x[:, : ends.max().item() + 1]).mean(1, keepdim=True).expand(-1, 16))


def mask_as_long_as_the_longest(self, ids):
    lengths = (ids != 1).sum(1)
    there = torch.arange(lengths.max()) < lengths[:, None]
    hidden = self.drop(self.words(ids[:, : there.shape[1]]))
    return self.out(hidden.mean(1))


def without_columns_of_padding(self, ids):
    return self.out(self.drop(self.words(ids[:, (ids != 3).any(0)])).mean(1))


def without_sentences_of_padding(self, ids):
    return self.out(self.drop(self.words(ids[:, ids.gt(3).any(-1).any(0)])).mean((1, 2)))


def joined_again(self, ids):
    """Rows of their own lengths, filled up to the longest."""
    rows = nn.utils.rnn.pad_sequence([row[row != 3] for row in ids], batch_first=True)
    return self.out(self.drop(self.words(rows)).mean(1))


def without_steps_of(number):
    def forward(self, x):
        there = torch.ne(x, number).any(-1).any(0)
        return self.out(self.drop(self.steps(x[:, there])).mean(1))

    return forward


def without_columns_of_zeros(self, x):
    return self.out(self.drop(x[:, (x != 0).any(0)]).mean(1, keepdim=True).expand(-1, 16))


def unpacked(self, ids, **wanted):
    """What a recurrent layer gives for each step; padding is 1, which only this code knows."""
    lengths = (ids != 1).sum(1)
    steps = self.drop(self.words(ids))
    packed = nn.utils.rnn.pack_padded_sequence(steps, lengths.cpu(), batch_first=True, enforce_sorted=False)
    return nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True, **wanted)


def most_of_the_unpacked(self, ids):
    """The zeros beyond a row's end are among them, where another is longer."""
    return self.out(unpacked(self, ids)[0].amax(1))


def dropped_when_unpacked(self, ids):
    hidden, lengths = unpacked(self, ids)
    there = torch.arange(hidden.shape[1]) < lengths[:, None]
    return self.out((self.drop(hidden) * there.unsqueeze(-1)).sum(1))


def mean_of_the_unpacked(self, ids):
    hidden, lengths = unpacked(self, ids)
    return self.out(hidden.sum(1) / lengths[:, None])


def last_of_the_unpacked(self, ids):
    hidden, lengths = unpacked(self, ids)
    return self.out(hidden[torch.arange(len(ids)), lengths - 1])


def unpacked_to_all_steps(self, ids):
    return self.out(self.drop(unpacked(self, ids, total_length=ids.shape[1])[0]).amax(1))


def of_words():
    return {**embedded(), "rnn": nn.GRU(16, 16, batch_first=True)}


def recurrent():
    return {
        "rnn": nn.GRU(4, 16, batch_first=True),
        "steps": nn.Linear(4, 16),
        "drop": nn.Dropout(0.3),
        "out": nn.Linear(16, 3),
    }


def padded_with_ones():
    return {**embedded(), "words": nn.Embedding(50, 16, padding_idx=1)}


def embedded():
    return {"words": nn.Embedding(50, 16), "drop": nn.Dropout(0.3), "out": nn.Linear(16, 3)}


def layered():
    parts = {name: nn.Linear(8 if name == "first" else 16, 16) for name in ("first", "second")}
    return {**parts, "drop": nn.Dropout(0.3), "exit": nn.Linear(16, 3), "out": nn.Linear(16, 3)}


FULL, LENGTHS = np.ones((3, STEPS), np.int64), [2, 7, 1, 4, 7, 3]
SHORT = masks_of(LENGTHS)
THERE = SHORT.astype(np.float32)
SIZES = np.array([1, 60, 0.01, -80, 5, 0], np.float32)[:, None]
ORDINARY = 0.1 * random(3, 8)
# The forward pass, its parts, examples that are alike in what matters, and rows as the first real request brings them.
MIXING = {
    "packed by length": (
        packed_by_length,
        recurrent,
        (random(3, STEPS, 4), np.array([7, 7, 7])),
        (random(6, STEPS, 4, seed=1), np.array(LENGTHS)),
    ),
    "sorted by a mask": (sorted_by_mask, embedded, (words(3), FULL), (words(6, 1), masks_of(LENGTHS))),
    "sorted by padding": (sorted_by_padding, embedded, (words(3),), (words(6, 1) * masks_of(LENGTHS),)),
    "sorted by value": (
        sorted_by_value,
        layered,
        (np.sort(random(3, 8), 0),),
        (random(6, 8, seed=1),),
    ),
    "unpadded": (unpadded, embedded, (words(3), FULL), (words(6, 1), masks_of(LENGTHS))),
    "unpadded by truth": (unpadded, embedded, (words(3), FULL > 0), (words(6, 1), masks_of(LENGTHS) > 0)),
    "unpadded by what is ignored": (ignored, embedded, (words(3), FULL < 1), (words(6, 1), masks_of(LENGTHS) < 1)),
    "unpadded by zeros": (
        without_steps_of_zeros,
        recurrent,
        (random(3, STEPS, 4),),
        (random(6, STEPS, 4, seed=1) * masks_of(LENGTHS)[..., None].astype(np.float32),),
    ),
    "trimmed": (trimmed, embedded, (words(3), FULL), (words(6, 1), masks_of(LENGTHS))),
    "trimmed by a mask of floats": (
        trimmed,
        embedded,
        (words(3), FULL.astype(np.float32)),
        (words(6, 1), masks_of(LENGTHS).astype(np.float32)),
    ),
    "trimmed at the beginning": (
        trimmed_at_the_beginning,
        embedded,
        (words(3), FULL),
        (words(6, 1), masks_of(LENGTHS)[:, ::-1].copy()),
    ),
    "sorted by padding of ones": (
        sorted_by_padding_of_ones,
        padded_with_ones,
        (words(3) + (words(3) == 1),),
        (np.where(masks_of(LENGTHS), words(6, 1), 1),),
    ),
    "without empty rows": (
        without_empty_rows,
        padded_with_ones,
        (words(3) + (words(3) == 1),),
        (np.where(masks_of(LENGTHS), words(6, 1), 1),),
    ),
    "cut where padding is 1": (
        cut_to_the_longest(1),
        embedded,
        (np.maximum(words(3), 2),),
        (np.where(SHORT, np.maximum(words(6, 1), 2), 1),),
    ),
    "cut by a tensor": (
        cut_by_a_tensor,
        embedded,
        (np.maximum(words(3), 3),),
        (np.where(SHORT, np.maximum(words(6, 1), 3), 2),),
    ),
    "cut sentences": (
        cut_sentences,
        embedded,
        (np.stack([words(3), words(3, 2)], 1),),
        (np.stack([words(6, 1) * SHORT, words(6, 3) * SHORT], 1),),
    ),
    "cut to what is there": (cut_to_what_is_there, embedded, (random(3, STEPS),), (random(6, STEPS, seed=1) * THERE,)),
    "a mask as long as the longest": (
        mask_as_long_as_the_longest,
        embedded,
        (np.maximum(words(3), 2),),
        (np.where(SHORT, np.maximum(words(6, 1), 2), 1),),
    ),
    "without columns of padding": (
        without_columns_of_padding,
        embedded,
        (np.maximum(words(3), 4),),
        (np.where(SHORT, np.maximum(words(6, 1), 4), 3),),
    ),
    "without sentences of padding": (
        without_sentences_of_padding,
        embedded,
        (np.stack([words(3, seed) for seed in range(3)], 2).clip(4),),
        (np.where(SHORT[..., None] > 0, np.stack([words(6, seed) for seed in range(3)], 2).clip(4), 3),),
    ),
    "joined again": (joined_again, embedded, (np.maximum(words(3), 4),), (np.where(SHORT, words(6, 1).clip(4), 3),)),
    "without steps of a number": (
        without_steps_of(-1),
        recurrent,
        (random(3, STEPS, 4),),
        (np.where(SHORT[..., None] > 0, random(6, STEPS, 4, seed=1), np.float32(-1)),),
    ),
    "without columns of zeros": (
        without_columns_of_zeros,
        embedded,
        (random(3, STEPS),),
        (random(6, STEPS, seed=1) * THERE,),
    ),
    "the most of what was packed": (
        most_of_the_unpacked,
        of_words,
        (np.maximum(words(3), 2),),
        (np.where(SHORT, np.maximum(words(6, 1), 2), 1),),
    ),
    "dropped when it is unpacked": (
        dropped_when_unpacked,
        of_words,
        (np.maximum(words(3), 2),),
        (np.where(SHORT, np.maximum(words(6, 1), 2), 1),),
    ),
    "centred where there are many": (centred_where_there_are_many, layered, (ORDINARY,), (random(6, 8, seed=1),)),
    "with a capacity": (with_a_capacity, layered, (ORDINARY,), (random(6, 8, seed=1),)),
    "leaves early on the mean": (early(torch.mean), layered, (ORDINARY,), (random(6, 8, seed=1) * SIZES,)),
    "leaves early on the least": (early(torch.min), layered, (ORDINARY,), (random(6, 8, seed=1) * SIZES,)),
    "leaves early on the most": (early(torch.max), layered, (ORDINARY,), (random(6, 8, seed=1) * SIZES,)),
    "leaves early row by row": (early_rows, layered, (ORDINARY,), (random(6, 8, seed=1) * SIZES,)),
    "scaled by the largest of all": (scaled_down, layered, (ORDINARY,), (random(6, 8, seed=1) * SIZES,)),
}


def built(case):
    forward, parts, examples, rows = MIXING[case]
    torch.manual_seed(4)
    module = Custom(forward, **parts()).eval()
    return module, Engine.from_module(module, examples if len(examples) > 1 else examples[0]), rows


def given(rows):
    return rows if len(rows) > 1 else rows[0]


@pytest.mark.wide
@pytest.mark.parametrize("case", MIXING)
def test_a_row_is_answered_alone_as_beside_rows_that_the_examples_do_not_hold(case):
    _, engine, rows = built(case)
    count = len(rows[0])
    for number in range(4):
        masks = MaskSource(engine.sites).draw([3] * count, range(count), number, 1)
        together = engine.outputs(given(rows), masks)[0]
        for row in range(count):
            own = slice(row, row + 1)
            alone = engine.outputs(given(tuple(x[own] for x in rows)), [mask[own] for mask in masks])[0]
            np.testing.assert_allclose(together[own], alone, atol=1e-5)


@pytest.mark.wide
@pytest.mark.parametrize("case", MIXING)
def test_the_baseline_of_such_a_row_is_the_network_on_it_alone(case):
    module, engine, rows = built(case)
    found = engine.predict(given(rows), passes=0).mean
    with torch.no_grad():
        wanted = torch.cat([module(*(torch.from_numpy(x[row : row + 1]) for x in rows)) for row in range(len(rows[0]))])
    np.testing.assert_allclose(found, wanted.softmax(-1), atol=1e-5)


MIXED_BY_THE_EXAMPLES = ["leaves early on the mean", "leaves early on the least", "scaled by the largest of all"]


@pytest.mark.parametrize("case", MIXED_BY_THE_EXAMPLES)
def test_rows_that_mix_in_the_examples_with_nothing_dropped_are_refused(case):
    module, _, rows = built(case)
    with pytest.raises((VerificationError, UnsupportedModelError), match=r"rows beside it|drop#1 makes a random call"):
        Engine.from_module(module, given(tuple(x[:3] for x in rows)))


@pytest.mark.wide
@pytest.mark.parametrize("case", [case for case in MIXING if case not in MIXED_BY_THE_EXAMPLES])
def test_it_does_not_matter_whether_the_examples_are_alike(case):
    module, engine, rows = built(case)
    found = Engine.from_module(module, given(tuple(x[:3] for x in rows)))
    np.testing.assert_allclose(found.samples(given(rows), 5, seed=1), engine.samples(given(rows), 5, seed=1), atol=1e-5)


def cut(rounded, padding=0):
    """A forward pass that cuts all rows to as many steps as it makes of the longest."""

    def by_padding(self, ids):
        return by_lengths(self, ids, (ids != padding).sum(1))

    def by_lengths(self, ids, lengths):
        ids = ids[:, : rounded(int(lengths.max()))]
        return self.out((self.drop(self.words(ids)) * (ids != padding)[..., None]).sum(1))

    return by_padding, by_lengths


def cut_steps(padding):
    def forward(self, x):
        there = (x != padding).any(-1)
        x = x[:, : int(there.sum(1).max())]
        return self.out((self.drop(F.relu(self.steps(x))) * there[:, : x.shape[1], None]).sum(1))

    return forward


CUTS = {
    "the longest": lambda longest: longest,
    "a multiple": lambda longest: (longest + 2) // 3 * 3,
    "at least some": lambda longest: max(4, longest),
    "a power of two": lambda longest: 1 << (longest - 1).bit_length(),
}


def answers_longer_rows(module, inputs):
    """Whether examples that are all short say as much as long ones; `inputs` makes rows of their lengths."""
    engine, wanted = (Engine.from_module(module, inputs(0, lengths)) for lengths in ([2, 4, 1], [7, 7, 7]))
    long = inputs(1, [7, 2, 6])
    np.testing.assert_allclose(engine.samples(long, 5, seed=1), wanted.samples(long, 5, seed=1), atol=1e-6)


@pytest.mark.wide
@pytest.mark.parametrize("padding", [0, 1, 49])
@pytest.mark.parametrize("rounded", CUTS)
def test_rows_that_are_longer_than_all_examples_are_answered(rounded, padding):
    torch.manual_seed(4)
    module = Custom(cut(CUTS[rounded], padding)[0], **embedded()).eval()
    answers_longer_rows(
        module, lambda seed, lengths: np.where(masks_of(lengths), np.clip(words(3, seed), 2, 48), padding)
    )


@pytest.mark.wide
@pytest.mark.parametrize("rounded", CUTS)
def test_rows_that_are_longer_than_all_examples_are_answered_where_lengths_say_so(rounded):
    torch.manual_seed(4)
    module = Custom(cut(CUTS[rounded])[1], **embedded()).eval()
    answers_longer_rows(module, lambda seed, lengths: (words(3, seed) * masks_of(lengths), np.array(lengths)))


@pytest.mark.parametrize("padding", [0.0, -1.0, 1.0])
def test_rows_of_more_steps_than_all_examples_are_answered(padding):
    torch.manual_seed(4)
    module = Custom(cut_steps(padding), **recurrent()).eval()

    def inputs(seed, lengths):
        there = masks_of(lengths)[..., None] > 0
        return np.where(there, random(3, STEPS, 4, seed=seed), np.float32(padding))

    answers_longer_rows(module, inputs)


def test_a_row_that_draws_more_than_the_examples_is_refused_with_how_much():
    """Where nothing in the examples shows what padding is."""
    torch.manual_seed(4)

    def forward(self, ids):
        ids = ids[:, : int(torch.isin(ids, torch.tensor([7, 8]), invert=True).sum(1).max())]
        return self.out(self.drop(self.words(ids)).mean(1))

    ids = np.clip(words(3), 9, 49)
    engine = Engine.from_module(Custom(forward, **embedded()).eval(), np.where(masks_of([4, 4, 4]), ids, 7))
    with pytest.raises(UnsupportedModelError, match=r"draws \[3, 7, 16\] for these rows, where \[3, 4, 16\]"):
        engine.predict(ids, 3)


@pytest.mark.parametrize("case", ["unpadded", "leaves early row by row"])
def test_the_variance_of_such_a_row_is_that_of_the_plain_loop(case):
    """4000 passes of each. Bound of 5 standard deviations of the mean: false alarms 6e-7 a value."""
    module, engine, rows = built(case)
    row, passes = tuple(x[:1] for x in rows), 4000
    found = engine.predict(given(row), passes=passes, seed=2)
    module.train()
    torch.manual_seed(1)
    with torch.no_grad():
        loop = torch.cat([module(*map(torch.from_numpy, row)) for _ in range(passes)]).softmax(-1)
    spread = np.sqrt((found.variance[0] + loop.var(0).numpy()) / passes)
    assert (np.abs(found.mean[0] - loop.mean(0).numpy()) < 5 * spread + 1e-9).all()
    np.testing.assert_allclose(found.variance[0], loop.var(0), rtol=0.2, atol=1e-6)


def packed_unsorted(self, x, lengths):
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
    return self.out(self.drop(self.rnn(packed)[1][-1]))


def bounded(self, ids):
    assert (ids != 0).sum(1).max().item() <= 2 * STEPS
    return self.out(self.drop(self.words(ids)).mean(1))


def strict(self, x, lengths):
    """Takes rows in falling order of their lengths only, and small numbers."""
    if lengths.diff().gt(0).any() or x.abs().max() > 50:
        raise ValueError("not so")
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True)
    return self.out(self.drop(self.rnn(packed)[1][-1]))


def rounded(self, x):
    return self.out(self.drop(torch.round(9 * self.first(x))))


def waves(self, x):
    return self.out(self.drop(torch.sin(30 * self.second(torch.sin(30 * self.first(x))))))


def sparse_code(self, x):
    hidden = F.relu(self.first(x))
    best = hidden.topk(4, -1).indices
    return self.out(self.drop(torch.zeros_like(hidden).scatter(1, best, hidden.gather(1, best))))


def exploding(self, x):
    return self.out(self.drop(torch.exp(self.first(x))))


RIGHT = {
    "a masked mean": (masked_mean, embedded, (words(3), FULL), "split"),
    "rounding": (rounded, layered, (ORDINARY,), "split"),
    "chaos": (waves, layered, (ORDINARY,), "split"),
    "the largest few": (sparse_code, layered, (ORDINARY,), "split"),
    "exponentials": (exploding, layered, (ORDINARY,), "split"),
    "sequences packed in any order": (packed_unsorted, recurrent, (random(3, 7, 4), np.array([7, 7, 7])), "whole"),
    "a mean of what was packed": (mean_of_the_unpacked, of_words, (np.maximum(words(3), 2),), "whole"),
    "the last of what was packed": (last_of_the_unpacked, of_words, (np.maximum(words(3), 2),), "whole"),
    "unpacked to all steps": (unpacked_to_all_steps, of_words, (np.maximum(words(3), 2),), "whole"),
    "a number that is only compared": (bounded, embedded, (words(3),), "whole"),
    "a network that takes few rows": (strict, recurrent, (random(3, 7, 4), np.array([7, 7, 7])), "whole"),
}


@pytest.mark.wide
@pytest.mark.parametrize("case", RIGHT)
def test_a_network_that_answers_each_row_by_itself_is_run_as_before(case):
    forward, parts, examples, strategy = RIGHT[case]
    torch.manual_seed(4)
    program = Engine.from_module(Custom(forward, **parts()), given(examples)).program
    assert program.strategy == strategy
    assert "influence one another" not in (program.reason or "")


def test_dropout_that_the_examples_do_not_show_is_refused_for_a_row_alone_as_beside_others():
    def forward(self, x):
        hidden = self.drop(F.relu(self.first(x)))
        return self.exit(F.dropout(hidden, 0.1, self.training)) if (x.abs() > 30).all() else self.out(hidden)

    engine = Engine.from_module(Custom(forward, **layered()), ORDINARY)
    for x in (np.full((1, 8), 99, np.float32), np.concatenate([ORDINARY, np.full((1, 8), 99, np.float32)])):
        with pytest.raises(UnsupportedModelError, match="not made when sites were looked for"):
            engine.predict(x, 5)


@pytest.mark.parametrize("fault", ["order", "size"])
def test_a_program_that_holds_for_the_examples_only_does_not_serve(fault):
    subject = understand(mlp(), 0.1 * random(3, 4))
    reference = take_reference(subject.eager, subject.source, subject.arrays, subject.eval_outputs(), subject.tolerance)

    class Specialized(Faulty):
        def prefix(self, inputs):
            x = inputs[0]
            is_other = np.abs(x).max() > 2 if fault == "size" else len(x) == 3 and x[0, 0] == subject.arrays[0][2, 0]
            return super().prefix((x + 1.0 if is_other else x,))

    served = Specialized(subject.eager, lambda call, outputs, again: outputs)
    check_program(served, served, subject.source, reference)
    with pytest.raises(VerificationError, match=r"with rows (in another order|of very different sizes): difference"):
        check_program(served, served, subject.source, reference, subject.trials)


def test_a_bound_is_not_taken_for_padding_so_that_code_which_waits_beyond_it_does_not():
    def forward(self, x):
        while x.max() > 1e6:
            pass
        return self.out(self.drop(F.relu(self.first(x))))

    assert Engine.from_module(Custom(forward, **layered()), ORDINARY).program.strategy == "whole"


class TestVariants:
    def of(self, *arrays):
        return {variant.name: variant.inputs for variant in varied(arrays)}

    def test_lengths_are_from_one_to_the_largest_seen(self):
        found = self.of(random(3, STEPS, 4), np.array([6, 6, 6]))
        lengths = [inputs[1].tolist() for name, inputs in found.items() if name.startswith("lengths that")]
        assert lengths == [[6, 4, 1], [1, 4, 6], [5, 1, 4]] or all(
            min(each) >= 1 and max(each) <= 6 and len(set(each)) == 3 for each in lengths
        )
        assert len(lengths) == 3

    def test_rows_of_a_mask_end_at_different_places_and_none_is_empty(self):
        for name, (_, mask) in self.of(words(3), FULL).items():
            if "beginning" in name:
                mask = mask[:, ::-1]
            assert set(np.unique(mask)) <= {0, 1}
            assert (mask[:, 0] == 1).all()
            assert (np.diff(mask) <= 0).all()
            if name.startswith("masks"):
                assert len({*mask.sum(1).tolist()}) == 3

    def test_what_is_a_class_or_a_token_is_none_that_was_not_seen(self):
        for (ids,) in self.of(words(3)).values():
            assert ids.min() >= 0
            assert ids.max() <= words(3).max()

    def test_no_variant_is_the_examples_or_another(self):
        found = [(*map(bytes, inputs),) for inputs in self.of(random(3, 4)).values()]
        assert len({*found}) == len(found) > 3
        assert (*map(bytes, (random(3, 4),)),) not in found
        assert list(self.of(np.ones((3, 1), np.int64))) == ["more rows"]

    def test_examples_keep_their_dtype_and_shape(self):
        arrays = random(3, 2, 5), words(3), FULL > 0, np.array([3, 3, 3], np.int32), np.zeros((3, 4), np.float64)
        for inputs in self.of(*arrays).values():
            assert [(x.dtype, x.shape[1:]) for x in inputs] == [(x.dtype, x.shape[1:]) for x in arrays]


class TestSteady:
    X = (random(3, 4),)

    def is_steady(self, run):
        return steady(run, self.X, (self.X[0],), 1e-4)

    def test_an_ordinary_network_is(self):
        assert self.is_steady(lambda inputs: (np.tanh(3 * inputs[0]),))

    def test_one_that_raises_or_is_not_finite_or_of_another_shape_is_not(self):
        assert not self.is_steady(lambda inputs: 1 / 0)
        assert not self.is_steady(lambda inputs: (inputs[0] * np.nan,))
        assert not self.is_steady(lambda inputs: (inputs[0][:, :2],))

    def test_one_whose_answers_are_made_by_rounding_is_not(self):
        assert not self.is_steady(lambda inputs: (np.sin(1e6 * inputs[0]),))


def chosen_by_two_experts(self, x):
    weights, chosen = self.gate(x).softmax(1).topk(2, 1)
    out = torch.zeros(len(x), 3)
    for number, expert in enumerate(self.experts):
        rows, places = torch.where(chosen == number)
        if len(rows):
            out = out.index_add(0, rows, expert(x[rows]) * weights[rows, places, None])
    return out


@pytest.mark.parametrize("examples", [1, 3, 8])
def test_experts_that_the_examples_do_not_reach_have_masks_too(examples):
    torch.manual_seed(1)
    experts = nn.ModuleList(nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.3), nn.Linear(8, 3)) for _ in range(4))
    module = Custom(chosen_by_two_experts, gate=nn.Linear(6, 4), experts=experts).eval()
    engine = Engine.from_module(module, random(examples, 6, seed=5))
    paths = [site.path for site in engine.sites]
    assert sorted(paths) == [f"experts.{number}.1" for number in range(4)]
    x, masks = random(40, 6, seed=6), MaskSource(engine.sites).draw([1] * 40, range(40), 0, 1)
    (found,) = engine.outputs(x, masks)
    for row in range(40):
        for number, expert in enumerate(experts):
            own = torch.from_numpy(masks[paths.index(f"experts.{number}.1")][row])
            expert[1].forward = partial(torch.mul, own)
        np.testing.assert_allclose(found[row], module(torch.from_numpy(x[row : row + 1]))[0].detach(), atol=1e-5)


def test_dropout_whose_p_follows_the_rows_is_refused():
    def forward(self, x):
        return self.out(F.dropout(F.relu(self.first(x)), float(x.abs().mean().clamp(0.1, 0.9)), self.training))

    with pytest.raises(UnsupportedModelError, match="calls depend neither on its inputs' values nor on draws"):
        Engine.from_module(Custom(forward, **layered()), 0.3 * random(3, 8))


@pytest.mark.parametrize("step", [0.05, 0.01])
def test_dropout_whose_p_grows_from_pass_to_pass_is_refused(step):
    def forward(self, x):
        if self.training:
            self.passes += 1
            self.drop.p = min(0.5, step * self.passes)
        return self.out(self.drop(F.relu(self.first(x))))

    module = Custom(forward, **layered())
    module.passes, module.drop.p = 0, 0.0
    with pytest.raises(
        UnsupportedModelError, match=rf"drop drops with p {step} in a first pass and {2 * step} in a sec"
    ):
        Engine.from_module(module, random(3, 8))
