"""Refusals: what the engine does not take, and the sentence that it says then."""

import functools
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Independent, Normal

from mcdropout.engine import (
    Engine,
    EngineError,
    InvalidInputError,
    Selection,
    UnsupportedModelError,
    UnusableOutputError,
    VerificationError,
)
from tests.engine.networks import Custom, drop_connect, drop_path, mlp

X = torch.rand(3, 4)


def take(module, x=X, **options):
    return Engine.from_module(module, x, runtime=options.pop("runtime", "eager"), **options)


def refusal(error, module, x=X, **options):
    """The message, which is one sentence for a user."""
    with pytest.raises(error) as raised:
        take(module, x, **options)
    message = str(raised.value)
    assert isinstance(raised.value, EngineError)
    assert message
    assert "\n" not in message
    assert not message.endswith(".")
    return message


def behind_dropout(module):
    return nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), module, nn.Linear(4, 3))


class TestANetworkWithoutDropout:
    def test_is_told_that_none_was_seen(self):
        assert refusal(UnsupportedModelError, nn.Linear(4, 3)) == (
            "the network has no dropout to switch on (dropout calls seen: none); Monte Carlo dropout needs at least "
            "one with p above 0 on the way from input to output, which the selection may add"
        )

    def test_is_told_where_p_is_0(self):
        module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.0), nn.Linear(4, 3), nn.Dropout2d(0.0))
        message = refusal(UnsupportedModelError, module, torch.rand(3, 2, 4, 4))
        assert "(dropout calls seen: 1: its p is 0; 3: its p is 0)" in message

    def test_is_told_what_does_not_reach_the_output(self):
        def forward(self, x):
            self.drop(x)
            return self.last(x)

        module = Custom(forward, drop=nn.Dropout(0.5), last=nn.Linear(4, 3))
        assert "drop: it does not reach the output" in refusal(UnsupportedModelError, module)

    def test_is_told_what_a_selection_left_out(self):
        message = refusal(UnsupportedModelError, mlp(), selection=Selection(exclude=("2",)))
        assert "2: the selection leaves it out" in message

    def test_is_told_that_a_selection_set_p_to_0(self):
        message = refusal(UnsupportedModelError, mlp(), selection=Selection(p={"2": 0.0}))
        assert "2: the selection sets its p to 0" in message

    def test_is_told_of_dropout_that_its_own_code_switches_off(self):
        module = Custom(lambda self, x: self.last(F.dropout(x, 0.5, False)), last=nn.Linear(4, 3))
        assert "(network): its own code switches it off" in refusal(UnsupportedModelError, module)


def with_options():
    """A network that takes more than its rows."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.rest = mlp()

        def forward(self, x, mask=None, mode="plain", scale=1.0):
            return self.rest(x) * (2.0 if mode == "double" else scale)

    return Scaled()


class TestAnExample:
    @pytest.mark.parametrize(
        ("x", "told"),
        [
            ({"x": X, "mask": None}, "the example input 'mask' is None; an array with rows is accepted; what is the"),
            ({"x": X, "mode": "double"}, "the example input 'mode' is 'double'; an array with rows is accepted; what"),
            ({"x": X, "scale": 2.0}, "the example input 'scale' is 2.0; an array with rows is accepted; what is the"),
            ({"x": X, "scale": torch.tensor(2.0)}, "the example input 'scale' is one number, 2.0, of the shape []; an"),
            ((X, None), "the example input 1 is None; an array with rows is accepted; what is the same for every row"),
            ({"x": X, "mask": {"a": X, "b": None}}, "the example input 'mask.b' is None; an array with rows is"),
            ({"x": X, "mask": object()}, "the example input 'mask' is no array of numbers: it is of type object; an"),
        ],
    )
    def test_that_is_no_array_is_named_and_may_be_bound_beforehand(self, x, told):
        assert refusal(InvalidInputError, with_options(), x).startswith(told)

    def test_that_is_bound_beforehand_is_no_input(self):
        module = with_options()
        module.forward = functools.partial(module.forward, mode="double")
        mean = take(module, task="regression").predict(X, 0).mean
        np.testing.assert_allclose(mean, 2.0 * module.rest.eval()(X).detach(), rtol=1e-5)

    @pytest.mark.parametrize(("rows", "axis"), [(1, 0), (2, 0), (5, 0), (5, 1)])
    def test_that_does_not_fit_the_network_is_told_in_its_own_shape(self, rows, axis):
        x = torch.rand(rows, 7) if axis == 0 else torch.rand(7, rows)
        message = refusal(UnsupportedModelError, mlp(), x, row_axis=axis)
        assert message.startswith(f"the network does not run on the example input of shape [{list(x.shape)}]: ")

    @pytest.mark.parametrize(
        ("network", "x", "accepted"),
        [
            (mlp(), X.double(), "examples of float32, as its weights are, and not of float64, are accepted"),
            (mlp().double(), X, "examples of float64, as its weights are, and not of float32, are accepted"),
            (mlp(), X.half(), "examples of float32, as its weights are, and not of float16, are accepted"),
        ],
    )
    def test_of_other_floats_than_the_weights_is_told_so(self, network, x, accepted):
        assert refusal(UnsupportedModelError, network, x).endswith(f"; {accepted}")

    def test_that_is_masked_in_places_is_refused(self):
        values = X.numpy()
        masked = np.ma.masked_array(values, np.arange(values.size).reshape(values.shape) == 2)
        assert refusal(InvalidInputError, mlp(), masked).startswith(
            "the example input is a masked array, whose entry at"
        )
        with pytest.raises(
            InvalidInputError, match=r"^the input is a masked array, whose entry at \[0, 2\] is masked; "
        ):
            take(mlp()).predict(masked, 5)
        engine = take(mlp())
        whole = engine.predict(np.ma.masked_array(values), 5, 1)
        np.testing.assert_array_equal(whole.mean, engine.predict(values, 5, 1).mean)

    def test_that_is_a_nested_tensor_is_asked_for_padded(self):
        x = torch.nested.nested_tensor([torch.rand(3, 4), torch.rand(2, 4)], layout=torch.jagged)
        assert refusal(InvalidInputError, mlp(), x).startswith("the example input is a nested tensor, whose rows di")
        with pytest.raises(InvalidInputError, match=r"^the input is a nested tensor, whose rows differ in length"):
            take(mlp()).predict(x, 5)


def jagged(x):
    return torch.nested.nested_tensor_from_jagged(x, torch.arange(len(x) + 1))


class TestANetworkThatIsNotAFunction:
    def test_because_it_fails_the_second_time(self):
        def forward(self, x):
            self.calls += 1
            if self.calls > 1:
                raise RuntimeError("the tape has run out")
            return self.rest(x)

        message = refusal(UnsupportedModelError, Custom(forward, rest=mlp(), calls=0))
        assert message.startswith("the network fails when it is run a second time: the tape has run out")

    def test_because_it_keeps_what_it_saw(self):
        def forward(self, x):
            self.seen = x.mean() if self.seen is None else self.seen + x.mean()
            return self.rest(x) + self.seen

        message = refusal(UnsupportedModelError, Custom(forward, rest=mlp(), seen=None))
        assert message.startswith("the network does not repeat itself in eval mode: state of its own")
        assert " in (network);" in message

    @pytest.mark.parametrize("started", [False, True])
    def test_because_it_keeps_what_its_first_pass_was_of_unless_it_has_had_that(self, started):
        def forward(self, x):
            if self.centre is None:
                self.centre = x.mean(0)
            return self.drop(x - self.centre)

        network = Custom(forward, centre=None, drop=nn.Dropout(0.5))
        if started:
            network(X + 1)
            assert len(take(network, form="logits").sites) == 1
            return
        message = refusal(UnsupportedModelError, network)
        assert "answers otherwise where its first pass was of other rows, of which it keeps something;" in message

    def test_because_it_counts_in_a_buffer(self):
        def forward(self, x):
            self.count += 1
            return self.rest(x)

        module = Custom(forward, rest=mlp())
        module.register_buffer("count", torch.zeros(()))
        message = refusal(VerificationError, module)
        assert (
            "no parameter and no buffer moved by a bit (moved: count; (network) (Custom) writes to count; one that "
            "leaves it as it is, or that writes it anew in each pass before it reads it, is accepted)"
        ) in message

    @pytest.mark.parametrize("largest", [0.1, 0.5, 1.0, 3.0])
    def test_because_an_embedding_renormalizes_what_it_looks_up(self, largest):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Embedding(9, 4, max_norm=largest), nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 3))
        with torch.no_grad():
            module[0].weight *= 10.0
        tokens = torch.arange(9).reshape(3, 3)
        with pytest.raises((UnsupportedModelError, VerificationError)) as raised:  # rounding may move it each time
            take(module, tokens)
        assert (
            "; 0 (Embedding) renormalizes its weight to its max_norm in its forward; one that was called once with all "
            "its rows, and then given max_norm=None, is accepted"
        ) in str(raised.value)
        with torch.no_grad():
            module[0](torch.arange(9))
        module[0].max_norm = None
        take(module, tokens)

    def test_because_it_cannot_be_copied(self):
        module = mlp()
        module.lock = (value for value in ())
        message = refusal(UnsupportedModelError, module)
        assert message.startswith("Sequential cannot be copied: cannot pickle 'generator' object (TypeError")

    def test_because_a_part_cannot_be_copied(self):
        class Single(nn.Linear):
            def __deepcopy__(self, memo):
                raise RuntimeError("there is one\nof me")

        message = refusal(UnsupportedModelError, nn.Sequential(nn.Dropout(0.5), Single(4, 3)))
        assert message.startswith("Sequential cannot be copied: there is one (RuntimeError in 1, ")
        assert "test_refusals.py:" in message

    def test_because_it_returns_an_output_for_each_row(self):
        module = Custom(lambda self, x: list(self.rest(x)), rest=mlp())
        message = refusal(UnsupportedModelError, module, task="regression")
        assert message.startswith("for 3 rows the network returns outputs of shape [[3], [3], [3]]")

    def test_because_it_does_not_run_on_its_example(self):
        message = refusal(UnsupportedModelError, mlp(), torch.rand(3, 7))
        assert message.startswith("the network does not run on the example input of shape [[3, 7]]: ")

    @pytest.mark.parametrize("rows", [3, 5])
    def test_because_it_runs_with_so_many_rows_alone(self, rows):
        module = Custom(lambda self, x: self.rest(x).view(rows, 3), rest=mlp())
        message = refusal(UnsupportedModelError, module, torch.rand(rows, 4))
        assert message.startswith(f"the network runs on {rows} rows and not on 2: shape ")
        assert message.endswith("; one that takes any number of rows, or one, is accepted")

    def test_because_it_runs_in_eval_mode_only(self):
        def forward(self, x):
            if self.training and len(x) < 100:
                raise ValueError("batches of 100, please")
            return F.dropout(self.last(x), 0.5) if self.training else self.last(x)

        message = refusal(UnsupportedModelError, Custom(forward, last=nn.Linear(4, 3)))
        assert message.startswith("the network has no dropout to switch on")


class TestANetworkWhoseOutputs:
    def test_change_their_shape_from_pass_to_pass(self):
        module = Custom(lambda self, x: x[:, :2] if self.training and torch.rand(1) < 0.5 else x)
        message = refusal(VerificationError, module)
        assert "outputs have the same shape in every pass (shapes [[3, 2]] and [[3, 4]])" in message

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf])
    def test_are_no_numbers(self, bad):
        module = mlp()
        with torch.no_grad():
            module[3].bias.fill_(bad)
        message = refusal(VerificationError, module)
        assert "the network with keep-everything masks equals its eval mode (an output is NaN or infinite)" in message

    def test_are_no_numbers_for_one_request_are_an_error_for_that_request(self):
        module = Custom(lambda self, x: torch.where(x[:, :1] > 0, self.rest(x), torch.nan), rest=mlp())
        engine = take(module)
        with pytest.raises(UnusableOutputError, match=r"^the network answered NaN or infinity for row 1$") as raised:
            engine.predict(torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0], [1.0, 0, 0, 0]]), 5)
        assert raised.value.rows == [1]

    def test_are_a_negative_variance_for_one_request(self):
        module = Custom(lambda self, x: {"y": self.rest(x)[:, 0], "var": x[:, 0]}, rest=mlp())
        engine = take(module, task="regression", output={"mean": "y", "variance": "var"})
        told = r"^the network answered -1 as the variance, its second output, for row 1; 0 or more is accepted$"
        for passes in (0, 5):
            with pytest.raises(UnusableOutputError, match=told):
                engine.predict(torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]]), passes)

    @pytest.mark.parametrize(
        ("output", "named"),
        [(None, "NoneType"), (3.0, "float"), ("text", "str"), ({"logits": torch.ones(3, 2), "loss": None}, "NoneType")],
    )
    def test_are_no_tensors(self, output, named):
        def forward(self, x):
            self.rest(x)
            return output

        assert refusal(UnsupportedModelError, Custom(forward, rest=mlp())).startswith(f"the network returns {named}")

    @pytest.mark.parametrize(
        ("returned", "entry", "told"),
        [
            (
                lambda y: {"logits": y},
                "scores",
                "'scores', which the network does not return; the key 'logits' (",
            ),
            (lambda y: (y, y), 2, "2, which the network does not return; the positions 0 ([2, 3]) and 1 ("),
            (lambda y: (y, y), "logits", "'logits', which the network does not return; the positions 0 ("),
            (lambda y: y, "logits", "'logits', and the network returns one tensor, [2, 3], of which nothing is to be"),
            (lambda y: y, "T", "'T', and the network returns one tensor, [2, 3], of which nothing is to be chosen; no"),
            (lambda y: y, 0, "0, and the network returns one tensor, [2, 3], of which nothing is to be chosen; no"),
            (lambda y: y, -1, "-1, and the network returns one tensor, [2, 3], of which nothing is to be chosen; no"),
            (
                lambda y: Normal(y, y.exp()),
                "mu",
                "'mu', which the network does not return; the attributes 'loc'",
            ),
            (
                lambda y: Independent(Normal(y, 1.0), 1),
                "mu",
                "the attributes 'mean' ([2, 3]), 'stddev' ([2, 3])",
            ),
            (lambda y: {"logits": y, "n": 3}, "n", "'n', which is int; a tensor is accepted, of the keys"),
            (
                lambda y: {"a": {"logits": y}, "b": [y, y]},
                "logits",
                "which the network does not return; the paths 'a.logits' ([2, 3]), 'b.0' ([2, 3]) and 'b.1' (",
            ),
            (lambda y: {"a": {"logits": y}}, "a.scores", "'a.scores', which the network does not return; the path 'a."),
            (lambda y: {"a": {"logits": y}}, "a", "'a', which is dict; a tensor is accepted, of the path 'a.logits'"),
        ],
    )
    def test_lack_the_one_that_is_asked_for(self, returned, entry, told):
        module = Custom(lambda self, x: returned(self.rest(x)), rest=mlp())
        assert told in refusal(UnsupportedModelError, module, output=entry)

    @pytest.mark.parametrize(
        ("returned", "path"),
        [
            (lambda y: {"heads": {"class": y, "other": y.exp()}}, "heads.class"),
            (lambda y: ({"boxes": y.exp()}, {"scores": [y.exp(), y]}), "1.scores.1"),
            (lambda y: {"heads": Normal(y, 1.0)}, "heads.loc"),
            (lambda y: {"heads.class": y, "heads": {"class": y.exp()}}, "heads.class"),
            (lambda y: {0: {1: y}}, "0.1"),
        ],
    )
    def test_lie_further_down_and_are_named_by_their_paths(self, returned, path):
        found = take(Custom(lambda self, x: returned(self.rest(x)), rest=mlp()), output=path)
        np.testing.assert_array_equal(found.samples(X, 5, 1), take(mlp()).samples(X, 5, 1))

    @pytest.mark.parametrize(
        ("returned", "shapes"),
        [
            (lambda y: y.sum(1), "[[3]]"),
            (lambda y: y.sum(0), "[[3]]"),
        ],
    )
    def test_are_no_logits(self, returned, shapes):
        module = Custom(lambda self, x: returned(self.rest(x)), rest=mlp())
        message = refusal(UnsupportedModelError, module)
        assert f"outputs of shape {shapes}; classification takes one output of logits" in message

    @pytest.mark.parametrize("task", ["classification", "binary", "multilabel"])
    @pytest.mark.parametrize(
        ("returned", "told", "entry"),
        [
            (lambda y: (y, y[:, :2]), "the positions 0 ([3, 3]) and 1 ([3, 2])", "0"),
            (lambda y: [y, y], "the positions 0 ([3, 3]) and 1 ([3, 3])", "0"),
            (lambda y: (y.mean(), y), "the positions 0 ([]) and 1 ([3, 3])", "1"),
            (lambda y: {"logits": y, "probs": y.exp()}, "the keys 'logits' ([3, 3]) and 'probs' ([3, 3])", "'logits'"),
            (lambda y: (y, (y, y)), "the positions 0 ([3, 3]) and 1 (tuple)", "0"),
            (lambda y: {"a": {"y": y}, "b": (y,)}, "the paths 'a.y' ([3, 3]) and 'b.0' ([3, 3])", "'a.y'"),
        ],
    )
    def test_are_several_for_a_task_of_one(self, returned, told, entry, task):
        module = Custom(lambda self, x: returned(self.rest(x)), rest=mlp())
        assert refusal(UnsupportedModelError, module, task=task) == (
            f"for 3 rows the network returns {told}; {task} takes one output: output that "
            f"names what to take is accepted, such as output={entry}"
        )

    @pytest.mark.parametrize("returned", [lambda y: (y, y, y), lambda y: (y, y[:, :1]), lambda y: (y, y.mean())])
    def test_are_more_than_a_regression_takes(self, returned):
        module = Custom(lambda self, x: returned(self.rest(x)), rest=mlp())
        message = refusal(UnsupportedModelError, module, task="regression")
        assert "regression takes the mean, or the mean and its noise in the same shape: output that names" in message

    @pytest.mark.parametrize(
        ("returned", "told"),
        [
            (lambda y: torch.complex(y, y), "the network returns numbers of torch.complex64, [2, 3]; real numbers are"),
            (lambda y: y > 0, "the network returns truth values (torch.bool), [2, 3]; the numbers that they were made"),
            (jagged, "the network returns a nested tensor, whose rows differ in length; one in which they are padded"),
        ],
    )
    @pytest.mark.filterwarnings("error::numpy.exceptions.ComplexWarning")
    def test_are_no_real_numbers(self, returned, told):
        module = Custom(lambda self, x: returned(self.rest(x)), rest=mlp())
        assert refusal(UnsupportedModelError, module).startswith(told)

    def test_come_of_dropout_on_nested_tensors(self):
        module = Custom(lambda self, x: self.rest(jagged(x)).values(), rest=mlp())
        assert refusal(UnsupportedModelError, module).startswith("rest.2 drops from a nested tensor, whose rows differ")

    def test_are_one_logit(self):
        module = Custom(lambda self, x: self.rest(x)[:, :1], rest=mlp())
        assert "for one logit or probability a row, task: binary is accepted" in refusal(UnsupportedModelError, module)

    def test_do_not_have_the_rows_first(self):
        module = Custom(lambda self, x: self.rest(x).T.unsqueeze(0), rest=mlp())
        assert "their first dimension must be the rows" in refusal(UnsupportedModelError, module)

    def test_have_as_many_classes_as_there_are_examples_and_not_the_rows_first(self):
        module = Custom(lambda self, x: self.rest(x).T, rest=mlp())
        assert "[[3, 2]]; their first dimension must be the rows" in refusal(UnsupportedModelError, module)
        told = refusal(UnsupportedModelError, module, output_row_axis=2)
        assert told == "output_row_axis is 2, and the network returns [3, 2]; 0 to 1 is accepted"

    def test_of_rows_influence_one_another(self):
        module = Custom(lambda self, x: self.rest(x - x.mean(0)), rest=mlp())
        message = refusal(VerificationError, module)
        assert "a row's answer does not depend on the rows beside it" in message
        assert message.endswith(
            "a network that answers each row by itself is accepted, without a mean, a softmax or "
            "statistics over the rows"
        )

    def test_of_rows_influence_one_another_by_normalization(self):
        module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, track_running_stats=False), *mlp(inputs=8))
        assert refusal(VerificationError, module).endswith(
            "; 1 (BatchNorm1d) normalizes by the rows of a batch; one with track_running_stats=True is accepted"
        )

    def test_are_the_same_in_every_pass_because_everything_is_dropped(self):
        module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(1.0), nn.Linear(4, 3))
        told = "(they are identical: p is 1 at 1, which drops everything in every pass; a p below 1 is accepted)"
        assert told in refusal(VerificationError, module)


def test_masks_of_several_passes_are_refused_where_all_rows_of_a_pass_share_one():
    engine = take(drop_connect())
    assert [mask.shape for mask in engine.masks(1, 0, 3, 1)] == [site.mask_shape for site in engine.sites]
    with pytest.raises(InvalidInputError, match=r"^passes is 40, and .* draws one mask for all rows of a pass; 1, one"):
        engine.masks(1, 0, 0, 40)


DRAWS = {
    "poisson": lambda x: torch.poisson(torch.ones_like(x)),
    "_standard_gamma": lambda x: torch.distributions.Gamma(1.0, 1.0).sample(x.shape),
    "_sample_dirichlet": lambda x: torch.distributions.Beta(2.0, 2.0).sample(x.shape),
    "binomial": lambda x: torch.binomial(torch.full_like(x, 5.0), torch.full_like(x, 0.5)),
}


ELSEWHERE = [
    (lambda: float(np.random.rand()), "numpy.random"),
    (lambda: float(np.random.normal()), "numpy.random"),
    (lambda: float(np.random.permutation(4)[0]), "numpy.random"),
    (random.random, "Python's random"),
    (lambda: random.gauss(0.0, 1.0), "Python's random"),
    (lambda: random.choice([1.0, 2.0]), "Python's random"),
]


class TestRandomnessThatNoMaskCanStandFor:
    @pytest.mark.parametrize("function", DRAWS)
    @pytest.mark.parametrize("wrap", [lambda noisy: nn.Sequential(nn.Linear(4, 4), noisy), behind_dropout])
    def test_is_named(self, function, wrap):
        noisy = Custom(lambda self, x: x * DRAWS[function](x) if self.training else x)
        message = refusal(UnsupportedModelError, wrap(noisy))
        assert "draws randomness in train mode that no mask can stand for: aten." in message
        assert function in message
        assert f" in {'1' if wrap is not behind_dropout else '2'};" in message

    def test_stays_off_where_a_selection_excludes_its_module(self):
        noisy = Custom(lambda self, x: x * torch.poisson(torch.ones_like(x)) if self.training else x)
        engine = take(behind_dropout(noisy), selection=Selection(exclude=("2",)))
        assert [site.name for site in engine.sites] == ["1"]

    @pytest.mark.parametrize(("draw", "named"), ELSEWHERE)
    @pytest.mark.parametrize("used", [1.0, 0.0], ids=["used", "of no effect in the example"])
    def test_of_python_or_numpy_is_named_with_its_module(self, draw, named, used):
        noisy = Custom(lambda self, x: x * (1.0 + used * draw()) if self.training else x)
        message = refusal(UnsupportedModelError, behind_dropout(noisy))
        assert f"no mask can stand for: {named} in 2;" in message

    @pytest.mark.parametrize(("draw", "named"), ELSEWHERE)
    def test_of_python_or_numpy_in_eval_mode_is_named_with_its_module(self, draw, named):
        message = refusal(UnsupportedModelError, behind_dropout(Custom(lambda self, x: x * draw())))
        assert f"does not repeat itself in eval mode: {named} in 2;" in message

    @pytest.mark.parametrize(("draw", "named"), ELSEWHERE)
    def test_of_python_or_numpy_stays_off_where_a_selection_excludes_its_module(self, draw, named):
        noisy = Custom(lambda self, x: self.drop(x) * draw() if self.training else self.drop(x), drop=nn.Dropout(0.5))
        engine = take(behind_dropout(noisy), selection=Selection(exclude=("2",)))
        assert [site.name for site in engine.sites] == ["1", "2.drop"]
        again = take(behind_dropout(noisy), selection=Selection(exclude=("2",)))
        assert len(again.sites) == 2

    def test_of_python_or_numpy_in_a_module_whose_dropout_needs_it_awake_is_refused(self):
        noisy = Custom(lambda self, x: F.dropout(x, 0.5) * np.random.rand() if self.training else x)
        message = refusal(UnsupportedModelError, behind_dropout(noisy), selection=Selection(exclude=("3",)))
        assert "numpy.random in 2" in message

    def test_leaves_the_generators_of_python_and_numpy_where_they_were(self):
        def states():
            return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()

        noisy = Custom(lambda self, x: x * np.random.rand() * random.random() if self.training else x)
        module = behind_dropout(noisy)
        before = states()
        take(module, selection=Selection(exclude=("2",)))
        assert states() == before

    def test_of_a_generator_of_its_own_is_named_with_its_module(self):
        generator = np.random.default_rng(0)
        noisy = Custom(lambda self, x: x * generator.random() if self.training else x)
        message = refusal(UnsupportedModelError, behind_dropout(noisy))
        assert "no mask can stand for: a generator of its own in 2;" in message
        engine = take(behind_dropout(noisy), selection=Selection(exclude=("2",)))
        assert [site.name for site in engine.sites] == ["1"]

    def test_between_two_modules_is_that_of_the_one_around_them(self):
        generator = np.random.default_rng(0)

        def forward(self, x):
            hidden = self.first(x)
            return self.last(hidden * generator.random() if self.training else hidden)

        noisy = Custom(forward, first=mlp(outputs=4), last=nn.Linear(4, 4))
        message = refusal(UnsupportedModelError, behind_dropout(noisy))
        assert "in 2;" in message

    def test_that_seldom_shows_is_refused_in_a_module_that_drops(self):
        def forward(self, x):
            if not self.training:
                return x
            seldom = torch.poisson(torch.full((x.shape[0], 1), 0.001))
            return F.dropout(x, 0.5) * (1.0 + seldom)

        assert "aten.poisson" in refusal(UnsupportedModelError, behind_dropout(Custom(forward)))

    @pytest.mark.parametrize(
        ("draw", "kind"),
        [
            (torch.rand_like, "uniform"),
            (torch.randn_like, "normal"),
            (lambda x: torch.empty_like(x).bernoulli_(0.5), "bernoulli"),
            (lambda x: torch.empty_like(x).exponential_(), "uniform"),
        ],
    )
    def test_in_eval_mode_too_leaves_no_baseline(self, draw, kind):
        message = refusal(UnsupportedModelError, behind_dropout(Custom(lambda self, x: x + draw(x))))
        assert message.startswith(
            f"2 draws {kind} numbers in eval mode too, so that there is no deterministic baseline"
        )

    def test_for_layers_that_are_made_in_the_first_pass_name_them(self):
        def forward(self, x):
            if not hasattr(self, "last"):
                self.last = nn.Linear(x.shape[1], 3)
            return self.last(self.drop(x))

        module = Custom(forward, drop=nn.Dropout(0.5))
        assert "the network makes last.weight in its first pass" in refusal(UnsupportedModelError, module)
        module(X)
        assert [site.name for site in take(module).sites] == ["drop"]

    def test_in_eval_mode_too_is_named_where_no_mask_could_stand_for_it(self):
        module = behind_dropout(Custom(lambda self, x: x + torch.poisson(torch.ones_like(x))))
        assert "does not repeat itself in eval mode: aten.poisson" in refusal(UnsupportedModelError, module)


def noisy():
    return Custom(lambda self, x: x * (1 + 0.1 * torch.randn_like(x)) if self.training else x)


@torch.jit.script
def scripted(x: torch.Tensor, training: bool) -> torch.Tensor:
    return F.dropout(x, 0.5, training)


@pytest.mark.parametrize(
    "drop",
    [scripted, lambda x, training: torch.ops.aten.dropout(x, 0.5, training)],
    ids=["torch.jit.script", "torch.ops"],
)
def test_dropout_that_python_code_does_not_call_is_refused_with_how_to_call_it(drop):
    message = refusal(UnsupportedModelError, Custom(lambda self, x: drop(x, self.training)))
    assert "aten.bernoulli_.float in (network); " in message
    assert (
        "are accepted where Python code calls them by their names, with PyTorch's own generator and bounds (" in message
    )


def test_dropout_in_a_thread_of_the_networks_own_is_refused_with_that_among_the_reasons():
    def forward(self, x):
        with ThreadPoolExecutor(1) as threads:
            return threads.submit(F.dropout, x, 0.5, self.training).result()

    message = refusal(UnsupportedModelError, behind_dropout(Custom(forward)))
    assert "numbers of a generator of its own, of another thread or of a custom operator, in 2;" in message


def seeded(self, x):
    torch.manual_seed(1)
    return self.drop(x)


def seeded_apart(self, x):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return self.drop(x)


def put_back(self, x):
    state = torch.get_rng_state()
    first = self.drop(x)
    torch.set_rng_state(state)
    return first - self.drop(x + 1)


def put_back_at_the_end(self, x):
    with torch.random.fork_rng(devices=[]):
        return self.drop(x)


def seeded_twice_from_entropy(self, x):
    seed = torch.seed()
    first = self.drop(x)
    torch.manual_seed(seed)
    return first - self.drop(x + 1)


def of_a_generator_made_anew(self, x):
    numbers = torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    return self.drop(x * (numbers > 0.5) if self.training else x)


def of_its_own_generator(self, x):
    self.generator.manual_seed(0)
    return self.drop(x * torch.empty_like(x).bernoulli_(0.5, generator=self.generator) if self.training else x)


def a_projection(self, x):
    return self.drop(x @ torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))


class TestAGeneratorThatTheNetworkSets:
    @pytest.mark.parametrize(
        ("forward", "named"),
        [
            (seeded, "1.drop draws from a generator that the network's own code has set to the same seed"),
            (seeded_apart, "1.drop draws from a generator that the network's own code has set to the same seed"),
            (put_back, "1.drop#1 draws from a generator that the network's own code has put back"),
            (put_back_at_the_end, "1.drop draws from a generator that the network's own code has put back"),
            (seeded_twice_from_entropy, "1.drop#1 draws from a generator that the network's own code has put back"),
            (of_a_generator_made_anew, "1 draws from a generator that the network's own code has set to the same seed"),
            (of_its_own_generator, "1 draws from a generator that the network's own code has set to the same seed"),
            (a_projection, "1 draws from a generator that the network's own code has set to the same seed"),
        ],
    )
    def test_to_where_it_was_is_refused_because_its_numbers_repeat(self, forward, named):
        network = nn.Sequential(
            nn.Linear(4, 4), Custom(forward, drop=nn.Dropout(0.5), generator=torch.Generator()), nn.Linear(4, 3)
        )
        message = refusal(UnsupportedModelError, network)
        assert message.startswith(named)
        assert "so that its numbers repeat; one is accepted that" in message

    @pytest.mark.parametrize("generator", [None, torch.Generator()], ids=["PyTorch's own", "one of all networks"])
    def test_anew_each_time_or_not_at_all_is_taken(self, generator):
        def forward(self, x):
            state = torch.get_rng_state()
            torch.manual_seed(0)
            torch.set_rng_state(state)
            if not self.training:
                return x
            torch.seed()
            return x * (torch.rand(x.shape, generator=generator) > 0.5)

        before = None if generator is None else generator.get_state()
        engine = take(nn.Sequential(nn.Linear(4, 4), Custom(forward), nn.Linear(4, 3)))
        assert [site.name for site in engine.sites] == ["1"]
        assert generator is None or torch.equal(generator.get_state(), before)


class TestASelection:
    @pytest.mark.parametrize(
        "selection",
        [
            Selection(include=("encoder.*",)),
            Selection(exclude=("encoder.*",)),
            Selection(include=("*", "encoder.*")),
            Selection(p={"encoder.*": 0.1}),
        ],
    )
    def test_that_names_what_does_not_exist_is_refused_with_what_does(self, selection):
        message = refusal(InvalidInputError, mlp(), selection=selection)
        assert message == "the selection names 'encoder.*', which matches the path of no site; the paths are ['2']"

    def test_of_a_module_without_a_site_is_refused(self):
        assert "'0', which matches the path of no site" in refusal(
            InvalidInputError, mlp(), selection=Selection(exclude=("0",))
        )

    @pytest.mark.parametrize("p", [-0.1, 1.5, float("nan"), float("inf")])
    def test_of_a_p_that_is_no_probability_is_refused(self, p):
        message = refusal(InvalidInputError, mlp(), selection=Selection(p={"2": p}))
        assert message == f"the selection sets p of '2' to {p!r}; a number from 0 to 1 is accepted"

    def test_of_a_p_for_numbers_that_the_network_draws_itself_is_refused(self):
        message = refusal(InvalidInputError, behind_dropout(noisy()), selection=Selection(p={"2": 0.3}))
        assert message.startswith(
            "p of 2 is set to 0.3, but the network's own code makes its dropout of normal numbers"
        )

    def test_of_a_p_for_all_is_taken_where_those_numbers_are_excluded(self):
        engine = take(behind_dropout(noisy()), selection=Selection(exclude=("2",), p={"*": 0.3}))
        assert [(site.name, site.p) for site in engine.sites] == [("1", 0.3)]

    @staticmethod
    def drops_and_draws():
        def forward(self, x):
            return self.drop(x * (0.9 + 0.2 * torch.rand_like(x))) if self.training else x

        return Custom(forward, drop=nn.Dropout(0.5))

    def test_that_excludes_numbers_of_a_module_which_another_site_needs_awake_is_refused(self):
        module = nn.Sequential(nn.Linear(4, 4), self.drops_and_draws(), noisy(), nn.Linear(4, 3))
        assert refusal(UnsupportedModelError, module, selection=Selection(exclude=("1",))) == (
            "1 draws uniform numbers and is left out, but other sites of its module need it out of eval mode; sites of "
            "one module that draws its own numbers are on or off together"
        )

    def test_that_leaves_only_what_such_a_module_holds_is_refused(self):
        module = nn.Sequential(nn.Linear(4, 4), self.drops_and_draws(), nn.Linear(4, 3))
        message = refusal(UnsupportedModelError, module, selection=Selection(exclude=("1",)))
        assert "1: the selection leaves it out; 1.drop: its module does not run in eval mode" in message

    def test_that_leaves_out_numbers_of_another_module_is_taken(self):
        module = nn.Sequential(nn.Linear(4, 4), drop_path(0.5), noisy(), nn.Linear(4, 3))
        engine = take(module, selection=Selection(exclude=("1",)))
        assert [site.name for site in engine.sites] == ["2"]
        assert [(site.name, site.reason) for site in engine.sites_off] == [("1", "the selection leaves it out")]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("named", [False, True])
def test_an_example_that_no_request_may_be_like_is_refused(value, named):
    x = torch.rand(3, 4)
    x[1, 2] = value
    given = {"input": x} if named else x
    label = "the example input 'input'" if named else "the example input"
    accepted = "finite numbers are accepted, and NaN with missing=True (in model.yaml, missing: allowed)"
    with pytest.raises(InvalidInputError) as refused:
        Engine.from_module(mlp(), given)
    assert str(refused.value) == f"{label} holds {value} at [1, 2]; {accepted}"


def test_an_example_of_a_graph_that_no_request_may_be_like_is_refused(tmp_path):
    torch.onnx.export(
        mlp().train(),
        (torch.rand(2, 4),),
        tmp_path / "m.onnx",
        dynamo=False,
        training=torch.onnx.TrainingMode.TRAINING,
        do_constant_folding=False,
        input_names=["x"],
    )
    with pytest.raises(InvalidInputError, match=r"the example input 'x' holds nan at \[0, 0\]; finite numbers are"):
        Engine.from_onnx(tmp_path / "m.onnx", torch.full((2, 4), torch.nan))
