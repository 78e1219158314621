"""What the C extension sums up, against NumPy's way to the same."""

import numpy as np
import pytest

from mcdropout.engine.native import library
from mcdropout.engine.native.statistics import (
    MOST_CLASSES,
    class_sums,
    combination_sums,
    label_sums,
    mixture_quantiles,
    value_sums,
)
from mcdropout.engine.reading import Reading
from mcdropout.engine.statistics import TASKS, Statistics
from mcdropout.engine.statistics.class_block import ClassBlock
from mcdropout.engine.statistics.likelihoods import GAUSSIAN, LAPLACE
from mcdropout.engine.statistics.mixtures import quantiles_of_mixture

needs_extension = pytest.mark.skipif(not library.available(), reason="the C extension was not built")
pytestmark = needs_extension


def random(*shape, seed=0, scale=3.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def in_form(logits, form):
    """Logits `[rows, passes, classes]` as what a network answers."""
    wide = logits.astype(np.float64)
    log_p = wide - np.logaddexp.reduce(wide, axis=2, keepdims=True)
    return {"logits": logits, "probabilities": np.exp(log_p), "log_probabilities": log_p}[form].astype(np.float32)


def summed_up(reading, outputs, sizes=None):
    statistics, start = Statistics(reading), 0
    for size in sizes or [outputs[0].shape[1]]:
        statistics.update([output[:, start : start + size] for output in outputs])
        start += size
    return statistics.prediction()


def check(reading, outputs, monkeypatch, sizes=None):
    """Every statistic is NumPy's, but for rounding."""
    found = summed_up(reading, outputs, sizes)
    with monkeypatch.context() as without:
        without.setattr(library, "available", lambda: False)
        wanted = summed_up(reading, outputs, sizes)
    for name, value in wanted.values.items():
        if value is None:
            assert found.values[name] is None
        else:
            assert found.values[name].dtype == value.dtype
            near = 1e-6 if name == "interval" else 1e-9  # of a quantile the level is held to 1e-9: see `TestQuantiles`
            np.testing.assert_allclose(found.values[name], value, rtol=near, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("form", ["logits", "probabilities", "log_probabilities"])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
class TestClasses:
    @pytest.mark.parametrize(("rows", "passes", "classes"), [(1, 1, 2), (3, 50, 10), (2, 700, 3), (2, 5, 1024)])
    def test_are_as_numpy_finds_them(self, rows, passes, classes, form, temperature, monkeypatch):
        outputs = in_form(random(rows, passes, classes), form)
        check(Reading("classification", form, temperature=temperature), [outputs], monkeypatch)

    def test_are_so_over_several_steps(self, form, temperature, monkeypatch):
        outputs = in_form(random(3, 60, 5), form)
        check(Reading("classification", form, temperature=temperature), [outputs], monkeypatch, [1, 40, 19])

    def test_are_so_where_a_class_is_impossible_or_all_but_certain(self, form, temperature, monkeypatch):
        logits = random(2, 30, 4)
        logits[:, ::2, 1], logits[0, :, 0] = -np.inf, 60.0
        with np.errstate(divide="ignore"):
            outputs = in_form(logits, form)
        check(Reading("classification", form, temperature=temperature), [outputs], monkeypatch)


class TestClassesOfLogits:
    def test_are_as_numpy_finds_them_however_far_apart_they_are(self, monkeypatch):
        logits = random(2, 40, 6, scale=1.0) * np.float32(10.0) ** np.arange(-2, 38)[:, None].astype(np.float32)
        check(Reading("classification"), [logits], monkeypatch)

    def test_vote_for_the_first_of_several_that_are_as_probable(self, monkeypatch):
        logits = np.tile(np.float32([[1.0, 2.0, 2.0, 0.0], [3.0, 3.0, 3.0, 3.0]]), (1, 4, 1))
        check(Reading("classification"), [logits], monkeypatch)
        assert ClassBlock([logits], Reading("classification")).votes.tolist() == [[4, 4, 0, 0]]

    def test_beyond_what_is_summed_up_natively_are_numpys(self, monkeypatch):
        check(Reading("classification"), [random(2, 5, MOST_CLASSES + 1)], monkeypatch)

    def test_of_a_row_depend_on_no_row_beside_it(self):
        logits = random(5, 33, 7)
        together = class_sums(logits, "logits", 1.0)
        for row in range(5):
            alone = class_sums(logits[row : row + 1], "logits", 1.0)
            for found, wanted in zip(together[:4], alone[:4], strict=True):
                np.testing.assert_array_equal(found[row], wanted[0])

    def test_are_to_the_last_digits_what_exact_sums_are(self):
        logits = random(1, 400, 10)
        p = np.exp(logits.astype(np.longdouble))
        p /= p.sum(axis=2, keepdims=True)
        found = class_sums(logits, "logits", 1.0)
        np.testing.assert_allclose(found.mean, p.mean(axis=1).astype(float), rtol=3e-15)
        np.testing.assert_allclose(found.squares, (p.var(axis=1) * 400).astype(float), rtol=3e-14)
        entropy = -(p * np.log(p)).sum(axis=(1, 2))
        np.testing.assert_allclose(found.entropy, entropy.astype(float), rtol=3e-15)


@pytest.mark.parametrize("form", ["logits", "probabilities", "log_probabilities"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
class TestLabels:
    def outputs(self, form, *shape):
        logits = random(*shape).astype(np.float64)
        log_p = -np.logaddexp(0.0, -logits)
        return {"logits": logits, "probabilities": np.exp(log_p), "log_probabilities": log_p}[form].astype(np.float32)

    @pytest.mark.parametrize("shape", [(3, 50), (1, 1), (2, 300)])
    def test_alone_are_as_numpy_finds_them(self, shape, form, temperature, monkeypatch):
        check(Reading("binary", form, temperature=temperature), [self.outputs(form, *shape)], monkeypatch)
        column = Reading("binary", form, class_axis=1, temperature=temperature, threshold=0.3)
        check(column, [self.outputs(form, *shape, 1)], monkeypatch)

    @pytest.mark.parametrize("shape", [(3, 50, 4), (2, 9, 1), (1, 20, 10), (2, 20, 11)])
    def test_beside_others_are_as_numpy_finds_them(self, shape, form, temperature, monkeypatch):
        reading = Reading("multilabel", form, class_axis=1, temperature=temperature)
        check(reading, [self.outputs(form, *shape)], monkeypatch, [shape[1] - 1, 1])

    def test_that_are_certain_are_as_numpy_finds_them(self, form, temperature, monkeypatch):
        outputs = self.outputs(form, 2, 20, 3)
        outputs[0, ::2] = {"logits": -np.inf, "probabilities": 0.0, "log_probabilities": -np.inf}[form]
        outputs[1, ::3] = {"logits": 1e30, "probabilities": 1.0, "log_probabilities": 0.0}[form]
        with np.errstate(divide="ignore"):
            check(Reading("multilabel", form, class_axis=1, temperature=temperature), [outputs], monkeypatch)


class TestValues:
    @pytest.mark.parametrize("shape", [(3, 50), (2, 30, 4), (2, 40, 5, 3), (1, 1)])
    @pytest.mark.parametrize("options", [{}, {"noise_variance": 0.3}, {"noise_variance": 2.0, "likelihood": "laplace"}])
    def test_are_as_numpy_finds_them(self, shape, options, monkeypatch):
        check(Reading("regression", **options), [random(*shape)], monkeypatch)

    @pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
    def test_with_their_noise_are_as_numpy_finds_them(self, likelihood, monkeypatch):
        outputs = [random(3, 50, 2), random(3, 50, 2, seed=1, scale=1.0)]
        check(Reading("regression", noise="log_variance", likelihood=likelihood), outputs, monkeypatch, [20, 30])

    def test_of_a_large_mean_lose_no_digit(self):
        samples = random(2, 1000).astype(np.float64) + 1e8
        mean, squares = value_sums(samples)
        np.testing.assert_allclose(mean, samples.mean(axis=1), rtol=1e-15)
        np.testing.assert_allclose(squares, samples.var(axis=1) * 1000, rtol=1e-7)


@pytest.mark.parametrize("likelihood", [GAUSSIAN, LAPLACE], ids=["gaussian", "laplace"])
class TestQuantiles:
    def check(self, means, deviations, weights, likelihood, monkeypatch):
        """So much of the mixture lies at or below each as its level says: below it less, above it more."""
        levels = np.array([0.001, 0.025, 0.5, 0.9, 0.999])
        found = quantiles_of_mixture(means, deviations, weights, levels, likelihood)
        with monkeypatch.context() as without:
            without.setattr(library, "available", lambda: False)
            wanted = quantiles_of_mixture(means, deviations, weights, levels, likelihood)
        assert found.shape == (len(means), len(levels))
        near = 1e-9 * (1.0 + np.abs(means).max())
        for quantiles in (found, wanted):
            assert (share(quantiles - near, means, deviations, weights, likelihood) <= levels + 3e-9).all()
            assert (share(quantiles + near, means, deviations, weights, likelihood) >= levels - 3e-9).all()

    def test_leave_as_much_below_as_they_are_to(self, likelihood, monkeypatch):
        drawn = np.random.default_rng(0)
        for components in (1, 2, 50, 200):
            means, weights = drawn.normal(size=(6, components)), drawn.dirichlet(np.ones(components))
            self.check(means, np.exp(drawn.normal(size=means.shape)), weights, likelihood, monkeypatch)

    def test_do_so_where_components_are_points_or_far_apart(self, likelihood, monkeypatch):
        drawn = np.random.default_rng(1)
        means, weights = drawn.normal(size=(4, 30)) * [[1.0], [1e3], [1e-3], [1.0]], np.full(30, 1.0 / 30)
        deviations = np.exp(2.0 * drawn.normal(size=means.shape))
        deviations[0, ::2], deviations[3] = 0.0, 1e-9
        self.check(means, deviations, weights, likelihood, monkeypatch)


def share(values, means, deviations, weights, likelihood):
    """The share of mixtures at or below values `[mixtures, levels]`."""
    distance = values[:, :, None] - means[:, None]
    is_point = deviations[:, None] == 0.0
    z = distance / np.where(is_point, 1.0, deviations[:, None])
    return np.where(is_point, distance >= 0.0, likelihood.cdf(z)) @ weights


class TestArguments:
    """What would make the extension read where it must not is refused."""

    def test_arrays_of_another_dtype_or_order_are_refused(self):
        for wrong in (random(2, 3, 4).astype(np.float64), random(3, 2, 4).swapaxes(0, 1)):
            with pytest.raises(ValueError, match="contiguous float32"):
                class_sums(wrong, "logits", 1.0)
            with pytest.raises(ValueError, match="contiguous float32"):
                label_sums(wrong, "logits", 1.0, 0.5)
        for wrong in (random(2, 3, 4), random(3, 2, 4).astype(np.float64).swapaxes(0, 1)):
            with pytest.raises(ValueError, match="contiguous float64"):
                value_sums(wrong)
            with pytest.raises(ValueError, match="contiguous float64"):
                combination_sums(wrong)

    def test_more_classes_or_labels_than_there_is_room_for_are_refused(self):
        for classes in (0, MOST_CLASSES + 1):
            with pytest.raises(ValueError, match=f"1 to {MOST_CLASSES} are accepted"):
                class_sums(random(1, 2, classes), "logits", 1.0)
        with pytest.raises(ValueError, match="at most 10 are accepted"):
            combination_sums(np.zeros((1, 2, 11)))

    @pytest.mark.parametrize("name", ["deviations", "weights", "begins"])
    def test_quantiles_of_arrays_that_do_not_fit_are_refused(self, name):
        arguments = {
            "means": np.zeros((2, 3)),
            "deviations": np.ones((2, 3)),
            "weights": np.full(3, 1 / 3),
            "levels": np.array([0.1, 0.9]),
            "begins": np.zeros(2),
        }
        mixture_quantiles(**arguments, likelihood=0)
        with pytest.raises(ValueError, match="is accepted"):
            mixture_quantiles(**{**arguments, name: arguments[name][:1]}, likelihood=0)

    @pytest.mark.parametrize("task", TASKS)
    def test_outputs_of_no_rows_are_not_read_beyond_their_end(self, task):
        reading = Reading(task, class_axis=None if task in ("regression", "binary") else 1, interval=None)
        block = TASKS[task].read([random(2, 1, 3)[:0]] if task != "binary" else [random(2, 1)[:0]], reading)
        assert len(block.moments.mean) == 0
