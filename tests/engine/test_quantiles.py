"""Quantiles of the predictive mixture, against those of all passes at once."""

import math
import tracemalloc

import numpy as np
import pytest

from mcdropout.engine.statistics.gaussians import gaussian_cdf, gaussian_quantile
from mcdropout.engine.statistics.merging import merged, parts_of, pooled
from mcdropout.engine.statistics.quantiles import CAPACITY, DENSE_CAPACITY, FEW, MixtureQuantiles, capacity_of
from tests.engine.test_statistics import random

LEVELS = (0.025, 0.975)
DENSE = 2 * FEW


def quantiles(means, variances, sizes=None):
    mixture, start = MixtureQuantiles(), 0
    for size in sizes or [means.shape[1]]:
        part = variances if isinstance(variances, float) else variances[:, start : start + size]
        mixture.update(means[:, start : start + size], part)
        start += size
    assert start == means.shape[1]
    return mixture


def quantile(means, variances, level, sizes=None):
    return quantiles(means, variances, sizes).quantiles((level,))[..., 0]


def share_below(value, means, variances):
    """The share of a mixture, lists of means and variances, at or below `value`: with `math.erf`."""
    pairs = zip(means, variances, strict=True)
    return math.fsum(0.5 * (1 + math.erf((value - m) / math.sqrt(2 * v))) for m, v in pairs) / len(means)


def farthest(found, means, variances, level):
    """How far the level of quantiles found `[rows, values]` is from the one asked for, at most."""
    values, level = found[:, None], np.full(found.shape, level)
    if isinstance(variances, float) and variances == 0.0:
        below, up_to = (means < values).mean(axis=1), (means <= values).mean(axis=1)
        return np.maximum(level - up_to, below - level).max()
    return np.abs(gaussian_cdf((values - means) / np.sqrt(variances)).mean(axis=1) - level).max()


PASSES_OF = {
    "normal": lambda generator, shape: generator.normal(size=shape),
    "heavy tails": lambda generator, shape: generator.normal(size=shape) ** 3,
    "two modes": lambda generator, shape: 0.1 * generator.normal(size=shape) + generator.integers(0, 2, shape),
    "far from 0": lambda generator, shape: 1e6 + generator.normal(size=shape),
}


class TestExactly:
    @pytest.mark.parametrize("passes", [1, 2, 39, 40, 41, 500, CAPACITY])
    @pytest.mark.parametrize("level", [*LEVELS, 0.5])
    def test_of_points_are_the_samples_own(self, passes, level):
        points = random(3, passes, 2)
        expected = np.quantile(points, level, axis=1, method="inverted_cdf")
        np.testing.assert_array_equal(quantile(points, np.zeros_like(points), level), expected)
        np.testing.assert_array_equal(quantile(points, 0.0, level), expected)

    @pytest.mark.parametrize("level", [*LEVELS, 0.5])
    def test_of_points_of_dense_outputs_are_the_samples_own(self, level):
        points = random(2, DENSE_CAPACITY, 3, 30)
        expected = np.quantile(points, level, axis=1, method="inverted_cdf")
        np.testing.assert_array_equal(quantile(points, 0.0, level), expected)

    @pytest.mark.parametrize("passes", [1, 2, 50, CAPACITY])
    @pytest.mark.parametrize("level", [*LEVELS, 0.5])
    @pytest.mark.parametrize("noise", [1e-6, 0.01, 1.0, 100.0])
    def test_of_gaussians_solve_the_mixtures_equation(self, passes, level, noise):
        means, variances = random(2, passes), noise * np.exp(random(2, passes, seed=1))
        found = quantile(means, variances, level)
        for row in range(2):
            at = share_below(found[row], means[row].tolist(), variances[row].tolist())
            assert at == pytest.approx(level, abs=1e-9)

    def test_of_gaussians_of_one_variance_are_those_of_a_variance_each(self):
        means = random(3, 100, 4)
        found, expected = (quantiles(means, noise).quantiles(LEVELS) for noise in (0.3, np.full(means.shape, 0.3)))
        np.testing.assert_allclose(found, expected, rtol=1e-9)

    @pytest.mark.parametrize("level", [*LEVELS, 0.1])
    def test_of_gaussians_all_but_points_are_those_of_points(self, level):
        means = np.array([[-1.0, 0.0, 1.0]])
        found = quantile(means, np.full((1, 3), 1e-30), level)
        np.testing.assert_allclose(found, np.quantile(means, level, axis=1, method="inverted_cdf"), atol=1e-9)

    def test_of_points_beside_gaussians_are_those_of_each_row(self):
        means = random(2, 41)
        variances = np.stack([np.zeros(41), np.ones(41)])
        found = quantile(means, variances, 0.1)
        assert found[0] == np.quantile(means[0], 0.1, method="inverted_cdf")
        assert share_below(found[1], means[1].tolist(), [1.0] * 41) == pytest.approx(0.1, abs=1e-9)


class TestClosely:
    """The bounds that `MixtureQuantiles` states; fixed seeds, and what was found is below each by a third or more."""

    @pytest.mark.parametrize("of", list(PASSES_OF))
    @pytest.mark.parametrize("noise", [0.0, 0.01, 1.0])
    @pytest.mark.parametrize("level", [*LEVELS, 0.25])
    def test_of_many_passes_of_few_values(self, of, noise, level):
        means = PASSES_OF[of](np.random.default_rng(0), (2, 20_000, 3))
        found = quantile(means, noise, level, [137] * 145 + [135])
        assert farthest(found, means, noise, level) < 0.005

    @pytest.mark.wide
    @pytest.mark.parametrize("of", list(PASSES_OF))
    @pytest.mark.parametrize("noise", [0.0, 0.01, 1.0])
    @pytest.mark.parametrize("level", [*LEVELS, 0.25, 0.995])
    @pytest.mark.parametrize("passes", [40, DENSE_CAPACITY + 50, 1500, 10_000])
    def test_of_dense_outputs(self, of, noise, level, passes):
        means = PASSES_OF[of](np.random.default_rng(0), (1, passes, DENSE))
        assert farthest(quantile(means, noise, level), means, noise, level) < 0.03

    @pytest.mark.parametrize("of", list(PASSES_OF))
    @pytest.mark.parametrize("noise", [0.01, 1.0])
    @pytest.mark.parametrize(("spread", "bound"), [(0.3, 0.03), (1.0, 0.06)])
    @pytest.mark.parametrize("passes", [40, 1500])
    def test_of_dense_outputs_whose_noise_differs_from_pass_to_pass(self, of, noise, spread, bound, passes):
        generator = np.random.default_rng(1)
        means = PASSES_OF[of](generator, (1, passes, DENSE))
        variances = noise * np.exp(spread * generator.normal(size=means.shape))
        for level in (*LEVELS, 0.25):
            assert farthest(quantile(means, variances, level), means, variances, level) < bound

    def test_of_dense_outputs_whose_noise_is_most_of_the_variance(self):
        """Passes whose means hardly differ are merged by their noise."""
        generator = np.random.default_rng(2)
        means = generator.normal(size=(1, DENSE_CAPACITY, DENSE))
        variances = 100.0 * np.exp(generator.normal(size=means.shape))
        for level in (*LEVELS, 0.25):
            assert farthest(quantile(means, variances, level), means, variances, level) < 0.03

    def test_of_passes_that_take_few_values_are_about_one_of_these(self):
        means = np.random.default_rng(0).integers(0, 3, (1, 5000, DENSE)) * 1.0
        found = quantiles(means, 0.0).quantiles((0.1, 0.5, 0.9))
        np.testing.assert_allclose(found, np.broadcast_to([0.0, 1.0, 2.0], found.shape), atol=1e-3)


class TestWhateverTheyShare:
    @pytest.mark.parametrize("noise", [0.0, 1.0, "differs"])
    @pytest.mark.parametrize("values", [1, DENSE])
    def test_do_not_depend_on_how_passes_are_cut_into_blocks(self, noise, values):
        means = random(2, 3000, values)
        variances = np.exp(random(2, 3000, values, seed=1)) if noise == "differs" else noise
        expected = quantiles(means, variances).quantiles(LEVELS)
        for sizes in ([1] * 3000, [1024, 1976], [137] * 21 + [123], [1023, 2, 1025, 950], [255, 2, 2743]):
            np.testing.assert_array_equal(quantiles(means, variances, sizes).quantiles(LEVELS), expected)

    @pytest.mark.parametrize("noise", [0.0, 1.0, "differs"])
    @pytest.mark.parametrize("passes", [50, 1500])
    @pytest.mark.parametrize("values", [3, DENSE])
    def test_do_not_depend_on_the_rows_beside_them(self, noise, passes, values):
        means = random(7, passes, values)
        variances = np.exp(random(7, passes, values, seed=1)) if noise == "differs" else noise
        expected = quantiles(means, variances).quantiles(LEVELS)
        for row in range(7):
            own = variances if isinstance(variances, float) else variances[row : row + 1]
            alone = quantiles(means[row : row + 1], own).quantiles(LEVELS)
            np.testing.assert_array_equal(alone, expected[row : row + 1])

    @pytest.mark.parametrize("noise", [0.0, 1.0])
    @pytest.mark.parametrize("passes", [50, 1500])
    @pytest.mark.parametrize("values", [3, DENSE])
    def test_of_numbers_that_float32_holds_are_the_same_in_it(self, noise, passes, values):
        means = random(2, passes, values).astype(np.float32).astype(np.float64)
        narrow, wide = MixtureQuantiles(), MixtureQuantiles()
        narrow.update(means, noise, narrow=True)
        wide.update(means, noise)
        np.testing.assert_array_equal(narrow.quantiles(LEVELS), wide.quantiles(LEVELS))
        assert narrow.nbytes < wide.nbytes or values <= FEW

    @pytest.mark.parametrize("rows", [slice(1, 3), np.array([1, 2]), np.array([False, True, True, False])])
    @pytest.mark.parametrize("first", [70, DENSE_CAPACITY, 300])
    def test_that_are_taken_apart_leave_each_other_alone(self, rows, first):
        means = random(4, 400, DENSE)
        whole = quantiles(means[:, :first], 0.0)
        apart = whole.take(rows)
        apart.update(means[rows][:, first:] + 100.0)
        whole.update(means[:, first:])
        changed = np.concatenate([means[rows][:, :first], means[rows][:, first:] + 100.0], axis=1)
        np.testing.assert_array_equal(whole.quantiles(LEVELS), quantiles(means, 0.0).quantiles(LEVELS))
        np.testing.assert_array_equal(apart.quantiles(LEVELS), quantiles(changed, 0.0).quantiles(LEVELS))


class TestMemory:
    @pytest.mark.parametrize("noise", [0.0, "differs"])
    @pytest.mark.parametrize("shape", [(4,), (2, 3, 32, 32)], ids=["one value", "dense"])
    def test_does_not_grow_with_the_passes(self, noise, shape):
        rows, *values = shape
        block = random(rows, 64, *values)
        variances = block**2 if noise == "differs" else noise
        mixture, held = MixtureQuantiles(), []
        for _ in range(60):
            mixture.update(block, variances)
            held.append(mixture.nbytes)
        full = 2 * capacity_of(math.prod(values)) // 64
        assert set(held[full:]) == {held[full]}

    def test_of_dense_outputs_is_a_few_passes_worth(self):
        block = random(1, 32, 1, 64, 64)
        tracemalloc.start()
        mixture = MixtureQuantiles()
        for _ in range(20):
            mixture.update(block)
        mixture.quantiles(LEVELS)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert mixture.nbytes <= 1.25 * DENSE_CAPACITY * 64 * 64 * 8
        assert most <= 1.5 * mixture.nbytes + 8 * 2**20

    def test_of_very_many_values_is_less_for_each(self):
        assert [capacity_of(values) for values in (1, 64, 65, 2**16, 2**16 + 1)] == [1024, 1024, 256, 256, 64]


class TestMerging:
    def test_keeps_the_mean_and_the_variance_of_a_mixture(self):
        means, variances = random(3, 256), np.exp(random(3, 256, seed=1))
        into = parts_of(256, 64)
        pool = pooled([means, variances], into)
        assert_same_moments(pool, into, [means, variances], np.ones(256, int))
        few = 256 // 16 * parts_of(16, 8)
        assert_same_moments(merged(pool, into, few), few, pool, into)

    def test_makes_gaussians_of_points_where_it_is_asked_to(self):
        means = random(3, 256) + 1e6
        into = parts_of(256, 64)
        pool = pooled([means], into, spread=True)
        assert_same_moments(pool, into, [means, np.zeros_like(means)], np.ones(256, int))
        assert_same_moments(merged(pool[:1], into, into[::-1], spread=True), into[::-1], [pool[0], 0 * pool[0]], into)

    @pytest.mark.parametrize(("count", "passes"), [(16, range(17, 161)), (512, [1024]), (32, [128]), (8, [32])])
    def test_cuts_passes_into_parts_that_are_small_at_the_ends(self, count, passes):
        for number in passes:
            parts = parts_of(number, count)
            assert (len(parts), parts.sum()) == (count, number)
            assert parts.min() >= 1
            assert parts[0] <= parts[count // 2]


def assert_same_moments(found, found_weights, wanted, wanted_weights):
    (mean, variance), (expected, spread) = moments(*found, found_weights), moments(*wanted, wanted_weights)
    np.testing.assert_allclose(mean, expected, rtol=1e-10)
    np.testing.assert_allclose(variance, spread, rtol=1e-6)


def moments(means, variances, weights):
    shares = weights / weights.sum()
    mean = means @ shares
    return mean, (variances + (means - mean[:, None]) ** 2) @ shares


def test_the_gaussian_distribution_function_is_that_of_math_erfc():
    z = np.linspace(-12.0, 12.0, 4801)
    wanted = [0.5 * math.erfc(-value / math.sqrt(2.0)) for value in z]
    np.testing.assert_allclose(gaussian_cdf(z), wanted, atol=1e-13)


def test_gaussian_quantiles_are_the_tabulated_ones():
    assert gaussian_quantile(0.975) == pytest.approx(1.959963984540054, rel=1e-14)
    assert gaussian_quantile(0.5) == 0.0
