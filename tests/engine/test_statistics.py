"""Statistics: what passes say, against plain NumPy over all samples at once."""

import copy
import dataclasses
import inspect
import math
import pickle
import re
from typing import get_args

import numpy as np
import pytest

from mcdropout.engine.reading import Reading, Task
from mcdropout.engine.statistics import (
    TASKS,
    Field,
    Prediction,
    Statistics,
    concatenate,
    deterministic,
    register,
    take,
)
from mcdropout.engine.statistics.block import moments_of
from mcdropout.engine.statistics.interval import Mixture
from mcdropout.engine.statistics.running_moments import RunningMoments
from tests.servers import ROOT

CLASSES, VALUES = Reading("classification"), Reading("regression")
YES, LABELS = Reading("binary"), Reading("multilabel", class_axis=1)


def random(*shape, seed=0, scale=1.0):
    return scale * np.random.default_rng(seed).normal(size=shape)


def softmax(logits, axis):
    powers = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def entropy_of(p, axis):
    return -(p * np.log(p)).sum(axis=axis)


def sum_up(reading, outputs, sizes=None):
    """The prediction of outputs `[rows, passes, ...]`, taken in blocks of the given numbers of passes."""
    statistics, start = Statistics(reading), 0
    for size in sizes or [outputs[0].shape[1]]:
        statistics.update([output[:, start : start + size] for output in outputs])
        start += size
    assert start == outputs[0].shape[1]
    return statistics.prediction()


def assert_same(found, wanted, rtol=1e-12):
    assert (found.task, list(found.values), found.seed) == (wanted.task, list(wanted.values), wanted.seed)
    assert found.passes.tolist() == wanted.passes.tolist()
    for name, wanted_value in wanted.values.items():
        assert (found.values[name] is None) == (wanted_value is None), name
        if wanted_value is not None:
            np.testing.assert_allclose(found.values[name], wanted_value, rtol=rtol, atol=1e-14, err_msg=name)


@pytest.mark.parametrize("shape", [(4, 60, 5), (2, 60, 3, 4, 6)], ids=["classes", "dense"])
class TestClassification:
    def test_equals_plain_numpy(self, shape):
        logits = random(*shape, scale=3.0)
        found = sum_up(CLASSES, [logits])
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
        blocks = sum_up(CLASSES, [logits], [1, 1, 30, 7, 21])
        assert_same(blocks, sum_up(CLASSES, [logits]), rtol=1e-11)

    def test_keeps_the_shape_of_the_output_behind_its_classes(self, shape):
        found = sum_up(CLASSES, [random(*shape)])
        rows, _, classes, *space = shape
        assert found.mean.shape == found.variance.shape == found.std_error.shape == (rows, classes, *space)
        for name in ("label", "entropy", "expected_entropy", "mutual_information", "variation_ratio"):
            assert getattr(found, name).shape == (rows, *space), name

    def test_without_dropout_leaves_open_what_only_passes_tell(self, shape):
        logits = random(*shape)[:, :1]
        found, _ = deterministic(CLASSES, [logits])
        np.testing.assert_allclose(found.mean, softmax(logits, 2)[:, 0], rtol=1e-12)
        np.testing.assert_allclose(found.entropy, entropy_of(found.mean, 1), rtol=1e-12)
        assert found.passes.tolist() == [0] * shape[0]
        for name in ("variance", "std_error", "expected_entropy", "mutual_information", "variation_ratio"):
            assert getattr(found, name) is None, name


def test_logits_are_divided_by_the_temperature():
    logits = random(3, 20, 4)
    assert_same(sum_up(Reading("classification", temperature=2.0), [logits]), sum_up(CLASSES, [logits / 2.0]))


def test_one_pass_has_no_variance_but_everything_else():
    found = sum_up(CLASSES, [random(3, 1, 4)])
    assert np.isnan(found.variance).all()
    assert np.isnan(found.std_error).all()
    np.testing.assert_allclose(found.mutual_information, 0.0, atol=1e-12)
    assert found.variation_ratio.tolist() == [0.0] * 3
    value = sum_up(Reading("regression", noise_variance=0.5), [random(3, 1, 4)])
    assert np.isnan(value.epistemic_variance).all()
    assert np.isnan(value.variance).all()
    np.testing.assert_array_equal(value.aleatoric_variance, 0.5)


def test_mutual_information_is_never_below_0():
    logits = np.repeat(random(2000, 1, 7), 3, axis=1)  # passes that agree, so that rounding decides the sign
    found = sum_up(CLASSES, [logits])
    assert (found.entropy - found.expected_entropy).min() < 0.0
    assert found.mutual_information.min() == 0.0


def test_a_class_that_is_all_but_impossible_adds_no_entropy():
    found = sum_up(CLASSES, [np.array([[[1000.0, 0.0, -1000.0]] * 2])])
    assert found.mean.tolist() == [[1.0, 0.0, 0.0]]
    assert found.entropy.tolist() == found.expected_entropy.tolist() == [0.0]


class TestLogitsOfMinusInfinity:
    """Actions that are not allowed, tokens that cannot follow: their probability is 0."""

    LOGITS = random(5, 6, 4)
    LOGITS[:3, :, 1] = -np.inf  # in every pass
    LOGITS[3, ::2, 0] = -np.inf  # in some
    LOGITS[4, :, 1:] = -np.inf  # all classes but one

    def test_are_probabilities_of_0_in_every_statistic(self):
        p = softmax(self.LOGITS, 2)
        mean = p.mean(axis=1)
        found = sum_up(CLASSES, [self.LOGITS], [1, 2, 3])
        np.testing.assert_allclose(found.mean, mean, atol=1e-15)
        np.testing.assert_allclose(found.variance, p.var(axis=1, ddof=1), atol=1e-15)
        each = -np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0).sum(axis=2)
        np.testing.assert_allclose(found.expected_entropy, each.mean(axis=1), atol=1e-12)
        of_mean = -np.where(mean > 0, mean * np.log(np.where(mean > 0, mean, 1.0)), 0.0).sum(axis=1)
        np.testing.assert_allclose(found.entropy, of_mean, atol=1e-12)
        votes = np.stack([(p.argmax(axis=2) == k).sum(axis=1) for k in range(4)], axis=1)
        np.testing.assert_allclose(found.variation_ratio, 1 - votes.max(axis=1) / 6)
        assert found.label.tolist() == mean.argmax(axis=1).tolist()

    def test_are_those_of_a_network_without_the_class(self):
        whole, without = sum_up(CLASSES, [self.LOGITS[:3]]), sum_up(CLASSES, [np.delete(self.LOGITS[:3], 1, axis=2)])
        for name in ("entropy", "expected_entropy", "mutual_information", "variation_ratio"):
            np.testing.assert_allclose(getattr(whole, name), getattr(without, name), rtol=1e-12)

    @pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5)], ids=["rows", "dense"])
    @pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
    def test_stay_so_at_any_temperature_and_in_any_place(self, shape, temperature):
        logits = random(*shape)
        logits[:, :, 2] = -np.inf
        found = sum_up(Reading("classification", temperature), [logits])
        assert not found.mean[:, 2].any()
        assert np.isfinite(found.expected_entropy).all()
        plain, _ = deterministic(Reading("classification", temperature), [logits[:, :1]])
        assert not plain.mean[:, 2].any()
        assert np.isfinite(plain.entropy).all()

    def test_are_no_fault_of_a_row_unless_no_class_is_left(self):
        logits = np.array([[[0.0, -np.inf]], [[-np.inf, -np.inf]], [[0.0, np.inf]], [[np.nan, -np.inf]]])
        assert TASKS["classification"].read([logits], CLASSES).wrong.tolist() == [False, True, True, True]
        dense = np.zeros((2, 1, 3, 4))
        dense[0, 0, :2], dense[1, 0, :, 3] = -np.inf, -np.inf
        assert TASKS["classification"].read([dense], CLASSES).wrong.tolist() == [False, True]

    def test_beside_such_that_only_their_distance_is_infinite_add_no_entropy(self):
        found = sum_up(CLASSES, [np.array([[[1e308, -1e308]] * 2])])
        assert found.expected_entropy.tolist() == [0.0]


def test_variance_survives_a_large_mean():
    values = random(1, 1000) + 1e8
    moments = RunningMoments()
    for start in range(0, 1000, 37):
        moments.update(moments_of(values[:, start : start + 37]))
    np.testing.assert_allclose(moments.variance(), values.var(axis=1, ddof=1), rtol=1e-6)


class TestRegression:
    @pytest.mark.parametrize("noise_variance", [None, 0.3])
    def test_with_one_output_equals_plain_numpy(self, noise_variance):
        means = random(4, 60, 2)
        found = sum_up(Reading("regression", noise_variance=noise_variance), [means], [1, 40, 19])
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
        found = sum_up(Reading("regression", noise_variance=99.0), [means, logarithms], [59, 1])
        aleatoric = np.exp(logarithms).mean(axis=1)
        np.testing.assert_allclose(found.aleatoric_variance, aleatoric, rtol=1e-10)
        np.testing.assert_allclose(found.variance, means.var(axis=1, ddof=1) + aleatoric, rtol=1e-10)
        assert found.interval.shape == (4, 2)

    def test_in_blocks_equals_all_at_once(self):
        outputs = [random(4, 60, 2), random(4, 60, 2, seed=1)]
        blocks = sum_up(VALUES, outputs, [1, 1, 30, 7, 21])
        assert_same(blocks, sum_up(VALUES, outputs), rtol=1e-9)

    def test_without_dropout_and_without_noise_is_a_mean_alone(self):
        found, _ = deterministic(VALUES, [random(3, 1)])
        assert found.passes.tolist() == [0, 0, 0]
        for name in ("variance", "std_error", "epistemic_variance", "aleatoric_variance", "entropy", "interval"):
            assert getattr(found, name) is None, name

    def test_without_dropout_the_known_noise_is_all_the_variance(self):
        mean = random(3, 1)
        found, _ = deterministic(Reading("regression", noise_variance=0.25, interval=0.9), [mean])
        np.testing.assert_array_equal(found.variance, 0.25)
        np.testing.assert_array_equal(found.aleatoric_variance, 0.25)
        assert found.epistemic_variance is None
        half = 0.5 * 1.6448536269514722
        np.testing.assert_allclose(found.interval, np.stack([mean[:, 0] - half, mean[:, 0] + half], 1), rtol=1e-12)

    def test_equal_passes_have_no_density_and_so_no_entropy(self):
        found = sum_up(VALUES, [np.ones((2, 5))])
        assert np.isnan(found.entropy).all()
        np.testing.assert_array_equal(found.interval, 1.0)

    def test_without_an_interval_keeps_nothing_for_it_and_answers_none(self):
        reading = Reading("regression", noise_variance=0.25, interval=None)
        assert sum_up(reading, [random(3, 60)]).interval is None
        assert deterministic(reading, [random(3, 1)])[0].interval is None
        statistics = Statistics(reading)
        statistics.update([random(3, 60)])
        assert Mixture not in statistics._states

    def test_the_interval_holds_the_share_asked_for(self):
        means = random(3, 500)
        found = sum_up(Reading("regression", interval=0.5), [means])
        inside = (means >= found.interval[:, :1]) & (means <= found.interval[:, 1:])
        np.testing.assert_allclose(inside.mean(axis=1), 0.5, atol=0.005)


@pytest.mark.parametrize(
    ("reading", "outputs"),
    [
        (CLASSES, [random(5, 10, 3)]),
        (VALUES, [random(5, 10)]),
        (VALUES, [random(5, 10, 2), random(5, 10, 2, seed=1)]),
    ],
    ids=["classification", "regression without noise", "regression with noise"],
)
class TestRowsOfAPrediction:
    def test_are_taken_as_if_they_had_been_alone(self, reading, outputs):
        whole = sum_up(reading, outputs)
        part = take(whole, slice(1, 3), seed=7)
        assert part.seed == 7
        assert_same(dataclasses.replace(part, seed=None), sum_up(reading, [output[1:3] for output in outputs]))

    def test_are_taken_in_the_midst_of_their_passes_as_if_they_had_been_alone(self, reading, outputs):
        statistics, rows = Statistics(reading), np.array([0, 3])
        statistics.update([output[:, :4] for output in outputs])
        statistics = statistics.take(rows)
        statistics.update([output[rows, 4:] for output in outputs])
        alone = sum_up(reading, [output[rows] for output in outputs], [4, 6])
        assert_same(statistics.prediction(), alone)

    def test_are_taken_before_their_first_pass(self, reading, outputs):
        statistics = Statistics(reading).take(np.array([True, False, True, False, False]))
        statistics.update([output[[0, 2]] for output in outputs])
        assert_same(statistics.prediction(), sum_up(reading, [output[[0, 2]] for output in outputs]))

    def test_are_joined_again_in_order(self, reading, outputs):
        whole = sum_up(reading, outputs)
        assert_same(concatenate([take(whole, slice(0, 1)), take(whole, slice(1, 5))]), whole)

    def test_are_joined_again_where_fields_are_none(self, reading, outputs):
        whole, _ = deterministic(reading, [output[:, :1] for output in outputs])
        assert_same(concatenate([take(whole, slice(0, 2)), take(whole, slice(2, 5))]), whole)


class TestPrediction:
    def test_has_its_statistics_as_attributes(self):
        found = sum_up(CLASSES, [random(2, 5, 3)])
        assert all(getattr(found, name) is value for name, value in found.values.items())
        assert {"passes", "seed", *found.values} <= set(dir(found))

    def test_names_what_there_is_where_there_is_no_such_statistic(self):
        with pytest.raises(AttributeError, match=r"no 'entropi'; this one has task, passes, .*mean, .*interval"):
            _ = sum_up(VALUES, [random(2, 5)]).entropi

    @pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
    def test_can_be_copied_and_pickled(self, copied):
        found = sum_up(CLASSES, [random(2, 5, 3)])
        assert_same(copied(found), found, rtol=0.0)


def test_statistics_leave_the_block_that_they_share_as_it_is():
    """One that wrote into it would spoil those that read it later."""
    pair = [random(4, 6), random(4, 6, seed=1)]
    for reading, outputs in ((CLASSES, [random(4, 6, 3)]), (LABELS, [random(4, 6, 3)]), (VALUES, pair)):
        task = TASKS[reading.task]
        block, states = task.read(outputs, reading), [state() for state in task.states(reading)]
        for state in states:
            state.update(block)
        again = task.read(outputs, reading)
        shared = ("samples", "moments", "entropy", "votes", "noise")
        for name in (name for name in shared if hasattr(block, name)):
            for found, wanted in zip(getattr(block, name), getattr(again, name), strict=True):
                np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("reading", "outputs", "wrong"),
    [
        (CLASSES, [[[[0.0, 1.0]], [[np.nan, 0.0]], [[0.0, np.inf]]]], [False, True, True]),
        (VALUES, [[[0.0], [np.nan], [1.0]]], [False, True, False]),
        (VALUES, [[[0.0], [1.0], [2.0]], [[0.0], [-np.inf], [701.0]]], [False, True, True]),
        (Reading("regression", noise="variance"), [[[0.0], [1.0]], [[0.0], [-1.0]]], [False, True]),
        (Reading("regression", noise="std"), [[[0.0], [1.0]], [[0.0], [-1.0]]], [False, True]),
        (
            Reading("classification", "probabilities"),
            [[[[0.5, 0.5]], [[0.7, 0.7]], [[1.2, -0.2]]]],
            [False, True, True],
        ),
        (Reading("classification", "log_probabilities"), [[[[-1.0, -2.0]], [[0.5, -1.0]]]], [False, True]),
        (Reading("binary", "probabilities"), [[[1.0], [1.1], [-0.1], [np.nan]]], [False, True, True, True]),
        (Reading("binary", "log_probabilities"), [[[-1.0], [0.1]]], [False, True]),
    ],
    ids=[
        "logits",
        "values",
        "logarithms of variances",
        "variances",
        "standard deviations",
        "probabilities",
        "logarithms of probabilities",
        "a probability",
        "the logarithm of a probability",
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_that_no_statistic_can_use_are_found_and_read_as_equal_shares(reading, outputs, wrong, dtype):
    outputs = [np.array(output, dtype) for output in outputs]
    statistics = Statistics(reading)
    block = statistics.update(outputs)
    assert block.wrong.tolist() == wrong
    assert statistics.faults(outputs, block).astype(bool).tolist() == wrong
    share = dtype(0.5 if reading.form == "probabilities" and reading.task == "classification" else 0.0)
    usable = [np.where(block.wrong.reshape(-1, *[1] * (output.ndim - 1)), share, output) for output in outputs]
    for row in range(len(wrong)):
        alone = sum_up(reading, [output[row : row + 1] for output in usable])
        for name, value in statistics.prediction().values.items():
            if value is not None:
                np.testing.assert_array_equal(value[row], alone.values[name][0])


@pytest.mark.parametrize(
    ("reading", "outputs", "told"),
    [
        (
            Reading("regression", noise="variance"),
            [[[1.0, 2.0]], [[0.5, -0.25]]],
            "the network answered -0.25 as the variance, its second output, for row 7; 0 or more is accepted",
        ),
        (
            Reading("regression", noise="log_variance"),
            [[[1.0]], [[900.0]]],
            "the network answered 900 as the log_variance, its second output, for row 7; 700 or less, whose "
            "exponential is finite, is accepted",
        ),
        (
            Reading("regression", noise="std"),
            [[[1.0, -2e200]], [[0.5, 1.0]]],
            "the network answered -2e+200 for row 7; values from -1e+150 to 1e+150 are accepted",
        ),
        (
            Reading("regression", noise="std"),
            [[[1.0]], [[1e160]]],
            "the network answered 1e+160 for row 7; values from -1e+150 to 1e+150 are accepted",
        ),
        (
            Reading("classification", "probabilities"),
            [[[[0.5, 0.7]]]],
            "the network answered probabilities of classes that sum to 1.2 for row 7; those that sum to 1 are accepted",
        ),
        (
            Reading("binary", "probabilities"),
            [[[0.5, 1.5]]],
            "the network answered 1.5 as a probability for row 7; 0 to 1 is accepted",
        ),
        (
            Reading("classification", "log_probabilities"),
            [[[[0.5, -np.inf]]]],
            "the network answered 0.5 as the logarithm of a probability for row 7; 0 or less is accepted",
        ),
        (
            Reading("classification"),
            [[[[-np.inf, -np.inf]]]],
            "the network answered -infinity for each class for row 7; a finite logit for one class or more is accepted",
        ),
        (Reading("classification"), [[[[np.nan, 1.0]]]], "the network answered NaN or infinity for row 7"),
    ],
)
def test_what_is_wrong_with_outputs_is_said_with_their_values(reading, outputs, told):
    outputs = [np.array(output) for output in outputs]
    statistics = Statistics(reading)
    (fault,) = statistics.faults(outputs, statistics.update(outputs))
    assert fault.of(7) == told


def test_tables_of_tasks_and_of_readings_are_the_same():
    assert list(TASKS) == list(get_args(Task))


def example_outputs(task, passes):
    """`[4, passes, ...]`."""
    shapes = {"binary": [()], "regression": [(), ()]}.get(task, [(3,)])
    return [random(4, passes, *shape, seed=seed) for seed, shape in enumerate(shapes)]


@pytest.mark.parametrize("task", TASKS)
class TestFields:
    def test_are_what_a_prediction_has_in_that_order_and_shape(self, task):
        found = sum_up(Reading(task), example_outputs(task, 6))
        fields = TASKS[task].fields
        assert list(found.values) == [field.name for field in fields]
        sizes = {"rows": 4, "classes": 3, "labels": 3, "2": 2}
        for field in fields:
            words = [word for word in field.shape.strip("[]").split(", ") if word != "..."]
            if not field.known_for(Reading(task)):  # quantiles that are predicted: test_quantile_heads.py
                assert found.values[field.name] is None
                continue
            assert found.values[field.name].shape == tuple(sizes[word] for word in words), field.name

    def test_without_a_baseline_are_what_a_deterministic_prediction_lacks(self, task):
        found, _ = deterministic(Reading(task), example_outputs(task, 1))
        for field in TASKS[task].fields:
            unknown = field.of_baseline is None or not field.known_for(Reading(task))
            assert (found.values[field.name] is None) == unknown, field.name

    def test_are_in_the_docstring_of_a_prediction(self, task):
        part = inspect.getdoc(Prediction).split(f"A {task} has", 1)[1].split("\n\n", 2)[1]
        listed = re.findall(r"^- (\w+): `(\[.*?\])`", part, re.MULTILINE)
        assert listed == [(field.name, field.shape) for field in TASKS[task].fields]

    def test_are_in_the_documents_table(self, task):
        table = (ROOT / "docs/numbers.md").read_text().split(f"\n| {task} | |\n", 1)[1].split("\n\n", 1)[0]
        rows = [line.split("|")[1:3] for line in table.splitlines()[1:]]
        assert {name for first, _ in rows for name in re.findall(r"`(\w+)`", first)} == set(TASKS[task].by_name)


@pytest.mark.parametrize("name", ["mean", "passes", "samples", "values", "not a name"])
def test_a_field_whose_name_is_taken_or_none_is_refused(name, monkeypatch):
    monkeypatch.setitem(TASKS, "classification", TASKS["classification"])
    with pytest.raises(ValueError, match=f"named '{name}'; an identifier other than .*'passes'.*'mean'.* is accepted"):
        register("classification", Field(name, "", "[rows]", lambda summary: summary["entropy"]))


def test_a_field_of_no_task_is_refused():
    with pytest.raises(
        ValueError, match=r"no task 'ranking' .*\['classification', 'binary', 'multilabel', 'regression'\] is"
    ):
        register("ranking", Field("rank", "", "[rows]", lambda summary: summary["mean"]))


class Largest:
    """The largest probability of each class so far."""

    def __init__(self):
        self.found = None

    def update(self, block):
        largest = block.samples.max(axis=1)
        self.found = largest if self.found is None else np.maximum(self.found, largest)

    def take(self, rows):
        taken = Largest()
        taken.found = self.found[rows]
        return taken


def test_a_field_with_a_state_of_its_own_is_gathered_beside_the_others(monkeypatch):
    monkeypatch.setitem(TASKS, "classification", TASKS["classification"])
    field = Field("largest", "", "[rows, classes]", lambda summary: summary.state(Largest).found, state=Largest)
    register("classification", field)
    logits = random(4, 60, 3)
    found = sum_up(CLASSES, [logits], [13, 47])
    np.testing.assert_allclose(found.largest, softmax(logits, 2).max(axis=1), rtol=1e-12)
    assert list(found.values)[-1] == "largest"


class TestLabels:
    @pytest.mark.parametrize("reading", [YES, LABELS, Reading("multilabel", class_axis=3)], ids=["one", "some", "last"])
    @pytest.mark.parametrize("form", ["logits", "probabilities", "log_probabilities"])
    def test_of_a_dense_output_equal_plain_numpy_in_whatever_form(self, reading, form):
        logits = random(4, 60, 3, 5, 2, scale=3.0)
        p = 1.0 / (1.0 + np.exp(-logits))
        given = {"logits": logits, "probabilities": p, "log_probabilities": np.log(p)}[form]
        found = sum_up(dataclasses.replace(reading, form=form), [given], [1, 30, 29])
        mean = p.mean(axis=1)
        entropies = -(p * np.log(p) + (1 - p) * np.log(1 - p))
        np.testing.assert_allclose(found.mean, mean, rtol=1e-9)
        np.testing.assert_allclose(found.variance, p.var(axis=1, ddof=1), rtol=1e-8)
        np.testing.assert_allclose(found.entropy, -(mean * np.log(mean) + (1 - mean) * np.log(1 - mean)), rtol=1e-9)
        np.testing.assert_allclose(found.expected_entropy, entropies.mean(axis=1), rtol=1e-8)
        np.testing.assert_array_equal(found.label, mean >= 0.5)
        if reading.task == "multilabel":
            assert found.joint_entropy is found.joint_mutual_information is None
            total = found.expected_entropy.sum(axis=reading.class_axis)
            np.testing.assert_allclose(found.joint_expected_entropy, total, rtol=1e-12)

    @pytest.mark.parametrize("form", ["logits", "probabilities", "log_probabilities"])
    @pytest.mark.parametrize("task", ["binary", "multilabel"])
    def test_are_divided_by_the_temperature(self, form, task):
        logits = random(3, 20, 4)
        p = 1.0 / (1.0 + np.exp(-logits))
        given = {"logits": logits, "probabilities": p, "log_probabilities": np.log(p)}[form]
        reading = Reading(task, form, None if task == "binary" else 1, temperature=2.0)
        plain = dataclasses.replace(reading, form="logits", temperature=1.0)
        assert_same(sum_up(reading, [given]), sum_up(plain, [logits / 2.0]), rtol=1e-7)

    @pytest.mark.filterwarnings("error")
    def test_that_are_certain_have_no_entropy(self):
        for form, values in (("logits", [2000.0, -2000.0]), ("probabilities", [1.0, 0.0])):
            for temperature in (1.0, 2.0):
                reading = Reading("multilabel", form, 1, temperature=temperature)
                found = sum_up(reading, [np.array([[values] * 2])])
                np.testing.assert_allclose(found.mean, [[1.0, 0.0]], atol=1e-170)
                assert found.entropy.tolist() == [[0.0, 0.0]]
                np.testing.assert_allclose([found.joint_entropy, found.joint_expected_entropy], 0.0, atol=1e-12)

    def test_beyond_ten_have_no_joint_entropy(self):
        for labels in (10, 11):
            found = sum_up(LABELS, [random(2, 5, labels)])
            assert (found.joint_entropy is None) == (labels == 11)
            assert found.joint_expected_entropy is not None

    def test_go_on_with_some_rows_as_all_of_them_would(self):
        logits = random(5, 12, 3)
        whole = Statistics(LABELS)
        whole.update([logits[:, :7]])
        some = whole.take(np.array([4, 1]))
        some.update([logits[[4, 1], 7:]])
        assert_same(some.prediction(), sum_up(LABELS, [logits[[4, 1]]]), rtol=1e-11)


def test_classes_stay_where_the_network_has_them():
    logits = random(4, 20, 6, 5)
    found = sum_up(Reading("classification", class_axis=2), [logits])
    first = sum_up(CLASSES, [logits.swapaxes(2, 3)])
    for name, value in first.values.items():
        wanted = value.swapaxes(1, 2) if value.ndim == 3 else value
        np.testing.assert_array_equal(found.values[name], wanted, err_msg=name)


@pytest.mark.parametrize("form", ["probabilities", "log_probabilities"])
@pytest.mark.filterwarnings("error")
def test_probabilities_are_read_as_the_logits_that_make_them(form):
    logits = random(4, 20, 5, scale=3.0)
    p = softmax(logits, 2)
    given = p if form == "probabilities" else np.log(p)
    for temperature in (1.0, 3.0):
        reading = Reading("classification", form, temperature=temperature)
        assert_same(sum_up(reading, [given]), sum_up(dataclasses.replace(reading, form="logits"), [logits]), rtol=1e-9)
    impossible = sum_up(Reading("classification", "probabilities"), [np.array([[[1.0, 0.0]] * 2])])
    assert impossible.mean.tolist() == [[1.0, 0.0]]
    assert impossible.entropy.tolist() == impossible.expected_entropy.tolist() == [0.0]


@pytest.mark.parametrize(("noise", "variance"), [("log_variance", np.exp), ("variance", np.abs), ("std", np.square)])
def test_a_noise_is_read_as_what_it_is(noise, variance):
    means, second = random(4, 20), np.abs(random(4, 20, seed=1))
    found = sum_up(Reading("regression", noise=noise), [means, second])
    np.testing.assert_allclose(found.aleatoric_variance, variance(second).mean(axis=1), rtol=1e-12)


@pytest.mark.parametrize("temperature", [1e-320, 1e-200, 1e200])
def test_a_temperature_next_to_nothing_makes_the_largest_logit_certain_and_an_immense_one_none(temperature):
    statistics = Statistics(Reading("classification", "logits", temperature=temperature))
    statistics.update([np.array([[[1e300, -3.0, 2.0], [5.0, -1e300, 2.0]]])])
    prediction = statistics.prediction()
    assert all(np.isfinite(value).all() for value in (prediction.mean, prediction.variance, prediction.entropy))
    np.testing.assert_allclose(prediction.mean.sum(1), 1.0)
    if temperature < 1.0:
        np.testing.assert_allclose(prediction.mean, [[1.0, 0.0, 0.0]])
