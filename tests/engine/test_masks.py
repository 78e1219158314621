"""Masks: the documented mapping from (seed, row, pass, site, unit), and what makes its numbers usable."""

import hashlib
import math
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mcdropout.engine import masks as masks_module
from mcdropout.engine.masks import MAX_SEED, PASS_ROW, MaskSource, bits_of
from mcdropout.engine.native import library
from mcdropout.engine.native.masks import philox_words
from mcdropout.engine.sites import Site


def site(p, units, scope="row", kind="element"):
    shape = units if isinstance(units, tuple) else (units,)
    return Site("drop", 0, kind, p, scope, shape, 0 if scope == "row" else None)


def draw_one(p, units, seed=0, row=0, first=0, passes=1):
    return MaskSource([site(p, units)]).draw([seed], [row], first, passes)[0]


def without_extension(monkeypatch, extension):
    """Draw with the C extension, or as without it."""
    if extension and not library.available():
        pytest.skip("the C extension was not built")
    monkeypatch.setattr(library, "available", lambda: extension)


GOLDEN = {
    0.5: ("1110100000110010", "dc28e73dc69cc522024735bc66eb9939081c9aafefd2e726e10a21573156abdf"),
    0.25: ("1111110000111101", "0b385e04768bd86bbc51b1631397bb4bdd8ba34db39d0277d529a5f830ce7982"),
    0.1: ("1011111111111111", "9e280d14c9cc0615e9109637d612faea3b12e4a305f9b7ac4cf74e8791d18a34"),
}


@pytest.mark.parametrize("p", GOLDEN)
def test_a_mask_never_changes_from_one_release_to_the_next(p):
    mask = draw_one(p, 100, seed=2016, row=3, first=5, passes=2)
    first, digest = GOLDEN[p]
    assert "".join("1" if value else "0" for value in mask[0, :16]) == first
    assert hashlib.sha256(mask.astype("<f4").tobytes()).hexdigest() == digest


def philox(counter, key):
    """Philox4x64-10 as Salmon et al. 2011 define it, in whole numbers."""
    (c0, c1, c2, c3), (k0, k1), mask = counter, key, 2**64 - 1
    for _ in range(10):
        left, right = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (right >> 64) ^ c1 ^ k0, right & mask, (left >> 64) ^ c3 ^ k1, left & mask
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & mask, (k1 + 0xBB67AE8584CAA73B) & mask
    return c0, c1, c2, c3


def test_the_reference_generator_gives_the_known_answers_of_random123():
    assert philox((0, 0, 0, 0), (0, 0)) == (
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    )


def told_to_a_thousandth(p, bits):
    told = Fraction(round(Fraction(p) * 2**bits), 2**bits)
    return abs(told - Fraction(p)) <= min(Fraction(p), 1 - Fraction(p)) / 1000


def kept_as_documented(sites, index, seed, row, number, fixed=None):
    """Which units the docstring of `masks.py` says are kept, worked out one number at a time."""
    places, word = {}, 0
    for position, each in enumerate(sites):
        if each.scope != sites[index].scope:
            continue
        bits = 1 if each.p * 2 == int(each.p * 2) else 8 if each.p * 256 == int(each.p * 256) else None
        bits = fixed or bits or next((b for b in (16, 32) if told_to_a_thousandth(each.p, b)), 64)
        places[position] = (word, bits)
        word += math.ceil(each.units * bits / 64)
    stride = math.ceil(word / 4) * 4
    start, bits = places[index]
    key = (seed, PASS_ROW if sites[index].scope == "pass" else row)
    kept = []
    for unit in range(sites[index].units):
        bit = unit * bits
        place = number * stride + start + bit // 64
        words = philox(((place // 4 + 1), 0, 0, 0), key)
        value = (words[place % 4] >> (bit % 64)) % 2**bits
        kept.append(value >= round(sites[index].p * 2**bits))
    return kept


MIXED = [
    site(0.5, 70),
    site(0.25, 13),
    site(0.5, (3, 50), scope="pass"),
    site(0.1, (2, 5)),
    site(0.9, 9, scope="pass"),
    site(0.3, 7, kind="alpha"),
    site(0.5, 1),
    site(0.001, 11),
    site(1 - 1e-4, 5),
    site(1e-9, 9),
    site(1 - 1e-10, (2, 3), kind="alpha"),
    site(3e-5, 21, scope="pass"),
    site(2e-20, 3, kind="bernoulli"),
]


@pytest.mark.parametrize(("seed", "row", "number"), [(0, 0, 0), (1, 2, 3), (2016, 31, 999), (MAX_SEED, 5, 1)])
def test_the_masks_follow_the_documented_mapping(seed, row, number):
    masks = MaskSource(MIXED).draw([seed], [row], number, 1)
    for index, each in enumerate(MIXED):
        factor = masks[index] if each.scope == "pass" else masks[index][0]
        factor = factor[0] if each.shifted else factor
        assert (factor.ravel() > 0).tolist() == kept_as_documented(MIXED, index, seed, row, number)


def test_a_mask_of_a_small_p_never_changes_either():
    mask = draw_one(2e-4, 10_000, seed=2016, row=3, first=5, passes=2)
    assert np.argwhere(mask == 0.0).tolist() == [[0, 339], [0, 2880], [0, 8990]]


@pytest.mark.parametrize("extension", [True, False])
@pytest.mark.parametrize("bits", [32, 64])
def test_all_bits_of_a_unit_count(bits, extension, monkeypatch):
    """Of p in the middle, where a comparison of a part of them, or with a sign, would show."""
    without_extension(monkeypatch, extension)
    monkeypatch.setattr(masks_module, "bits_of", lambda p: bits)
    sites = [site(0.3, 40), site(0.5, (3, 5), scope="pass"), site(0.8, 7, kind="alpha"), site(1.0, 3), site(0.7, 400)]
    drawn = MaskSource(sites).draw([3], [1], 2, 1)
    for index, each in enumerate(sites):
        kept = drawn[index] if each.scope == "pass" else drawn[index][0]
        kept = kept[0] if each.shifted else kept
        assert (kept.ravel() > 0).tolist() == kept_as_documented(sites, index, 3, 1, 2, bits)


@pytest.mark.parametrize("extension", [True, False])
@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9, 1e-3, 2e-4, 2e-5, 7e-6, 1 - 2e-5])
def test_units_are_dropped_as_often_as_p_says(p, extension, monkeypatch):
    """At least 400 units are expected to be dropped, and as many kept. Binomial bound of 4 standard deviations: false
    alarms 6e-5 a probability, some more for the least of them."""
    without_extension(monkeypatch, extension)
    size = max(3e5, 400 / min(p, 1 - p))
    dropped = drawn = 0
    for row in range(math.ceil(size / 2e6)):  # a piece at a time, for its memory's sake
        mask = draw_one(p, 2000, seed=7, row=row, passes=math.ceil(min(size, 2e6) / 2000))
        dropped, drawn = dropped + int((mask == 0.0).sum()), drawn + mask.size
    assert abs(dropped - drawn * p) < 4.0 * math.sqrt(drawn * p * (1.0 - p))


@pytest.mark.parametrize("p", [0.1, 0.3, 1 / 3, 0.01, 0.999, 1e-3, 1e-4, 2e-5, 1e-6, 1e-9, 1e-13, 1 - 1e-7, 1 - 2**-53])
def test_a_unit_takes_the_bits_that_tell_p_and_what_is_left_to_a_thousandth(p):
    bits = bits_of(p)
    told = Fraction(round(p * 2**bits), 2**bits)
    assert abs(told - Fraction(p)) <= min(Fraction(p), 1 - Fraction(p)) / 1000
    assert bits == 16 or not told_to_a_thousandth(p, bits // 2)


@pytest.mark.parametrize("p", [0.5, 0.25, 0.05, 0.1, 0.2, 0.3, 0.9, 0.95, 0.01, 0.02])
def test_an_ordinary_p_takes_no_more_bits_than_it_did(p):
    assert bits_of(p) <= 16


@pytest.mark.parametrize("p", [1e-17, 1e-25, 5e-324])
def test_a_p_that_64_bits_do_not_tell_is_drawn_without_a_unit_dropped(p):
    assert (draw_one(p, 5000, passes=20) == 1.0).all()


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
def test_a_kept_unit_is_scaled_so_that_the_mean_stays(p):
    mask = draw_one(p, 1000)
    assert set(np.unique(mask)) == {np.float32(0.0), np.float32(1.0 / (1.0 - p))}


def assert_uncorrelated(masks, p):
    """Every two of `masks`, `[masks, units]`, agree as often as independent ones do.

    Of k masks, the largest of k(k-1)/2 correlations is bounded by 6 standard deviations (false alarms below 2e-9 a
    pair), and the sum of their squares by 5 of its own (chi-square, false alarms below 1e-5).
    """
    count, units = masks.shape
    standardized = ((masks > 0) - (1.0 - p)) / math.sqrt(p * (1.0 - p))
    z = (standardized @ standardized.T / math.sqrt(units))[np.triu_indices(count, 1)]
    assert np.abs(z).max() < 6.0
    assert abs((z**2).sum() - len(z)) < 5.0 * math.sqrt(2.0 * len(z))


@pytest.mark.parametrize("p", [0.5, 0.25, 0.1])
class TestMasksAreIndependent:
    """False-alarm rate: that of `assert_uncorrelated`, for each of the fifteen cases."""

    def test_across_rows(self, p):
        masks = MaskSource([site(p, 4000)]).draw([11] * 40, range(40), 0, 1)[0]
        assert_uncorrelated(masks, p)

    def test_across_passes(self, p):
        assert_uncorrelated(draw_one(p, 4000, seed=11, passes=40), p)

    def test_across_neighbouring_seeds(self, p):
        masks = MaskSource([site(p, 4000)]).draw(range(40), [0] * 40, 0, 1)[0]
        assert_uncorrelated(masks, p)

    def test_across_sites(self, p):
        masks = MaskSource([site(p, 4000)] * 40).draw([11], [0], 0, 1)
        assert_uncorrelated(np.concatenate(masks), p)

    def test_across_units(self, p):
        assert_uncorrelated(draw_one(p, 200, seed=11, passes=4000).T, p)


def test_seed_and_row_do_not_stand_for_one_another():
    """Correlation of 4000 units within 5 standard deviations: false alarms 6e-7."""
    one, other = draw_one(0.5, 4000, seed=3, row=4), draw_one(0.5, 4000, seed=4, row=3)
    assert abs(((one - 1.0) * (other - 1.0)).mean()) < 5.0 / math.sqrt(4000)


def assert_equal_masks(found, wanted):
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


ROW_SITES = [each for each in MIXED if each.scope == "row"]


def test_a_mask_does_not_depend_on_the_rows_beside_it():
    source = MaskSource(ROW_SITES)
    seeds, rows = [9, 9, 4, MAX_SEED], [0, 5, 0, 2]
    together = source.draw(seeds, rows, 3, 7)
    for position, (seed, row) in enumerate(zip(seeds, rows, strict=True)):
        alone = source.draw([seed], [row], 3, 7)
        assert_equal_masks([mask[position * 7 : position * 7 + 7] for mask in together], alone)


def test_a_mask_does_not_depend_on_how_passes_are_cut_into_steps():
    source = MaskSource(ROW_SITES)
    whole = source.draw([9], [1], 0, 20)
    steps = [source.draw([9], [1], first, size) for first, size in ((0, 1), (1, 6), (7, 13))]
    assert_equal_masks([np.concatenate(parts) for parts in zip(*steps, strict=True)], whole)


@pytest.mark.parametrize("extension", [True, False])
def test_rows_that_are_at_different_passes_are_drawn_together(extension, monkeypatch):
    without_extension(monkeypatch, extension)
    source = MaskSource([site(0.1, 3000), site(0.5, 40), site(0.25, (3, 7)), site(0.3, 9, kind="alpha")])
    seeds, rows, firsts, passes = [1, 2, 2, 2, 5], [0, 3, 4, 0, 1], [5, 0, 0, 0, 17], [6, 2, 2, 1, 300]
    together = source.draw(seeds, rows, firsts, passes)
    apart = [source.draw([one[0]], [one[1]], *one[2:]) for one in zip(seeds, rows, firsts, passes, strict=True)]
    for number, mask in enumerate(together):
        np.testing.assert_array_equal(mask, np.concatenate([masks[number] for masks in apart]))


def test_drawing_over_the_last_masks_gives_the_same_and_leaves_others_alone():
    source = MaskSource([site(0.5, 40), site(0.25, (3, 7))])
    kept = source.draw([1], [0], 0, 9)
    for passes in (9, 4, 30):
        before = source.draw([1], [0], 2, passes, overwrite=True)
        again = source.draw([1], [0], 2, passes, overwrite=True)
        for mask, other, fresh in zip(again, before, source.draw([1], [0], 2, passes), strict=True):
            np.testing.assert_array_equal(mask, fresh)
            assert np.shares_memory(mask, other)
            assert not np.shares_memory(mask, fresh)
    for mask, other in zip(kept, source.draw([1], [0], 0, 9), strict=True):
        np.testing.assert_array_equal(mask, other)


def test_a_mask_does_not_depend_on_the_threads_that_draw_it():
    source = MaskSource([site(0.5, 5000), site(0.1, 5000)])
    seeds, rows = [1] * 12, list(range(12))
    together = source.draw(seeds, rows, 0, 40)  # far above what one thread draws alone
    with ThreadPoolExecutor(8) as callers:
        alone = list(callers.map(lambda row: source.draw([1], [row], 0, 40), rows))
    assert_equal_masks([np.concatenate(parts) for parts in zip(*alone, strict=True)], together)


@pytest.mark.parametrize("kind", ["alpha", "feature_alpha"])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.75])
def test_alpha_dropout_gives_the_values_that_pytorch_gives(kind, p):
    torch.manual_seed(0)
    x = torch.full((64, 64), 2.0)
    function = {"alpha": F.alpha_dropout, "feature_alpha": F.feature_alpha_dropout}[kind]
    dropped, kept = torch.unique(function(x, p, training=True)).tolist()
    factor, summand = MaskSource([site(p, 400, kind=kind)]).draw([1], [0], 0, 1)[0][0]
    values = np.unique((2.0 * factor + summand).round(5))
    np.testing.assert_allclose(values, [dropped, kept], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["element", "alpha"])
def test_with_p_of_1_everything_is_dropped_as_in_pytorch(kind):
    mask = MaskSource([site(1.0, 50, kind=kind)]).draw([1], [0], 0, 3)[0]
    assert not mask.any()
    function = F.dropout if kind == "element" else F.alpha_dropout
    assert not function(torch.ones(50), 1.0, training=True).any()


def test_keep_everything_neither_drops_nor_scales_nor_shifts():
    plain, shifted, shared = MaskSource(
        [site(0.5, 3), site(0.5, 3, kind="alpha"), site(0.5, 3, "pass")]
    ).keep_everything(2)
    np.testing.assert_array_equal(plain, np.ones((2, 3)))
    np.testing.assert_array_equal(shifted, [[[1, 1, 1], [0, 0, 0]]] * 2)
    np.testing.assert_array_equal(shared, np.ones(3))


class TestAMaskWithoutARowDimension:
    source = MaskSource([site(0.5, 10), site(0.5, (40, 10), scope="pass")])

    def test_serves_every_row_of_a_pass(self):
        together = self.source.draw([5, 5, 5], [0, 1, 2], 4, 1)[1]
        assert together.shape == (40, 10)
        for row in range(3):
            np.testing.assert_array_equal(self.source.draw([5], [row], 4, 1)[1], together)

    def test_differs_between_passes_and_between_seeds(self):
        masks = [self.source.draw([seed], [0], number, 1)[1] for seed, number in ((5, 0), (5, 1), (6, 0))]
        assert_uncorrelated(np.stack([mask.ravel() for mask in masks]), 0.5)

    def test_is_not_the_mask_of_any_row(self):
        shared = self.source.draw([5], [0], 0, 1)[1].ravel()
        rows = MaskSource([site(0.5, 400)]).draw([5] * 20, range(20), 0, 1)[0]
        assert not (rows == shared).all(axis=1).any()

    def test_cannot_be_drawn_for_several_passes_or_requests_at_once(self):
        assert not self.source.shares_rows
        assert MaskSource([site(0.5, 10)]).shares_rows
        with pytest.raises(ValueError, match="one pass at a time"):
            self.source.draw([5], [0], 0, 2)
        with pytest.raises(ValueError, match="one request at a time"):
            self.source.draw([5, 6], [0, 0], 0, 1)

    def test_is_the_same_whether_passes_are_drawn_together_or_alone(self):
        large = MaskSource([site(0.1, 10), site(0.1, (400, 300), scope="pass"), site(0.5, (40, 9), scope="pass")])
        for source in (self.source, large):
            for number, together in enumerate(source.draw_each([5, 5], [0, 1], 3, 4)):
                for alone, mask in zip(source.draw([5, 5], [0, 1], 3 + number, 1), together, strict=True):
                    np.testing.assert_array_equal(alone, mask)


@pytest.mark.skipif(not library.available(), reason="the C extension was not built")
@pytest.mark.parametrize(("block", "count"), [(0, 1), (0, 4), (3, 5), (10**6, 11), (2**64 - 2, 2)])
def test_the_words_of_the_c_extension_are_those_of_numpy(block, count):
    keys = np.array([[2**63 + 5, 17], [3, 2**64 - 1], [0, 0]], np.uint64)
    for key, words in zip(keys, philox_words(keys, block, count), strict=True):
        generator = np.random.Philox(counter=np.array([block, 0, 0, 0], np.uint64), key=key)
        np.testing.assert_array_equal(words, generator.random_raw(4 * count))


def test_masks_are_the_same_without_the_c_extension(monkeypatch):
    probabilities, kinds = (0.1, 0.5, 0.25, 1.0, 1e-3, 1 - 1e-3, 1e-9, 1 - 1e-9, 0.4 + 2**-40), ("element", "alpha")
    many = [site(p, units, kind=kind) for p in probabilities for units in (3000, 7) for kind in kinds]
    source = MaskSource([*many, site(0.5, 40_000), site(0.1, 9_001)])
    drawn = source.draw([1, 2], [0, 3], 5, 6)
    monkeypatch.setattr(library, "available", lambda: False)
    for mask, other in zip(source.draw([1, 2], [0, 3], 5, 6), drawn, strict=True):
        np.testing.assert_array_equal(mask, other)


@pytest.mark.skipif(not library.available(), reason="the C extension was not built")
def test_numbers_are_the_same_without_the_c_extension(monkeypatch):
    """Uniform ones to the bit, normal ones to the last digit: logarithms and sines may be rounded otherwise."""
    raw = [site(None, units, kind=kind) for units in (3000, 7, 1, (5, 3)) for kind in ("uniform", "normal")]
    source = MaskSource([site(0.3, 5), *raw, site(0.5, 70, kind="alpha")])
    drawn = source.draw([1, 2], [0, 3], 5, [60, 41])
    monkeypatch.setattr(library, "available", lambda: False)
    for each, mask, other in zip(source.sites, drawn, source.draw([1, 2], [0, 3], 5, [60, 41]), strict=True):
        assert len(np.unique(mask)) > 1
        if each.kind == "normal":
            np.testing.assert_allclose(mask, other, rtol=2e-7, atol=1e-12)
        else:
            np.testing.assert_array_equal(mask, other)
