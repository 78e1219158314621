"""Settling: what a network's outputs are, found in its graph and its answers; or a question, where not certain."""

from collections import namedtuple
from contextlib import suppress

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcdropout.engine import Engine, InvalidInputError, UnsupportedModelError, UnusableOutputError
from tests.engine.networks import Custom, mlp

PASSES = 200


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


X = numbers(3, 4)


def engine_of(*arguments, runtime="eager", **options):
    """On the runtime that takes the least to make ready, where it is not on another."""
    return Engine.from_module(*arguments, runtime=runtime, **options)


def ending(end, network=mlp, **options):
    return Custom(lambda self, *x: end(self.rest(*x)), rest=network(**options))


def by_hand(y):
    powers = torch.exp(y - y.amax(-1, keepdim=True))
    return powers / powers.sum(-1, keepdim=True)


def assert_same_statistics(found, wanted, atol=1e-6):
    assert list(found.values) == list(wanted.values)
    for name, value in wanted.values.items():
        np.testing.assert_allclose(found.values[name], value, rtol=0, atol=atol, err_msg=name)


SOFTMAXES = {
    "module": nn.Softmax(dim=-1),
    "function": lambda y: F.softmax(y, 1),
    "torch": lambda y: torch.softmax(y, dim=1),
    "method": lambda y: y.softmax(-1),
    "special": lambda y: torch.special.softmax(y, 1),
    "cast": lambda y: F.softmax(y, 1, dtype=torch.float64).float(),
    "reshaped": lambda y: F.softmax(y.unsqueeze(2), 1).flatten(1),
    "a module of the log": nn.LogSoftmax(dim=1),
    "log": lambda y: F.log_softmax(y, 1),
    "log of the softmax": lambda y: F.softmax(y, 1).log(),
    "by hand": by_hand,
}
SIGMOIDS = {
    "module": nn.Sigmoid(),
    "function": lambda y: F.sigmoid(y),
    "torch": lambda y: torch.sigmoid(y),
    "method": lambda y: y.sigmoid(),
    "in place": lambda y: (y * 1).sigmoid_(),
    "special": lambda y: torch.special.expit(y),
    "by hand": lambda y: 1 / (1 + torch.exp(-y)),
}


def words(size=3):
    """A network of ids, with one of them."""
    torch.manual_seed(0)
    parts = {"words": nn.Embedding(50, 16), "drop": nn.Dropout(0.3), "out": nn.Linear(16, size)}
    return Custom(lambda self, ids: self.out(self.drop(self.words(ids)).mean(1)), **parts), ids()


BOUNDED = {
    "ids": words,
    "normalized": lambda: (nn.Sequential(nn.LayerNorm(4), mlp()), X),
    "squashed": lambda: (nn.Sequential(nn.Tanh(), mlp()), X),
}
# Probabilities that no graph shows, by their task.
UNTOLD = {
    "clamped": ("multilabel", lambda y: y.sigmoid().clamp(1e-6, 1 - 1e-6)),
    "by hand": ("multilabel", lambda y: 1 / (1 + torch.exp(-y))),
    "against": ("multilabel", lambda y: 1 - y.sigmoid()),
    "of a tanh": ("multilabel", lambda y: (torch.tanh(y) + 1) / 2),
    "one of a softmax": ("binary", lambda y: y.softmax(1)[:, 1]),
    "a mean": ("binary", lambda y: y.sigmoid().mean(1)),
    "of no classes": ("classification", lambda y: y.sigmoid() * 1),
}


class TestProbabilities:
    @pytest.mark.wide
    @pytest.mark.parametrize("end", SOFTMAXES.values(), ids=SOFTMAXES)
    def test_of_a_softmax_are_not_softmaxed_again(self, end):
        engine, logits = engine_of(ending(end), X), engine_of(mlp(), X)
        assert engine.reading.form in ("probabilities", "log_probabilities")
        assert_same_statistics(engine.predict(X, PASSES, 1), logits.predict(X, PASSES, 1))
        np.testing.assert_allclose(engine.predict(X, 0).mean, logits.predict(X, 0).mean, rtol=0, atol=1e-6)

    @pytest.mark.wide
    @pytest.mark.parametrize("end", SIGMOIDS.values(), ids=SIGMOIDS)
    @pytest.mark.parametrize(("task", "outputs"), [("multilabel", 3), ("binary", 1)])
    def test_of_a_sigmoid_are_not_taken_for_logits(self, end, task, outputs):
        engine = engine_of(ending(end, outputs=outputs), X, task)
        logits = engine_of(mlp(outputs=outputs), X, task, form="logits")
        assert_same_statistics(engine.predict(X, PASSES, 1), logits.predict(X, PASSES, 1))

    @pytest.mark.parametrize("end", SIGMOIDS.values(), ids=SIGMOIDS)
    def test_of_a_sigmoid_are_no_classes(self, end):
        with pytest.raises(UnsupportedModelError, match="task: multilabel is accepted"):
            engine_of(ending(end), X)

    def test_of_a_softmax_are_no_labels(self):
        with pytest.raises(UnsupportedModelError, match="task: classification is accepted"):
            engine_of(ending(nn.Softmax(1)), X, "multilabel")

    @pytest.mark.wide
    @pytest.mark.parametrize("runtime", ["onnx", "torch"])
    @pytest.mark.parametrize(("task", "end"), [("classification", nn.Softmax(1)), ("multilabel", nn.Sigmoid())])
    def test_are_left_out_of_what_is_exported_too(self, runtime, task, end):
        engine = engine_of(ending(end), X, task, runtime=runtime)
        assert engine.program.strategy == "split"
        assert_same_statistics(engine.predict(X, 50, 1), engine_of(ending(end), X, task).predict(X, 50, 1))

    @pytest.mark.parametrize("temperature", [0.5, 3.0])
    def test_are_divided_by_the_temperature_as_their_logits_are(self, temperature):
        for end in (nn.Softmax(1), by_hand):
            engine = engine_of(ending(end), X, temperature=temperature)
            logits = engine_of(mlp(), X, temperature=temperature)
            assert_same_statistics(engine.predict(X, PASSES, 1), logits.predict(X, PASSES, 1), atol=1e-5)

    def test_that_are_saturated_keep_the_logits_below_them(self):
        """Of a probability that is 0 in float32 nothing is left; the logits below can be divided all the same."""
        network = Custom(lambda self, x: F.softmax(200.0 * self.rest(x), 1), rest=mlp())
        engine = engine_of(network, X, temperature=200.0)
        wanted = engine_of(mlp(), X)
        assert_same_statistics(engine.predict(X, PASSES, 1), wanted.predict(X, PASSES, 1), atol=1e-5)

    def test_that_are_told_are_read_as_they_are(self):
        engine = engine_of(ending(nn.Softmax(1)), X, form="probabilities")
        assert engine.reading.form == "probabilities"
        assert_same_statistics(engine.predict(X, 50, 1), engine_of(mlp(), X).predict(X, 50, 1))
        twice = engine_of(ending(nn.Softmax(1)), X, form="logits").predict(X, 0).mean
        p = torch.softmax(mlp().eval()(torch.from_numpy(X)), 1)
        np.testing.assert_allclose(twice, torch.softmax(p, 1).detach().numpy(), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("form", ["probabilities", "log_probabilities"])
    @pytest.mark.parametrize("task", ["classification", "multilabel"])
    def test_that_are_told_and_are_none_are_refused(self, form, task):
        with pytest.raises(UnsupportedModelError, match="which are no "):
            engine_of(ending(lambda y: 5 * y), X, task, form=form)

    def test_of_a_request_that_are_none_are_an_error_of_that_row(self):
        def forward(self, x):
            return self.rest(x).softmax(1) * torch.where(x[:, :1] > 100, 3.0, 1.0)

        engine = engine_of(Custom(forward, rest=mlp()), X)
        assert engine.reading.form == "probabilities"
        x = X.copy()
        x[1, 0] = 101.0
        with pytest.raises(UnusableOutputError, match="row 1"):
            engine.predict(x, 5, 1)

    @pytest.mark.parametrize("write", [torch.mul, lambda p, factor: p.mul_(factor)], ids=["product", "in place"])
    def test_that_something_is_done_to_afterwards_keep_that(self, write):
        """It changes nothing in the example, and something later: a mask of what may be chosen, for instance."""

        def forward(self, x):
            return write(self.rest(x).softmax(1), torch.where(x[:, :1] > 50, 0.5, 1.0))

        engine = engine_of(Custom(forward, rest=mlp()), X)
        assert engine.reading.form == "probabilities"
        with pytest.raises(UnusableOutputError):
            engine.predict(np.full((1, 4), 51.0, np.float32), 0)

    def test_that_logits_look_like_by_chance_are_logits(self):
        """Small ones that all lie between 0 and 1 leave it where the inputs are large."""
        engine = engine_of(ending(lambda y: 0.01 * y + 0.5), X)
        assert engine.reading.form == "logits"

    @pytest.mark.wide
    @pytest.mark.parametrize(
        "end",
        [
            lambda y: y,
            lambda y: F.dropout(y, 0.2, training=False),
            lambda y: (y / 2.0)[:, :2].unsqueeze(2).squeeze(2),
            lambda y: torch.cat([y, y.mean(1, keepdim=True)], 1),
        ],
        ids=["as it is", "dropped", "a part", "with its mean"],
    )
    @pytest.mark.parametrize("task", ["classification", "multilabel"])
    @pytest.mark.parametrize("form", ["network", "exported program", "ONNX file"])
    def test_that_no_example_tells_from_logits_are_those_where_a_linear_layer_makes_them(
        self, end, task, form, tmp_path
    ):
        network, x = words()
        x = torch.from_numpy(x)
        with torch.no_grad():
            network.out.weight.mul_(0.01)
            network.out.bias.copy_(torch.tensor([0.3, 0.5, 0.7]))
        network = Custom(lambda self, ids: end(self.rest(ids)), rest=network).eval()
        assert (network(x) > 0).all()
        assert (network(x) < 1).all()
        rows = (({0: torch.export.Dim("rows")},),)
        if form == "ONNX file":
            torch.onnx.export(
                network.train(), (x,), tmp_path / "model.onnx", dynamic_shapes=rows, dynamo=True, verbose=False
            )
            engine = Engine.from_onnx(tmp_path / "model.onnx", x.numpy(), task=task)
        else:
            given = network if form == "network" else torch.export.export(network, (x,), dynamic_shapes=rows)
            engine = engine_of(given, x, task)
        assert engine.reading.form == "logits"

    @pytest.mark.parametrize("end", [F.relu, lambda y: F.relu(y).mean(1, keepdim=True) + y.relu()])
    def test_of_classes_may_be_never_negative(self, end):
        assert engine_of(ending(end), X).reading.form == "logits"

    @pytest.mark.parametrize("most", [50, 1e6])
    def test_of_a_softmax_that_is_not_always_the_end_are_never_read_below_it(self, most):
        def sure_of_nothing_beyond(self, x):
            p = self.rest(x).softmax(1)
            return torch.full_like(p, 1 / p.shape[1]) if x.abs().max() > most else p

        network = Custom(sure_of_nothing_beyond, rest=mlp())
        engine, far = engine_of(network, X), 1e8 * np.abs(X)
        np.testing.assert_allclose(
            engine.predict(X, 0).mean, network.eval()(torch.from_numpy(X)).detach(), rtol=0, atol=1e-6
        )
        if most == 50:  # which the trials go beyond
            assert np.allclose(engine.predict(far, 5, 1).mean, 1 / engine.predict(X, 0).mean.shape[1])
        else:
            with pytest.raises(UnsupportedModelError, match="is not its end for these inputs"):
                engine.predict(far, 5, 1)

    @pytest.mark.wide
    @pytest.mark.parametrize("network", BOUNDED.values(), ids=BOUNDED)
    @pytest.mark.parametrize("end", UNTOLD.values(), ids=UNTOLD)
    def test_that_nothing_tells_from_logits_are_asked_about(self, network, end):
        """The inputs are of no size, or their size makes no difference, so that no sigmoid shows at its ends."""
        (task, of_logits), (module, x) = end, network()
        with pytest.raises(UnsupportedModelError, match=r"they never leave 0 to 1"):
            engine_of(ending(of_logits, lambda: module), x, task)
        told = engine_of(
            ending(of_logits, lambda: module), x, task, form="probabilities" if task != "classification" else "logits"
        )
        assert told.reading.because is None

    @pytest.mark.parametrize("shape", [lambda y: y, lambda y: y.view(-1, 3)], ids=["as it is", "reshaped"])
    @pytest.mark.parametrize("end", [F.logsigmoid, nn.LogSigmoid(), lambda y: torch.ops.aten.log_sigmoid(y)])
    def test_of_a_log_sigmoid_are_not_taken_for_logits(self, end, shape):
        engine = engine_of(ending(lambda y: shape(end(y))), X, "multilabel")
        logits = engine_of(ending(shape), X, "multilabel", form="logits")
        assert_same_statistics(engine.predict(X, PASSES, 1), logits.predict(X, PASSES, 1))
        assert engine.reading.because == "the log_sigmoid at its end is left out"

    @pytest.mark.wide
    @pytest.mark.parametrize(
        ("task", "end", "why"),
        [
            ("classification", lambda y: F.dropout(y.softmax(1), 0.3), "with nothing dropped they sum to one"),
            ("classification", lambda y: 100.0 * y.softmax(1), "always sum to 100"),
            ("classification", lambda y: -y.log_softmax(1), "negatives of logarithms"),
            ("classification", lambda y: 1.0 + F.softplus(y), "never below 1, as the parameters of a Dirichlet"),
            ("classification", lambda y: F.relu(y) + 1, "never below 1, as the parameters of a Dirichlet"),
            ("multilabel", lambda y: torch.log(torch.sigmoid(y) + 1e-9), "never above 0"),
            ("multilabel", lambda y: -F.softplus(-y), "never above 0"),
            ("multilabel", lambda y: y.log_softmax(1), "a log_softmax makes them"),
            ("multilabel", lambda y: y.log_softmax(1)[:, :2], "never above 0"),
            ("multilabel", lambda y: 100.0 * y.sigmoid(), "never negative"),
            ("multilabel", torch.tanh, "a tanh makes them"),
            ("multilabel", lambda y: 0.4 * y.sigmoid() + 0.3, "never leave 0 to 1"),
            ("multilabel", lambda y: F.dropout(y.sigmoid(), 0.8), "only where something is dropped"),
        ],
    )
    def test_that_are_bounded_otherwise_are_asked_about(self, task, end, why):
        with pytest.raises(UnsupportedModelError, match=rf"hardly logits: .*{why}.*as: logits"):
            engine_of(ending(end), X, task)
        assert engine_of(ending(end), X, task, form="logits").reading.form == "logits"

    @pytest.mark.parametrize("end", [torch.softmax, torch.log_softmax])
    def test_of_a_softmax_along_another_dimension_than_is_told_are_asked_about(self, end):
        network = Custom(lambda self, x: end(self.rest(x), 2), rest=Steps())
        with pytest.raises(UnsupportedModelError, match=r"hardly logits: a .*softmax makes them, .* dimension 1"):
            engine_of(network, ids(), class_axis=1)

    def test_of_a_softmax_elsewhere_are_not_looked_at(self):
        gate = Custom(lambda self, x: self.rest(x.softmax(1)) * x.sigmoid().mean(1, keepdim=True), rest=mlp())
        assert engine_of(gate, X).reading.form == "logits"


def ended(function, outputs=1):
    """A network whose linear head a function follows."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, outputs), Custom(lambda self, z: function(z))
    )


def _filled(z):
    z[...] = torch.sigmoid(z)
    return z


def _in_views(z):
    z[:, 1:].sigmoid_()
    z[:, :1].sigmoid_()
    return z


def _into_itself(z):
    torch.sigmoid(z, out=z)
    return z


def _cut_off(z):
    z[z > 1.0] = 1.0
    z[z < 0.0] = 0.0
    return z


def _into_a_sum(z):
    summed = torch.zeros_like(z) + z
    summed[:] = torch.sigmoid(z)
    return summed


def _clamped_as_data(z):
    p = torch.sigmoid(z)
    p.data.clamp_(0.45, 0.55)
    return p


def _clamped_in_numpy(z):
    p = torch.sigmoid(z)
    values = p.detach().numpy()
    np.clip(values, 0.45, 0.55, out=values)
    return p


def _clamped_in_inference(z):
    with torch.inference_mode():
        p = torch.softmax(z, 1)
        p.clamp_(0.3, 0.4)
        return p.div_(p.sum(1, keepdim=True))


def mixture():
    def forward(self, x):
        return torch.sigmoid(self.rest(x)) @ self.shares

    network = Custom(forward, rest=mlp(outputs=3))
    network.shares = nn.Parameter(torch.tensor([0.2, 0.3, 0.5]))
    return network


def voted():
    vote = nn.Linear(3, 1, bias=False)
    vote.weight.data = torch.tensor([[0.2, 0.3, 0.5]])
    return nn.Sequential(mlp(outputs=3), nn.Sigmoid(), vote)


# Each with its task, and what makes probabilities of what it returns.
NO_LOGITS = {
    "shares of a mixture": (mixture, "binary", lambda p: p),
    "a layer that votes": (voted, "binary", lambda p: p),
    "a log-sigmoid by hand": (lambda: ended(lambda z: z - F.softplus(z)), "binary", torch.exp),
    "a clamp by hand": (lambda: ended(lambda z: z - F.relu(z - 1) + F.relu(-z)), "binary", lambda p: p),
    "filled": (lambda: ended(_filled), "binary", lambda p: p),
    "in views": (lambda: ended(_in_views, 3), "multilabel", lambda p: p),
    "into itself": (lambda: ended(_into_itself), "binary", lambda p: p),
    "cut off": (lambda: ended(_cut_off), "binary", lambda p: p),
    "into a sum": (lambda: ended(_into_a_sum), "binary", lambda p: p),
    "clamped as data": (lambda: ended(_clamped_as_data), "binary", lambda p: p),
    "clamped in NumPy": (lambda: ended(_clamped_in_numpy), "binary", lambda p: p),
    "clamped in inference mode": (lambda: ended(_clamped_in_inference, 3), "classification", lambda p: p),
}


@pytest.mark.wide
@pytest.mark.parametrize(("make", "task", "probabilities"), NO_LOGITS.values(), ids=NO_LOGITS)
@pytest.mark.parametrize("runtime", ["eager", "auto"])
def test_what_is_no_logit_is_read_as_what_it_is_or_asked_for(make, task, probabilities, runtime):
    torch.manual_seed(0)
    network = make().eval()
    with suppress(UnsupportedModelError):
        engine = engine_of(network, X, task, runtime=runtime)
    if "engine" not in locals():
        with pytest.raises(UnsupportedModelError, match="which are hardly logits"):
            engine_of(network, X, task, runtime=runtime)
        return
    with torch.no_grad():
        wanted = probabilities(network(torch.from_numpy(X.copy()))).numpy()
    found = engine.predict(X, 0).mean
    np.testing.assert_allclose(found, wanted.reshape(found.shape), atol=1e-5)


class Steps(nn.Module):
    """Logits `[rows, steps, classes]` of `[rows, steps]` words."""

    def __init__(self, classes=5):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.drop, self.out = nn.Embedding(50, 16), nn.Dropout(0.3), nn.Linear(16, classes)

    def forward(self, ids):
        return self.out(self.drop(self.words(ids)))


def _pooled(self, x):
    return self.rest(F.avg_pool1d(x.transpose(1, 2), 2).transpose(1, 2))


def ids(steps=7):
    return np.random.default_rng(0).integers(0, 50, (3, steps))


def map_of(channels, classes, factor=1):
    """Logits `[rows, classes, height, width]` of an image."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1, stride=factor), nn.ReLU(), nn.Dropout(0.3), nn.Conv2d(8, classes, 1)
    )


class TestTheDimensionOfTheClasses:
    def assert_along(self, engine, x, axis):
        assert engine.reading.class_axis == axis
        found = engine.predict(x, 20, 1)
        np.testing.assert_allclose(found.mean.sum(axis=axis), 1.0, rtol=1e-9)
        samples = engine.samples(x, 20, 1)
        np.testing.assert_allclose(samples.mean(axis=0), found.mean, rtol=0, atol=1e-12)
        np.testing.assert_allclose(samples.std(axis=0, ddof=1), np.sqrt(found.variance), rtol=0, atol=1e-9)
        np.testing.assert_array_equal(found.label, found.mean.argmax(axis=axis))
        entropy = -(found.mean * np.log(found.mean)).sum(axis=axis)
        np.testing.assert_allclose(found.entropy, entropy, rtol=0, atol=1e-9)

    def test_is_the_last_where_the_others_are_the_steps_of_the_input(self):
        self.assert_along(engine_of(Steps(), ids()), ids(), 2)

    def test_is_the_second_where_the_others_are_the_places_of_the_input(self):
        x = numbers(3, 2, 6, 8)
        self.assert_along(engine_of(map_of(2, 4), x), x, 1)
        self.assert_along(engine_of(map_of(2, 4, factor=2), x), x, 1)
        self.assert_along(engine_of(map_of(2, 2), x), x, 1)

    @pytest.mark.parametrize(
        ("network", "x", "axis"),
        [
            (lambda: Custom(_pooled, rest=mlp(inputs=4, outputs=4)), numbers(3, 10, 4), 2),
            (
                lambda: nn.Sequential(map_of(3, 4), Custom(lambda self, y: y.permute(0, 2, 3, 1))),
                numbers(3, 3, 16, 8),
                3,
            ),
            (
                lambda: nn.Sequential(map_of(3, 8), Custom(lambda self, y: y.permute(0, 2, 3, 1))),
                numbers(3, 3, 8, 8),
                3,
            ),
        ],
        ids=["pooled steps of as many features as classes", "a map with channels last", "a square one"],
    )
    def test_is_the_one_that_does_not_follow_the_sizes_of_the_input(self, network, x, axis):
        self.assert_along(engine_of(network(), x), x, axis)

    @pytest.mark.parametrize("classes", [7, 8])
    @pytest.mark.parametrize("along", [1, 2])
    def test_is_asked_for_where_as_many_entries_as_the_input_has_steps_are_no_steps(self, classes, along):
        def forward(self, words):
            answers = self.rest(self.words(words).mean(1)).reshape(-1, 3, classes)
            return answers if along == 2 else answers.transpose(1, 2)

        torch.manual_seed(0)
        questions = Custom(forward, words=nn.Embedding(50, 4), rest=mlp(outputs=3 * classes))
        with pytest.raises(UnsupportedModelError, match="more than one dimension may hold the classes"):
            engine_of(questions, ids(8))

    def test_is_not_taken_from_what_a_configuration_says_of_its_own_accord(self):
        def forward(self, words):
            return self.rest(self.words(words).mean(1)).reshape(-1, 2, 5)

        torch.manual_seed(0)
        questions = Custom(forward, words=nn.Embedding(50, 4), rest=mlp(outputs=10))
        questions.config = type("Configuration", (), {"num_labels": 2, "vocab_size": 5})()
        with pytest.raises(UnsupportedModelError, match="more than one dimension may hold the classes"):
            engine_of(questions, ids(8))

    def test_is_asked_for_where_it_may_be_either(self):
        of_one_length = nn.Sequential(Steps(classes=7), Custom(lambda self, y: y + torch.ones(7, 7)))
        with pytest.raises(UnsupportedModelError, match=r"output: \{classes: 1\} or output: \{classes: 2\} says which"):
            engine_of(of_one_length, ids())
        self.assert_along(engine_of(Steps(classes=7), ids()), ids(), 2)
        queries = Custom(lambda self, x: self.rest(x).reshape(-1, 4, 3), rest=mlp(outputs=12))
        with pytest.raises(UnsupportedModelError, match="more than one dimension may hold the classes"):
            engine_of(queries, X)

    @pytest.mark.parametrize(("given", "axis"), [(-1, 2), (2, 2), (1, 1)])
    def test_is_the_one_that_is_told(self, given, axis):
        self.assert_along(engine_of(Steps(classes=7), ids(), class_axis=given), ids(), axis)

    @pytest.mark.parametrize("given", [0, 3, -3])
    def test_that_is_told_has_to_be_one(self, given):
        with pytest.raises(UnsupportedModelError, match="1 to 2, or -1 for the last, is accepted"):
            engine_of(Steps(), ids(), class_axis=given)

    @pytest.mark.parametrize("end", [nn.Softmax(-1), nn.LogSoftmax(-1), by_hand], ids=["softmax", "log", "by hand"])
    def test_is_the_one_that_a_softmax_runs_along(self, end):
        self.assert_along(engine_of(ending(end, Steps, classes=7), ids()), ids(), 2)

    @pytest.mark.parametrize("place", ["network", "configuration"])
    def test_is_the_one_with_as_many_as_the_network_says(self, place):
        network = Custom(lambda self, x: self.rest(x).reshape(-1, 4, 3), rest=mlp(outputs=12))
        if place == "network":
            network.num_classes = 3
        else:
            network.config = type("Configuration", (), {"num_labels": 3})()
        self.assert_along(engine_of(network, X), X, 2)

    def test_is_the_same_after_the_engine_was_saved(self, tmp_path):
        engine = engine_of(Steps(classes=7), ids(), class_axis=-1, runtime="onnx")
        engine.save(tmp_path)
        assert_same_statistics(Engine.load(tmp_path).predict(ids(), 20, 1), engine.predict(ids(), 20, 1), atol=0)


class TestBinary:
    @pytest.mark.parametrize(
        "shape",
        [lambda y: y, lambda y: y[:, 0], lambda y: y[:, 0, None, None]],
        ids=["[rows, 1]", "[rows]", "a map of one"],
    )
    def test_takes_one_number_a_row(self, shape):
        found = engine_of(ending(shape, outputs=1), X, "binary").predict(X, 20, 1)
        wanted = engine_of(mlp(outputs=1), X, "binary").predict(X, 20, 1)
        np.testing.assert_allclose(found.mean.ravel(), wanted.mean, rtol=0, atol=1e-6)
        assert wanted.mean.shape == (3,)

    def test_takes_a_map(self):
        x = numbers(3, 2, 6, 8)
        assert engine_of(map_of(2, 1), x, "binary").predict(x, 5, 1).mean.shape == (3, 6, 8)
        squeezed = engine_of(ending(lambda y: y[:, 0], lambda: map_of(2, 1)), x, "binary")
        assert squeezed.predict(x, 5, 1).mean.shape == (3, 6, 8)

    @pytest.mark.parametrize(("outputs", "task"), [(2, "classification"), (3, "multilabel")])
    def test_refuses_several_with_the_task_that_takes_them(self, outputs, task):
        with pytest.raises(UnsupportedModelError, match=f"task: {task} is accepted"):
            engine_of(mlp(outputs=outputs), X, "binary")

    @pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9])
    def test_says_yes_from_the_threshold_on(self, threshold):
        engine = engine_of(mlp(outputs=1), X, "binary", threshold=threshold)
        found, samples = engine.predict(X, 50, 1), engine.samples(X, 50, 1)
        np.testing.assert_array_equal(found.label, found.mean >= threshold)
        yes = (samples >= threshold).sum(axis=0)
        np.testing.assert_allclose(found.variation_ratio, np.minimum(yes, 50 - yes) / 50)

    @pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0])
    def test_refuses_another_threshold(self, threshold):
        with pytest.raises(InvalidInputError, match=r"threshold is .*; a number between 0 and 1 is accepted"):
            engine_of(mlp(outputs=1), X, "binary", threshold=threshold)


def of_passes(engine, passes):
    """The masks of the one site in each pass of three rows, `[1, *mask_shape]` for each row."""
    return [[engine.masks(1, row, number, 1)[0] for row in range(3)] for number in range(passes)]


def pair(second):
    def forward(self, x):
        y = self.rest(x)
        return y[:, 0], second(y[:, 1])

    return Custom(forward, rest=mlp(outputs=2))


class TestTheSecondOutputOfARegression:
    @pytest.mark.parametrize(
        ("noise", "of_log_variance"),
        [
            ("log_variance", lambda v: v),
            ("variance", torch.exp),
            ("std", lambda v: torch.exp(v / 2)),
        ],
    )
    def test_is_what_it_is_told_to_be(self, noise, of_log_variance):
        engine = engine_of(pair(of_log_variance), X, "regression", output={"mean": 0, noise: 1})
        found = engine.predict(X, 50, 1)
        runs = [engine.outputs(X, [np.concatenate(masks)]) for masks in of_passes(engine, 50)]
        assert engine.reading.noise == noise
        wanted = engine_of(pair(lambda v: v), X, "regression", output={"mean": 0, "log_variance": 1})
        np.testing.assert_allclose(found.aleatoric_variance, wanted.predict(X, 50, 1).aleatoric_variance, rtol=1e-5)
        np.testing.assert_allclose(found.mean, np.mean([run[0] for run in runs], axis=0), rtol=0, atol=1e-6)

    @pytest.mark.parametrize(
        "second", [torch.exp, F.softplus, lambda v: v**2, torch.relu], ids=["exp", "softplus", "square", "relu"]
    )
    def test_is_asked_for_where_it_is_never_negative(self, second):
        with pytest.raises(UnsupportedModelError, match=r"output: \{mean: 0, variance: 1\}.* is accepted"):
            engine_of(pair(second), X, "regression")

    def test_is_the_logarithm_of_the_variance_where_it_is_negative_somewhere(self):
        engine = engine_of(pair(lambda v: v - 3.0), X, "regression")
        assert engine.reading.noise == "log_variance"
        assert "negative somewhere" in engine.reading.because

    @pytest.mark.wide
    @pytest.mark.parametrize(
        ("name", "change", "noise"),
        [
            ("logvar", torch.sub, "log_variance"),
            ("log_variance", torch.add, "log_variance"),
            ("log_std", torch.sub, "log_scale"),
            ("LogSigma", torch.add, "log_scale"),
            ("variance", torch.add, "variance"),
            ("sigma", torch.add, "std"),
        ],
    )
    @pytest.mark.parametrize("make", [dict, lambda **named: namedtuple("Found", named)(**named)], ids=["dict", "tuple"])
    def test_is_what_its_name_says(self, make, name, change, noise):
        network = Custom(lambda self, x: make(mu=(z := self.rest(x))[:, 0], **{name: change(z[:, 1], 9.0)}), rest=mlp())
        engine = engine_of(network, X, "regression")
        assert (engine.reading.noise, engine.reading.because) == (noise, f"the network calls its second output {name}")
        told = engine_of(network, X, "regression", output={"mean": "mu", noise: name}).predict(X, 20, 1)
        for statistic in ("mean", "variance", "aleatoric_variance"):
            np.testing.assert_array_equal(engine.predict(X, 20, 1).values[statistic], told.values[statistic])

    @pytest.mark.parametrize(
        ("names", "change"),
        [
            (("lat", "lon"), torch.sub),
            (("mean", "spread"), torch.sub),
            (("logvar", "mean"), torch.sub),
            (("mean", "variance"), torch.sub),
            (("mean", "log_scale"), torch.sub),
        ],
    )
    def test_that_its_name_leaves_open_is_asked_for_whatever_its_sign(self, names, change):
        network = Custom(
            lambda self, x: dict(zip(names, ((z := self.rest(x))[:, 0], change(z[:, 1], 9.0)), strict=True)), rest=mlp()
        )
        mean = names[0] if names[0] != "logvar" else names[1]
        with pytest.raises(UnsupportedModelError, match=rf"named '{names[0]}' and '{names[1]}', .*mean: {mean}, log_"):
            engine_of(network, X, "regression")

    def test_is_no_standard_deviation_by_its_name_where_the_likelihood_has_a_scale_of_its_own(self):
        network = Custom(lambda self, x: {"mu": (z := self.rest(x))[:, 0], "sigma": F.softplus(z[:, 1])}, rest=mlp())
        with pytest.raises(UnsupportedModelError, match=r"mean: mu, std: sigma\} says it, or .*scale in its place"):
            engine_of(network, X, "regression", likelihood="student_t", df=4.0)

    @pytest.mark.wide
    @pytest.mark.parametrize("kind", ["variance", "std", "log_variance"])
    @pytest.mark.parametrize(
        ("mean", "noise"),
        [
            (lambda y: y, lambda v: v[:, :1]),
            (lambda y: y, lambda v: v[:, 0]),
            (lambda y: y[:, 0], lambda v: v[:, :1]),
            (lambda y: y[:, :1], lambda v: v[:, 0]),
            (lambda y: y[:, None].expand(-1, 4, -1), lambda v: v[:, None, :1].expand(-1, 4, -1)),
            (lambda y: y[:, None].expand(-1, 4, -1), lambda v: v[:, :1].expand(-1, 4)),
        ],
        ids=[
            "[r,1] of [r,t]",
            "[r] of [r,t]",
            "[r,1] of [r]",
            "[r] of [r,1]",
            "[r,p,1] of [r,p,t]",
            "[r,p] of [r,p,t]",
        ],
    )
    def test_may_be_one_for_all_along_the_last_dimension(self, mean, noise, kind):
        def own(self, x):
            y = self.rest(x)
            return mean(y), noise(F.softplus(y))

        def spread(self, x):
            y, v = own(self, x)
            v = v.reshape(y.shape) if v.numel() == y.numel() else v.reshape(*y.shape[:-1], 1).expand_as(y)
            return y, v

        told = {"mean": 0, kind: 1}
        found, wanted = (
            engine_of(Custom(forward, rest=mlp()), X, "regression", output=told).predict(X, 30, 1)
            for forward in (own, spread)
        )
        assert found.aleatoric_variance.shape == found.mean.shape
        for statistic in ("mean", "variance", "epistemic_variance", "aleatoric_variance", "interval", "entropy"):
            np.testing.assert_array_equal(found.values[statistic], wanted.values[statistic], err_msg=statistic)

    def test_of_another_shape_is_asked_for_where_nobody_says_what_it_is(self):
        network = Custom(lambda self, x: (y := self.rest(x), y[:, :1] - 9.0), rest=mlp())
        with pytest.raises(UnsupportedModelError, match=r'output=\{"mean": ..., "variance": ...\} for two'):
            engine_of(network, X, "regression")

    def test_of_a_shape_that_fits_no_mean_is_refused(self):
        network = Custom(lambda self, x: (y := self.rest(x), F.softplus(y[:, :2])), rest=mlp())
        message = r"shape \[\[3, 3\], \[3, 2\]\]; .* in the same shape, or without the last dimension, or with 1 in it"
        with pytest.raises(UnsupportedModelError, match=message):
            engine_of(network, X, "regression", output={"mean": 0, "variance": 1})

    @pytest.mark.parametrize("noise", ["variance", "std"])
    def test_that_is_negative_is_no_variance(self, noise):
        with pytest.raises(UnsupportedModelError, match=f"is negative somewhere, and so is no {noise}"):
            engine_of(pair(lambda v: v - 3.0), X, "regression", output={"mean": 0, noise: 1})

    def test_may_be_left_out(self):
        engine = engine_of(pair(torch.exp), X, "regression", output=0)
        assert engine.predict(X, 5, 1).aleatoric_variance is None

    def test_has_to_be_there_where_it_is_told(self):
        with pytest.raises(
            InvalidInputError, match="mean with one of log_variance, variance, std, log_scale, scale is accepted"
        ):
            engine_of(pair(torch.exp), X, "regression", output={"mean": 0})


def test_any_number_of_targets_is_a_regression():
    found = engine_of(mlp(outputs=7), X, "regression").predict(X, 20, 1)
    assert found.mean.shape == found.epistemic_variance.shape == (3, 7)


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("regression", {"form": "logits"}),
        ("regression", {"class_axis": 1}),
        ("classification", {"form": "odds"}),
        ("classification", {"output": {"mean": 0, "variance": 1}}),
        ("ranking", {}),
    ],
)
def test_what_a_task_does_not_have_is_refused_by_name(task, options):
    with pytest.raises(InvalidInputError, match=" is accepted"):
        engine_of(mlp(), X, task, **options)
