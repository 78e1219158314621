"""Statistics: what passes say, against plain NumPy over all samples at once."""

import dataclasses
import math
import tracemalloc

import numpy as np
import pytest
from mcdropout.engine.statistics import (
    ClassificationStatistics,
    RegressionStatistics,
    RunningMoments,
    concatenate,
    take,
)
from mcdropout.engine.statistics.quantiles import CAPACITY, MixtureQuantiles, gaussian_cdf, gaussian_quantile

LEVELS = (0.025, 0.975)


def random(*shape, seed=0, scale=1.0):
    return scale * np.random.default_rng(seed).normal(size=shape)


def softmax(logits, axis):
    powers = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def entropy_of(p, axis):
    return -(p * np.log(p)).sum(axis=axis)


def sum_up(statistics, outputs, sizes=None):
    """The prediction of outputs `[rows, passes, ...]`, taken in blocks of the given numbers of passes."""
    start = 0
    for size in sizes or [outputs[0].shape[1]]:
        statistics.update([output[:, start : start + size] for output in outputs])
        start += size
    assert start == outputs[0].shape[1]
    return statistics.prediction()


def assert_same(found, wanted, rtol=1e-12):
    for field in dataclasses.fields(wanted):
        a, b = getattr(found, field.name), getattr(wanted, field.name)
        assert (a is None) == (b is None), field.name
        if b is not None:
            np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-14, err_msg=field.name)


@pytest.mark.parametrize("shape", [(4, 60, 5), (2, 60, 3, 4, 6)], ids=["classes", "dense"])
class TestClassification:
    def test_equals_plain_numpy(self, shape):
        logits = random(*shape, scale=3.0)
        found = sum_up(ClassificationStatistics(), [logits])
        p = softmax(logits, 2)
        mean = p.mean(axis=1)
        np.testing.assert_allclose(found.mean, mean, rtol=1e-12)
        np.testing.assert_allclose(found.variance, p.var(axis=1, ddof=1), rtol=1e-10)
        np.testing.assert_allclose(found.std_error, p.std(axis=1, ddof=1) / math.sqrt(60), rtol=1e-10)
        np.testing.assert_allclose(found.entropy, entropy_of(mean, 1), rtol=1e-12)
        expected = entropy_of(p, 2).mean(axis=1)
        np.testing.assert_allclose(found.expected_entropy, expected, rtol=1e-12)
        np.testing.assert_allclose(found.mutual_information, entropy_of(mean, 1) - expected, rtol=1e-9)
        np.testing.assert_array_equal(found.label, mean.argmax(axis=1))
        votes = np.stack([(p.argmax(axis=2) == c).sum(axis=1) for c in range(shape[2])])
        np.testing.assert_allclose(found.variation_ratio, 1.0 - votes.max(axis=0) / 60, atol=1e-15)
        assert found.passes.tolist() == [60] * shape[0]

    def test_in_blocks_equals_all_at_once(self, shape):
        logits = random(*shape, scale=3.0)
        blocks = sum_up(ClassificationStatistics(), [logits], [1, 1, 30, 7, 21])
        assert_same(blocks, sum_up(ClassificationStatistics(), [logits]), rtol=1e-11)

    def test_keeps_the_shape_of_the_output_behind_its_classes(self, shape):
        found = sum_up(ClassificationStatistics(), [random(*shape)])
        rows, _, classes, *space = shape
        assert found.mean.shape == found.variance.shape == found.std_error.shape == (rows, classes, *space)
        for name in ("label", "entropy", "expected_entropy", "mutual_information", "variation_ratio"):
            assert getattr(found, name).shape == (rows, *space), name

    def test_without_dropout_leaves_open_what_only_passes_tell(self, shape):
        logits = random(*shape)[:, :1]
        found = ClassificationStatistics().deterministic([logits])
        np.testing.assert_allclose(found.mean, softmax(logits, 2)[:, 0], rtol=1e-12)
        np.testing.assert_allclose(found.entropy, entropy_of(found.mean, 1), rtol=1e-12)
        assert found.passes.tolist() == [0] * shape[0]
        for name in ("variance", "std_error", "expected_entropy", "mutual_information", "variation_ratio"):
            assert getattr(found, name) is None, name


def test_logits_are_divided_by_the_temperature():
    logits = random(3, 20, 4)
    assert_same(sum_up(ClassificationStatistics(2.0), [logits]), sum_up(ClassificationStatistics(), [logits / 2.0]))


def test_one_pass_has_no_variance_but_everything_else():
    found = sum_up(ClassificationStatistics(), [random(3, 1, 4)])
    assert np.isnan(found.variance).all()
    assert np.isnan(found.std_error).all()
    np.testing.assert_allclose(found.mutual_information, 0.0, atol=1e-12)
    assert found.variation_ratio.tolist() == [0.0] * 3
    value = sum_up(RegressionStatistics(0.5), [random(3, 1, 4)])
    assert np.isnan(value.epistemic_variance).all()
    assert np.isnan(value.variance).all()
    np.testing.assert_array_equal(value.aleatoric_variance, 0.5)


def test_mutual_information_is_never_below_0():
    logits = np.repeat(random(2000, 1, 7), 3, axis=1)  # passes that agree, so that rounding decides the sign
    found = sum_up(ClassificationStatistics(), [logits])
    assert (found.entropy - found.expected_entropy).min() < 0.0
    assert found.mutual_information.min() == 0.0


def test_a_class_that_is_all_but_impossible_adds_no_entropy():
    found = sum_up(ClassificationStatistics(), [np.array([[[1000.0, 0.0, -1000.0]] * 2])])
    assert found.mean.tolist() == [[1.0, 0.0, 0.0]]
    assert found.entropy.tolist() == found.expected_entropy.tolist() == [0.0]


def test_variance_survives_a_large_mean():
    values = random(1, 1000) + 1e8
    moments = RunningMoments()
    for start in range(0, 1000, 37):
        moments.update(values[:, start : start + 37])
    np.testing.assert_allclose(moments.variance(), values.var(axis=1, ddof=1), rtol=1e-6)


class TestRegression:
    @pytest.mark.parametrize("noise_variance", [None, 0.3])
    def test_with_one_output_equals_plain_numpy(self, noise_variance):
        means = random(4, 60, 2)
        found = sum_up(RegressionStatistics(noise_variance), [means], [1, 40, 19])
        epistemic = means.var(axis=1, ddof=1)
        np.testing.assert_allclose(found.mean, means.mean(axis=1), rtol=1e-10)
        np.testing.assert_allclose(found.epistemic_variance, epistemic, rtol=1e-10)
        np.testing.assert_allclose(found.std_error, np.sqrt(epistemic / 60), rtol=1e-10)
        if noise_variance is None:
            assert found.aleatoric_variance is None
        else:
            np.testing.assert_allclose(found.aleatoric_variance, 0.3, rtol=1e-12)
        variance = epistemic + (noise_variance or 0.0)
        np.testing.assert_allclose(found.variance, variance, rtol=1e-10)
        np.testing.assert_allclose(found.entropy, 0.5 * np.log(2 * np.pi * np.e * variance), rtol=1e-9)

    def test_with_two_outputs_takes_the_noise_that_the_network_predicts(self):
        means, logarithms = random(4, 60), random(4, 60, seed=1)
        found = sum_up(RegressionStatistics(noise_variance=99.0), [means, logarithms], [59, 1])
        aleatoric = np.exp(logarithms).mean(axis=1)
        np.testing.assert_allclose(found.aleatoric_variance, aleatoric, rtol=1e-10)
        np.testing.assert_allclose(found.variance, means.var(axis=1, ddof=1) + aleatoric, rtol=1e-10)
        assert found.interval.shape == (4, 2)

    def test_in_blocks_equals_all_at_once(self):
        outputs = [random(4, 60, 2), random(4, 60, 2, seed=1)]
        blocks = sum_up(RegressionStatistics(), outputs, [1, 1, 30, 7, 21])
        assert_same(blocks, sum_up(RegressionStatistics(), outputs), rtol=1e-9)

    def test_without_dropout_and_without_noise_is_a_mean_alone(self):
        found = RegressionStatistics().deterministic([random(3, 1)])
        assert found.passes.tolist() == [0, 0, 0]
        for name in ("variance", "std_error", "epistemic_variance", "aleatoric_variance", "entropy", "interval"):
            assert getattr(found, name) is None, name

    def test_without_dropout_the_known_noise_is_all_the_variance(self):
        mean = random(3, 1)
        found = RegressionStatistics(0.25, interval=0.9).deterministic([mean])
        np.testing.assert_array_equal(found.variance, 0.25)
        np.testing.assert_array_equal(found.aleatoric_variance, 0.25)
        assert found.epistemic_variance is None
        half = 0.5 * 1.6448536269514722
        np.testing.assert_allclose(found.interval, np.stack([mean[:, 0] - half, mean[:, 0] + half], 1), rtol=1e-12)

    def test_equal_passes_have_no_density_and_so_no_entropy(self):
        found = sum_up(RegressionStatistics(), [np.ones((2, 5))])
        assert np.isnan(found.entropy).all()
        np.testing.assert_array_equal(found.interval, 1.0)

    def test_the_interval_holds_the_share_asked_for(self):
        means = random(3, 500)
        found = sum_up(RegressionStatistics(interval=0.5), [means])
        inside = (means >= found.interval[:, :1]) & (means <= found.interval[:, 1:])
        np.testing.assert_allclose(inside.mean(axis=1), 0.5, atol=0.005)


def quantiles(means, variances, sizes=None):
    mixture, start = MixtureQuantiles(), 0
    for size in sizes or [means.shape[1]]:
        mixture.update(means[:, start : start + size], variances[:, start : start + size])
        start += size
    return mixture


def share_below(value, means, variances):
    """The share of a mixture, lists of means and variances, at or below `value`: with `math.erf`."""
    pairs = zip(means, variances, strict=True)
    return math.fsum(0.5 * (1 + math.erf((value - m) / math.sqrt(2 * v))) for m, v in pairs) / len(means)


class TestQuantiles:
    @pytest.mark.parametrize("passes", [1, 2, 39, 40, 41, 500, CAPACITY])
    @pytest.mark.parametrize("level", [*LEVELS, 0.5])
    def test_of_points_are_the_samples_own(self, passes, level):
        points = random(3, passes, 2)
        found = quantiles(points, np.zeros_like(points)).quantile(level)
        np.testing.assert_array_equal(found, np.quantile(points, level, axis=1, method="inverted_cdf"))

    @pytest.mark.parametrize("passes", [1, 2, 50])
    @pytest.mark.parametrize("level", [*LEVELS, 0.5])
    @pytest.mark.parametrize("noise", [1e-6, 0.01, 1.0, 100.0])
    def test_of_gaussians_solve_the_mixtures_equation(self, passes, level, noise):
        means, variances = random(2, passes), noise * np.exp(random(2, passes, seed=1))
        found = quantiles(means, variances).quantile(level)
        for row in range(2):
            at = share_below(found[row], means[row].tolist(), variances[row].tolist())
            assert at == pytest.approx(level, abs=1e-9)

    @pytest.mark.parametrize("level", [*LEVELS, 0.1])
    def test_of_gaussians_all_but_points_are_those_of_points(self, level):
        means = np.array([[-1.0, 0.0, 1.0]])
        found = quantiles(means, np.full((1, 3), 1e-30)).quantile(level)
        np.testing.assert_allclose(found, np.quantile(means, level, axis=1, method="inverted_cdf"), atol=1e-9)

    def test_of_points_beside_gaussians_are_those_of_each_row(self):
        means = random(2, 41)
        variances = np.stack([np.zeros(41), np.ones(41)])
        found = quantiles(means, variances).quantile(0.1)
        assert found[0] == pytest.approx(np.quantile(means[0], 0.1, method="inverted_cdf"), abs=1e-9)
        assert share_below(found[1], means[1].tolist(), [1.0] * 41) == pytest.approx(0.1, abs=1e-9)

    @pytest.mark.parametrize("noise", [0.0, 0.01, 1.0])
    @pytest.mark.parametrize("level", LEVELS)
    def test_of_more_passes_than_are_kept_stay_close(self, noise, level):
        """The level moves by about one share in CAPACITY; asserted within two."""
        passes = 20_000
        means = np.sort(random(2, passes) ** 3, axis=1)[:, np.random.default_rng(1).permutation(passes)]
        found = quantiles(means, np.full_like(means, noise), [137] * 145 + [135]).quantile(level)
        for row in range(2):
            if noise:
                at = share_below(found[row], means[row].tolist(), [noise] * passes)
            else:
                at = (means[row] <= found[row]).mean()
            assert abs(at - level) < 2.0 / CAPACITY

    @pytest.mark.parametrize("noise", [0.0, 1.0])
    def test_do_not_depend_on_how_passes_are_cut_into_blocks(self, noise):
        means = random(2, 5000)
        variances = np.full_like(means, noise)
        expected = quantiles(means, variances).quantile(0.025)
        for sizes in ([1] * 5000, [1024, 3976], [137] * 36 + [68], [1023, 2, 1025, 2950]):
            np.testing.assert_array_equal(quantiles(means, variances, sizes).quantile(0.025), expected)

    def test_keep_the_mean_and_the_variance_of_the_mixture(self):
        means, variances = random(1, 5000), np.exp(random(1, 5000, seed=1))
        mixture = quantiles(means, variances)
        weights = mixture._weights / mixture._weights.sum(axis=0)
        mean = (weights * mixture._means).sum(axis=0)
        variance = (weights * (mixture._variances + mixture._means**2)).sum(axis=0) - mean**2
        np.testing.assert_allclose(mean, means.mean(axis=1), rtol=1e-10)
        np.testing.assert_allclose(variance, means.var(axis=1) + variances.mean(axis=1), rtol=1e-10)

    def test_take_memory_that_does_not_grow_with_the_passes(self):
        def peak(steps):
            mixture, block = MixtureQuantiles(), random(4, 100)
            tracemalloc.start()
            for step in range(steps):
                mixture.update(block + step, block**2)
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            return most

        assert peak(400) < 1.2 * peak(20)


def test_the_gaussian_distribution_function_is_that_of_math_erfc():
    z = np.linspace(-12.0, 12.0, 4801)
    wanted = [0.5 * math.erfc(-value / math.sqrt(2.0)) for value in z]
    np.testing.assert_allclose(gaussian_cdf(z), wanted, atol=1e-13)


def test_gaussian_quantiles_are_the_tabulated_ones():
    assert gaussian_quantile(0.975) == pytest.approx(1.959963984540054, rel=1e-14)
    assert gaussian_quantile(0.5) == 0.0


@pytest.mark.parametrize(
    ("statistics", "outputs"),
    [
        (ClassificationStatistics, [random(5, 10, 3)]),
        (RegressionStatistics, [random(5, 10)]),
        (RegressionStatistics, [random(5, 10, 2), random(5, 10, 2, seed=1)]),
    ],
    ids=["classification", "regression without noise", "regression with noise"],
)
class TestRowsOfAPrediction:
    def test_are_taken_as_if_they_had_been_alone(self, statistics, outputs):
        whole = sum_up(statistics(), outputs)
        part = take(whole, slice(1, 3), seed=7)
        assert part.seed == 7
        assert_same(dataclasses.replace(part, seed=None), sum_up(statistics(), [output[1:3] for output in outputs]))

    def test_are_joined_again_in_order(self, statistics, outputs):
        whole = sum_up(statistics(), outputs)
        assert_same(concatenate([take(whole, slice(0, 1)), take(whole, slice(1, 5))]), whole)

    def test_are_joined_again_where_fields_are_none(self, statistics, outputs):
        whole = statistics().deterministic([output[:, :1] for output in outputs])
        assert_same(concatenate([take(whole, slice(0, 2)), take(whole, slice(2, 5))]), whole)
