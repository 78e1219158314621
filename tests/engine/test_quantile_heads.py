"""Networks that predict quantiles: exact moments, a mixture that stays skewed, and where the quantiles are."""

import itertools
from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch import nn

from mcdropout.engine import Engine, InvalidInputError, UnsupportedModelError
from mcdropout.engine.statistics.quantile_heads import ascending, heads_of, mean_and_variance

LEVELS = (0.05, 0.25, 0.5, 0.95)


def scores_of(levels):
    return np.array([NormalDist().inv_cdf(level) for level in levels])


def value_at(quantiles, levels, level):
    """A distribution's quantile at another level, written by hand: straight over the scores, on beyond the ends."""
    scores, z = scores_of(levels), NormalDist().inv_cdf(level)
    piece = min(max(int(np.searchsorted(scores, z)) - 1, 0), len(levels) - 2)
    part = (z - scores[piece]) / (scores[piece + 1] - scores[piece])
    return quantiles[piece] + part * (quantiles[piece + 1] - quantiles[piece])


class Heads(nn.Module):
    def __init__(self, levels: int = 3, form: str = "last") -> None:
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, levels)
        self.form = form

    def forward(self, x):
        out = self.last(self.drop(torch.tanh(self.first(x)))).sort(-1).values
        match self.form:
            case "last":
                return out
            case "each":
                return tuple(out.unbind(-1))
            case "map":
                return out[:, :, None].expand(-1, -1, 6) * torch.arange(1, 7)
            case "crossed":
                return out.flip(-1)


class TestDistributions:
    @pytest.mark.parametrize("levels", [(0.1, 0.9), (0.05, 0.5, 0.95), LEVELS, (0.6, 0.7)])
    def test_the_quantiles_of_a_gaussian_have_its_mean_and_variance_exactly(self, levels):
        mean, variance = mean_and_variance(3.0 + 2.0 * scores_of(levels), heads_of(levels))
        assert mean == pytest.approx(3.0, abs=1e-12)
        assert variance == pytest.approx(4.0, abs=1e-11)

    def test_those_of_what_is_skewed_are_those_of_many_of_its_values(self):
        quantiles = np.array([0.0, 0.5, 1.0, 8.0])
        shares = (np.arange(200_000) + 0.5) / 200_000
        values = np.array([value_at(quantiles, LEVELS, share) for share in shares[::20]])
        mean, variance = mean_and_variance(quantiles, heads_of(LEVELS))
        assert mean == pytest.approx(values.mean(), rel=2e-3)
        assert variance == pytest.approx(values.var(), rel=1e-2)

    def test_large_numbers_that_differ_little_keep_their_variance(self):
        _, variance = mean_and_variance(1e9 + scores_of((0.1, 0.5, 0.9)), heads_of((0.1, 0.5, 0.9)))
        assert variance == pytest.approx(1.0, rel=1e-6)

    def test_quantiles_that_cross_are_sorted(self):
        assert ascending([np.array([[[2.0, 1.0, 3.0]]])], 1).tolist() == [[[1.0, 2.0, 3.0]]]


class TestAnswers:
    @pytest.fixture(autouse=True)
    def _seeded(self):
        torch.manual_seed(0)
        self.x = torch.randn(3, 4)

    def engine(self, form="last", levels=(0.1, 0.5, 0.9), **options):
        torch.manual_seed(7)
        network = Heads(len(levels), form).eval()
        options = {"runtime": "torch", **options}
        return network, Engine.from_module(network, self.x, "regression", quantiles=levels, **options)

    def test_all_masks_of_a_small_network_give_the_exact_law(self):
        network, engine = self.engine()
        masks = [2.0 * np.array(kept, np.float32) for kept in itertools.product((0, 1), repeat=5)]
        outputs = [engine.outputs(self.x, [np.tile(mask, (3, 1))])[0] for mask in masks]
        found = engine.summarize([np.stack(outputs, axis=1)])
        with torch.no_grad():
            hidden = torch.tanh(network.first(self.x))
            each = [network.last(hidden * torch.from_numpy(mask)).sort(-1).values.double().numpy() for mask in masks]
        quantiles = np.stack(each, axis=1)
        means, noises = mean_and_variance(quantiles, heads_of((0.1, 0.5, 0.9)))
        np.testing.assert_allclose(found.mean, means.mean(1), atol=1e-6)
        np.testing.assert_allclose(found.epistemic_variance, means.var(1, ddof=1), atol=1e-6)
        np.testing.assert_allclose(found.aleatoric_variance, noises.mean(1), atol=1e-6)
        np.testing.assert_allclose(found.quantiles, quantiles.mean(1), atol=1e-6)
        # The interval's ends leave 2.5% of the mixture on each side, to what 32 points a pass tell of it.
        for row in range(3):
            for end, level in zip(found.interval[row], (0.025, 0.975), strict=True):
                shares = np.linspace(0.0005, 0.9995, 1000)
                below = np.mean([[value_at(q, (0.1, 0.5, 0.9), s) <= end for s in shares] for q in quantiles[row]])
                assert below == pytest.approx(level, abs=0.01)

    def test_the_baseline_has_its_own_quantiles_and_the_interval_between_them(self):
        network, engine = self.engine()
        found = engine.predict(self.x, passes=0)
        with torch.no_grad():
            own = network(self.x).double().numpy()
        np.testing.assert_allclose(found.quantiles, own, atol=1e-6)
        assert engine.predict(self.x, passes=4).quantiles.shape == (3, 3)
        assert found.epistemic_variance is None
        for row in range(3):
            wanted = [value_at(own[row], (0.1, 0.5, 0.9), level) for level in (0.025, 0.975)]
            np.testing.assert_allclose(found.interval[row], wanted, atol=1e-5)

    @pytest.mark.wide
    @pytest.mark.parametrize("form", ["last", "each", "map", "crossed"])
    def test_quantiles_may_lie_in_one_output_or_in_one_each_and_in_any_order(self, form):
        _, engine = self.engine(form)
        plain = self.engine("last")[1].predict(self.x, passes=20, seed=1)
        found = engine.predict(self.x, passes=20, seed=1)
        place = (slice(None), 0) if form == "map" else slice(None)
        assert found.mean.shape == ((3, 6) if form == "map" else (3,))
        assert engine.places == ((6,) if form == "map" else ())
        for name, value in plain.values.items():
            np.testing.assert_allclose(found.values[name][place], value, atol=1e-5, err_msg=name)

    def test_a_network_without_them_answers_none(self):
        engine = Engine.from_module(
            nn.Sequential(nn.Linear(4, 1), nn.Dropout(0.5)).eval(), self.x, "regression", runtime="torch"
        )
        assert engine.predict(self.x, passes=3).quantiles is None

    def test_they_are_saved_with_the_engine(self, tmp_path):
        _, engine = self.engine(runtime="onnx", levels=LEVELS)
        engine.save(tmp_path)
        before, after = (one.predict(self.x, passes=30, seed=2) for one in (engine, Engine.load(tmp_path)))
        for name, value in before.values.items():
            np.testing.assert_array_equal(value, after.values[name], err_msg=name)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"quantiles": (0.5,)}, InvalidInputError, "two levels or more"),
            ({"quantiles": (0.9, 0.1)}, InvalidInputError, "ascending"),
            ({"quantiles": (0.1, 0.9), "noise_variance": 1.0}, InvalidInputError, "in place of"),
            ({"quantile_axis": 1}, InvalidInputError, "with quantiles"),
            ({"quantiles": (0.1, 0.9)}, UnsupportedModelError, "none has as many entries .* 2"),
            ({"quantiles": (0.1, 0.9), "quantile_axis": 1}, UnsupportedModelError, "dimension 1 is to hold the 2"),
            (
                {"quantiles": (0.1, 0.5, 0.9), "quantile_axis": 2},
                UnsupportedModelError,
                "dimension 2 is to hold the quantiles; 1 to 1",
            ),
        ],
    )
    def test_what_does_not_fit_is_refused(self, options, error, message):
        with pytest.raises(error, match=message):
            Engine.from_module(Heads().eval(), self.x, "regression", runtime="torch", **options)

    def test_those_of_several_targets_in_one_dimension_are_to_be_kept_apart(self):
        with pytest.raises(UnsupportedModelError, match=r"dimension 1 holds those of 2 targets, .* as \[3, 2, 3\] or"):
            Engine.from_module(Heads(6).eval(), self.x, "regression", runtime="torch", quantiles=(0.1, 0.5, 0.9))
