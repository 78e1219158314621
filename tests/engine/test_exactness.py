"""Exactness: all masks of a small network, one by one, say what the statistics must be; Monte Carlo comes close to it.

The networks have ten dropout units, so that their distribution over masks is a sum of 1024 terms.
"""

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch import nn

from mcdropout.engine import Engine
from tests.engine.networks import Custom

PASSES = 20_000
UNITS = (6, 4)


def network(p, outputs):
    """`[rows, 3]` through two hidden layers, of 6 and 4 units, each behind a dropout."""
    torch.manual_seed(8)
    module = nn.Sequential(
        nn.Linear(3, 6), nn.Tanh(), nn.Dropout(p), nn.Linear(6, 4), nn.ReLU(), nn.Dropout(p), nn.Linear(4, outputs)
    )
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(2.0)
    return module


def mean_and_noise(p):
    """A regression with two outputs, the mean and the logarithm of the variance, both under the masks."""

    def forward(self, x):
        both = self.both(x)
        return both[:, 0], both[:, 1]

    return Custom(forward, both=network(p, 2))


def many_units(p, units=2000):
    """A regression in which one layer of many units is dropped from, each with a weight of its own."""
    torch.manual_seed(9)
    return nn.Sequential(nn.Linear(4, units), nn.Dropout(p), nn.Linear(units, 1))


@pytest.mark.wide
@pytest.mark.parametrize("p", [2e-5, 7e-6, 1e-3, 1 - 2e-5])
@pytest.mark.parametrize("runtime", ["sparse", "onnx"])
def test_the_variance_under_a_small_p_is_that_of_the_exact_law(p, runtime):
    """The output is a sum of independent units, whose cumulants add: the variance, and how far that of so many passes
    may be from it. Bound of 4.5 standard deviations; the estimate is skewed where few units were dropped, so that a
    false alarm is put at 1e-4 a case."""
    module, x, passes = many_units(p, 2000 if p < 0.5 else 200), np.full((1, 4), 0.5, np.float32), 200_000
    with torch.no_grad():
        hidden = module[0](torch.from_numpy(x)).double()
        parts = (hidden * module[2].weight.double()).numpy().ravel()
    kept = np.array([0.0, 1.0 / (1.0 - p)])
    second, fourth = ((p * (kept[0] - 1) ** k + (1 - p) * (kept[1] - 1) ** k) for k in (2, 4))
    variance = second * (parts**2).sum()
    spread = math.sqrt(((fourth - 3 * second**2) * (parts**4).sum() + 2 * variance**2) / passes)
    engine = Engine.from_module(module, x, task="regression", runtime=runtime)
    found = engine.predict(x, passes, seed=1).epistemic_variance.item()
    assert spread < 0.09 * variance
    assert abs(found - variance) < 4.5 * spread


X = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
KEPT = np.array(list(itertools.product([0, 1], repeat=sum(UNITS))), np.float64)


def weights_of_masks(p):
    dropped = sum(UNITS) - KEPT.sum(axis=1)
    return p**dropped * (1.0 - p) ** (sum(UNITS) - dropped)


def every_output(module, p):
    """Plain NumPy in float64: the network's outputs `[rows, 1024, outputs]` under every mask."""
    (w1, b1), (w2, b2), (w3, b3) = (
        (layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy())
        for layer in module
        if isinstance(layer, nn.Linear)
    )
    scaled = KEPT / (1.0 - p)
    hidden = np.tanh(X.astype(np.float64) @ w1.T + b1)[:, None] * scaled[:, :6]
    hidden = np.maximum(hidden @ w2.T + b2, 0.0) * scaled[:, 6:]
    return hidden @ w3.T + b3


def outputs_of_engine(engine, p):
    """The same through the engine: `[rows, 1024, ...]` of each output."""
    scaled = (KEPT / (1.0 - p)).astype(np.float32)
    masks = [np.tile(scaled[:, :6], (len(X), 1)), np.tile(scaled[:, 6:], (len(X), 1))]
    outputs = engine.outputs(np.repeat(X, len(KEPT), axis=0), masks)
    return [output.reshape(len(X), len(KEPT), *output.shape[1:]) for output in outputs]


def average(values, weights):
    """The weighted mean over the masks, the second dimension."""
    return np.tensordot(values, weights, axes=([1], [0]))


def close(found, wanted, tolerance=1e-6):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)


class Truth:
    """What classification is, exactly: sums over all masks; and the standard error of each estimate of it."""

    def __init__(self, logits, weights):
        powers = np.exp(logits - logits.max(axis=2, keepdims=True))
        p = powers / powers.sum(axis=2, keepdims=True)
        entropies = -(p * np.log(p)).sum(axis=2)
        self.mean = average(p, weights)
        deviations = p - self.mean[:, None]
        self.variance = average(deviations**2, weights)
        self.entropy = -(self.mean * np.log(self.mean)).sum(axis=1)
        self.expected_entropy = average(entropies, weights)
        self.mutual_information = self.entropy - self.expected_entropy
        winners = p.argmax(axis=2)
        shares = np.stack([average((winners == c).astype(float), weights) for c in range(p.shape[2])], axis=1)
        self.variation_ratio = 1.0 - shares.max(axis=1)

        def error(influence):
            return np.sqrt(average((influence - average(influence, weights)[:, None]) ** 2, weights) / PASSES)

        # How one pass moves an estimate, to first order: the delta method.
        moved_entropy = -(p * np.log(self.mean)[:, None]).sum(axis=2)
        self.errors = {
            "mean": error(p),
            "variance": error(deviations**2),
            "entropy": error(moved_entropy),
            "expected_entropy": error(entropies),
            "mutual_information": error(moved_entropy - entropies),
            "variation_ratio": np.sqrt(self.variation_ratio * (1.0 - self.variation_ratio) / PASSES),
        }


@pytest.fixture(scope="module", params=[0.5, 0.25])
def p(request):
    return request.param


@pytest.fixture(scope="module")
def classifier(p):
    module = network(p, 3)
    engine = Engine.from_module(module, X, runtime="torch")
    return engine, Truth(every_output(module, p), weights_of_masks(p))


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_every_statistic_of_a_classification_is_exact(runtime):
    module = network(0.5, 3)
    engine = Engine.from_module(module, X, runtime=runtime)
    truth = Truth(every_output(module, 0.5), weights_of_masks(0.5))
    found = engine.summarize(outputs_of_engine(engine, 0.5))
    unbiased = truth.variance * len(KEPT) / (len(KEPT) - 1)
    close(found.mean, truth.mean)
    close(found.variance, unbiased)
    close(found.std_error, np.sqrt(unbiased / len(KEPT)))
    close(found.entropy, truth.entropy)
    close(found.expected_entropy, truth.expected_entropy)
    close(found.mutual_information, truth.mutual_information)
    close(found.variation_ratio, truth.variation_ratio)
    assert found.label.tolist() == truth.mean.argmax(axis=1).tolist()
    assert found.passes.tolist() == [len(KEPT)] * len(X)
    assert truth.mutual_information.min() > 0.01  # the masks matter to this network
    assert truth.variation_ratio.max() > 0.05


def test_every_output_under_every_weighted_mask_is_exact(p, classifier):
    engine, _ = classifier
    module = network(p, 3)
    (logits,) = outputs_of_engine(engine, p)
    close(logits, every_output(module, p), 1e-5)


def test_many_passes_of_a_classification_come_close_to_all_masks(classifier):
    """Within 4 standard errors: 33 estimates, most of them correlated, at 6e-5 each: false alarms below 0.2 %."""
    engine, truth = classifier
    found = engine.predict(X, PASSES, seed=1)
    for name, error in truth.errors.items():
        distance = np.abs(getattr(found, name) - getattr(truth, name))
        assert (distance <= 4.0 * error + 1.0 / PASSES).all(), f"{name}: {distance / error} standard errors"
    close(found.std_error, np.sqrt(found.variance / PASSES), 1e-12)


def test_few_passes_are_right_on_average(classifier):
    """The mean of 400 answers of 5 passes, within 4 standard errors: false alarms below 0.2 %.

    `variance` is the unbiased one; that over all 5 passes, not 4, would be 20 % too small.
    """
    engine, truth = classifier
    answers = [engine.predict(X, 5, seed=seed) for seed in range(400)]
    for name in ("mean", "variance"):
        values = np.stack([getattr(answer, name) for answer in answers])
        error = values.std(axis=0, ddof=1) / math.sqrt(len(values))
        assert (np.abs(values.mean(axis=0) - getattr(truth, name)) < 4.0 * error).all(), name


def share_below(value, means, deviations, weights):
    """The share at or below `value` of a mixture of Gaussians."""
    z = (value - means) / deviations
    return float(np.dot(weights, [NormalDist().cdf(each) for each in z]))


@pytest.mark.parametrize("noise", ["given", "predicted"])
def test_every_statistic_of_a_regression_is_exact(noise):
    if noise == "given":
        module = network(0.5, 1)
        engine = Engine.from_module(module, X, "regression", runtime="torch", noise_variance=0.4)
        means = every_output(module, 0.5)[..., 0]
        variances = np.full_like(means, 0.4)
    else:
        module = mean_and_noise(0.5)
        engine = Engine.from_module(module, X, "regression", output={"mean": 0, "log_variance": 1}, runtime="torch")
        both = every_output(module.both, 0.5)
        means, variances = both[..., 0], np.exp(both[..., 1])
    found = engine.summarize([output.reshape(len(X), len(KEPT)) for output in outputs_of_engine(engine, 0.5)])
    epistemic, aleatoric = means.var(axis=1, ddof=1), variances.mean(axis=1)
    np.testing.assert_allclose(found.mean, means.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(found.epistemic_variance, epistemic, rtol=1e-6)
    np.testing.assert_allclose(found.aleatoric_variance, aleatoric, rtol=1e-6)
    np.testing.assert_allclose(found.variance, epistemic + aleatoric, rtol=1e-6)
    np.testing.assert_allclose(found.std_error, np.sqrt(epistemic / len(KEPT)), rtol=1e-6)
    close(found.entropy, 0.5 * np.log(2 * np.pi * np.e * (epistemic + aleatoric)))
    equal = weights_of_masks(0.5)
    for row in range(len(X)):
        for bound, level in zip(found.interval[row], (0.025, 0.975), strict=True):
            assert share_below(bound, means[row], np.sqrt(variances[row]), equal) == pytest.approx(level, abs=1e-6)


def test_many_passes_of_a_regression_come_close_to_all_masks(p):
    """Within 4 standard errors: 18 estimates at 6e-5 each: false alarms below 0.2 %.

    An interval's bounds, taken from CAPACITY Gaussians, may lie another two shares in CAPACITY from their level.
    """
    module = network(p, 1)
    engine = Engine.from_module(module, X, "regression", runtime="torch", noise_variance=0.4)
    means, weights = every_output(module, p)[..., 0], weights_of_masks(p)
    mean = average(means, weights)
    squares = (means - mean[:, None]) ** 2
    variance = average(squares, weights)
    found = engine.predict(X, PASSES, seed=2)
    assert (np.abs(found.mean[:, 0] - mean) < 4.0 * np.sqrt(variance / PASSES)).all()
    error = np.sqrt(average((squares - variance[:, None]) ** 2, weights) / PASSES)
    assert (np.abs(found.epistemic_variance[:, 0] - variance) < 4.0 * error).all()
    close(found.variance, found.epistemic_variance + 0.4, 1e-12)
    close(found.aleatoric_variance, 0.4, 1e-12)
    for row in range(len(X)):
        for bound, level in zip(found.interval[row, 0], (0.025, 0.975), strict=True):
            at = share_below(bound, means[row], math.sqrt(0.4), weights)
            assert abs(at - level) < 4.0 * math.sqrt(level * (1.0 - level) / PASSES) + 2.0 / 1024


def bernoulli_entropy(p):
    return -(p * np.log(p) + (1.0 - p) * np.log(1.0 - p))


@pytest.mark.parametrize("task", ["binary", "multilabel"])
@pytest.mark.parametrize("end", [None, nn.Sigmoid()], ids=["logits", "probabilities"])
def test_every_statistic_of_labels_is_exact(task, end):
    labels = 1 if task == "binary" else 3
    module = network(0.5, labels)
    plain = every_output(module, 0.5)
    engine = Engine.from_module(module if end is None else nn.Sequential(module, end), X, task, runtime="torch")
    found = engine.summarize(outputs_of_engine(engine, 0.5))
    p = 1.0 / (1.0 + np.exp(-plain))
    if task == "binary":
        p = p[..., 0]
    mean, count = p.mean(axis=1), len(KEPT)
    expected, yes = bernoulli_entropy(p).mean(axis=1), (p >= 0.5).sum(axis=1)
    close(found.mean, mean)
    close(found.variance, p.var(axis=1, ddof=1))
    close(found.std_error, p.std(axis=1, ddof=1) / math.sqrt(count))
    close(found.entropy, bernoulli_entropy(mean))
    close(found.expected_entropy, expected)
    close(found.mutual_information, bernoulli_entropy(mean) - expected)
    close(found.variation_ratio, np.minimum(yes, count - yes) / count, 1.5 / count)
    np.testing.assert_array_equal(found.label, mean >= 0.5)
    if task == "binary":
        return
    joint = np.zeros((len(X), 2**labels))
    for number, there in enumerate(itertools.product([0, 1], repeat=labels)):
        of_passes = np.where(np.array(there), p, 1.0 - p).prod(axis=2)
        joint[:, number] = of_passes.mean(axis=1)
    entropy = -(joint * np.log(joint)).sum(axis=1)
    close(found.joint_entropy, entropy)
    close(found.joint_expected_entropy, expected.sum(axis=1))
    close(found.joint_mutual_information, entropy - expected.sum(axis=1))
    largest, total = found.mutual_information.max(axis=1), found.mutual_information.sum(axis=1)
    assert (found.joint_mutual_information > largest + 1e-3).all()  # what the passes say of one label is not all
    assert (found.joint_mutual_information < total - 1e-3).all()  # nor do they say it of each by itself
