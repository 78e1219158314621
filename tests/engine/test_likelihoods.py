"""Likelihoods of a regression's noise: against sums over fine steps, draws, and what is known of them."""

import math

import numpy as np
import pytest
import torch

from mcdropout.engine import Engine, InvalidInputError
from mcdropout.engine.reading import Reading
from mcdropout.engine.statistics import Statistics, deterministic
from mcdropout.engine.statistics.likelihoods import GAUSSIAN, LAPLACE, student_t
from tests.engine.networks import Custom, mlp

LIKELIHOODS = {"gaussian": GAUSSIAN, "laplace": LAPLACE, "t of 3": student_t(3.0), "t of 7.5": student_t(7.5)}
LEVELS = (0.001, 0.025, 0.3, 0.5, 0.975)


@pytest.mark.parametrize("name", LIKELIHOODS)
class TestEach:
    def test_has_the_density_that_its_distribution_function_is_the_sum_of(self, name):
        likelihood = LIKELIHOODS[name]
        z = np.linspace(-12.0, 12.0, 240_001)
        slopes = np.diff(likelihood.cdf(z)) / np.diff(z)
        np.testing.assert_allclose(likelihood.density(0.5 * (z[1:] + z[:-1])), slopes, rtol=0, atol=2e-6)
        np.testing.assert_allclose(likelihood.cdf(z) + likelihood.cdf(-z), 1.0, rtol=0, atol=1e-11)

    def test_has_the_variance_1(self, name):
        """With `z = sinh(u)` a grid reaches far into the tails, which of few degrees of freedom hold much of it."""
        u = np.linspace(-14.0, 14.0, 200_001)
        weights = LIKELIHOODS[name].density(np.sinh(u)) * np.cosh(u) * (u[1] - u[0])
        assert weights.sum() == pytest.approx(1.0, abs=1e-7)
        assert (weights * np.sinh(u) ** 2).sum() == pytest.approx(1.0, abs=1e-5)

    @pytest.mark.parametrize("level", LEVELS)
    def test_has_quantiles_whose_share_is_the_level(self, name, level):
        likelihood = LIKELIHOODS[name]
        assert likelihood.cdf(np.array([likelihood.quantile(level)])) == pytest.approx([level], abs=1e-10)


def test_students_distribution_is_the_tabulated_one():
    """The 97.5 % points of 3, 5 and 30 degrees of freedom; and that of 1,000, which is all but Gaussian."""
    for df, point in ((3.0, 3.182446305284263), (5.0, 2.570581835636314), (30.0, 2.042272456301238)):
        likelihood = student_t(df)
        assert likelihood.quantile(0.975) / math.sqrt((df - 2.0) / df) == pytest.approx(point, rel=1e-10)
    assert student_t(1000.0).quantile(0.975) == pytest.approx(1.9602, abs=1e-3)


OPTIONS = [
    ({"likelihood": "laplace"}, lambda rng, size: rng.laplace(size=size), 2.0),
    ({"likelihood": "student_t", "df": 5.0}, lambda rng, size: rng.standard_t(5.0, size=size), 5.0 / 3.0),
    ({}, lambda rng, size: rng.normal(size=size), 1.0),
]


@pytest.mark.parametrize(("options", "draw", "variance"), OPTIONS, ids=["laplace", "student", "gaussian"])
class TestARegression:
    @pytest.mark.parametrize("noise", ["scale", "log_scale"])
    def test_has_the_variance_and_the_interval_of_its_likelihood(self, options, draw, variance, noise):
        """The interval's shares of 200,000 draws of the mixture, within 4 standard errors: false alarms below 0.1 %."""
        rng = np.random.default_rng(0)
        means, scales = rng.normal(size=(2, 40, 3)), rng.uniform(0.5, 2.0, size=(2, 40, 3))
        second = scales if noise == "scale" else np.log(scales)
        statistics = Statistics(Reading("regression", noise=noise, **options))
        statistics.update([means, second])
        found = statistics.prediction()
        np.testing.assert_allclose(found.aleatoric_variance, variance * (scales**2).mean(axis=1), rtol=1e-12)
        for row in range(2):
            drawn = means[row] + scales[row] * draw(rng, (5_000, 40, 3))
            for end, level in enumerate((0.025, 0.975)):
                share = (drawn <= found.interval[row, :, end]).mean(axis=(0, 1))
                assert np.abs(share - level).max() < 4.0 * math.sqrt(level * (1.0 - level) / 2e5)

    def test_of_a_dense_output_has_an_interval_too(self, options, draw, variance):
        """To 0.03 of the level, as `MixtureQuantiles` says of many values."""
        rng = np.random.default_rng(1)
        means, scales = rng.normal(size=(1, 40, 100)), rng.uniform(0.5, 2.0, size=(1, 40, 100))
        statistics = Statistics(Reading("regression", noise="scale", **options))
        statistics.update([means, scales])
        found = statistics.prediction().interval
        drawn = (means[0] + scales[0] * draw(rng, (1_000, 40, 100))).reshape(-1, 100)
        for end, level in enumerate((0.025, 0.975)):
            assert np.abs((drawn <= found[0, :, end]).mean(axis=0) - level).max() < 0.03

    def test_without_dropout_has_the_interval_of_one(self, options, draw, variance):
        found, _ = deterministic(Reading("regression", noise="scale", **options), [np.zeros((1, 1)), np.ones((1, 1))])
        drawn = np.sort(draw(np.random.default_rng(2), 1_000_000))
        np.testing.assert_allclose(found.interval[0], np.quantile(drawn, [0.025, 0.975]), atol=0.02)


def test_an_engine_takes_and_keeps_its_likelihood(tmp_path):
    def forward(self, x):
        y = self.rest(x)
        return y[:, 0], torch.exp(y[:, 1])

    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    network = Custom(forward, rest=mlp(outputs=2))
    engine = Engine.from_module(
        network, x, "regression", output={"mean": 0, "scale": 1}, likelihood="student_t", df=4.0, runtime="onnx"
    )
    engine.save(tmp_path)
    found, again = engine.predict(x, 20, 1), Engine.load(tmp_path).predict(x, 20, 1)
    np.testing.assert_array_equal(found.interval, again.interval)
    scale = np.exp(network.eval()(torch.from_numpy(x))[1].detach().numpy().astype(np.float64))
    assert engine.predict(x, 0).aleatoric_variance == pytest.approx(2.0 * np.log(scale) ** 2, rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"likelihood": "cauchy"}, {"likelihood": "student_t"}, {"df": 4.0}, {"likelihood": "student_t", "df": 2.0}],
)
def test_a_likelihood_that_has_no_variance_or_no_name_is_refused(options):
    with pytest.raises(InvalidInputError, match=r"likelihood|df is"):
        Engine.from_module(mlp(outputs=1), np.ones((3, 4), np.float32), "regression", **options)
