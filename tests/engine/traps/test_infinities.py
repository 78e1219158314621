"""Traps of infinity: logits of -inf are probabilities of 0, and every other infinity is an error."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mcdropout.engine import Engine, UnusableOutputError, VerificationError
from mcdropout.engine.checks import Check
from mcdropout.engine.verify import close
from tests.engine.networks import Custom, mlp

INF = np.inf


def policy():
    """Logits of actions, of which a row's mask says which are allowed."""
    return Custom(lambda self, x, allowed: self.net(x).masked_fill(~allowed, -torch.inf), net=mlp(outputs=4))


X = torch.rand(3, 4)
ALLOWED = torch.tensor([[True, True, False, True], [True, False, True, True], [True, True, True, True]])


def plain_loop(module, inputs, engine, passes, seed):
    """Probabilities `[passes, rows, classes]` of the module itself, under the engine's masks."""
    rows = len(inputs[0])
    found = []
    for number in range(passes):
        masks = [
            torch.from_numpy(np.concatenate(part))
            for part in zip(*(engine.masks(seed, row, number, 1) for row in range(rows)), strict=True)
        ]
        hidden = module.net[:2](inputs[0]) * masks[0]
        found.append(module.net[3](hidden).masked_fill(~inputs[1], -torch.inf).softmax(-1))
    return torch.stack(found).detach().numpy()


class TestAnActionMask:
    @pytest.mark.parametrize("runtime", ["eager", "torch", "onnx"])
    def test_gives_probabilities_of_0_on_every_runtime(self, runtime):
        module = policy()
        engine = Engine.from_module(module, (X, ALLOWED), runtime=runtime)
        found = engine.predict((X, ALLOWED), 20, 5)
        wanted = plain_loop(module, (X, ALLOWED), engine, 20, 5)
        np.testing.assert_allclose(found.mean, wanted.mean(axis=0), atol=1e-6)
        assert (found.mean == 0.0).tolist() == (~ALLOWED).tolist()
        assert not np.isnan(found.expected_entropy).any()
        assert engine.predict((X, ALLOWED), 0).mean[0, 2] == 0.0

    def test_that_allows_nothing_is_an_error_for_its_row_alone(self):
        engine = Engine.from_module(policy(), (X, ALLOWED), runtime="onnx")
        allowed = ALLOWED.clone()
        allowed[1] = False
        with pytest.raises(UnusableOutputError, match=r"for row 1; a finite logit for one class") as raised:
            engine.predict((X, allowed), 5)
        assert raised.value.rows == [1]

    def test_that_allows_nothing_in_an_example_is_refused_in_a_sentence(self):
        with pytest.raises(VerificationError, match=r"a classification can be read from its outputs \(.*-infinity"):
            Engine.from_module(policy(), (X, torch.zeros_like(ALLOWED)), runtime="eager")

    def test_survives_being_saved(self, tmp_path):
        engine = Engine.from_module(policy(), (X, ALLOWED), runtime="onnx")
        engine.save(tmp_path)
        np.testing.assert_array_equal(
            Engine.load(tmp_path).predict((X, ALLOWED), 9, 1).mean, engine.predict((X, ALLOWED), 9, 1).mean
        )

    def test_in_an_onnx_file_gives_probabilities_of_0(self, tmp_path):
        torch.onnx.export(
            policy(),
            (X, ALLOWED),
            tmp_path / "policy.onnx",
            dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            input_names=["x", "allowed"],
            dynamic_axes={"x": {0: "rows"}, "allowed": {0: "rows"}},
        )
        onnx.checker.check_model(tmp_path / "policy.onnx")
        engine = Engine.from_onnx(tmp_path / "policy.onnx", (X, ALLOWED))
        assert (engine.predict((X, ALLOWED), 9, 1).mean == 0.0).tolist() == (~ALLOWED).tolist()


def test_a_class_that_is_always_forbidden_stays_so():
    module = nn.Sequential(*mlp())
    with torch.no_grad():
        module[3].bias[1] = -torch.inf
    found = Engine.from_module(module, X).predict(X, 20, 1)
    assert not found.mean[:, 1].any()
    assert found.variance[:, 1].tolist() == [0.0] * 3


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_any_other_infinity_of_a_classifier_is_refused(bad):
    module = mlp()
    with torch.no_grad():
        module[3].bias[1] = bad
    with pytest.raises(VerificationError, match="NaN or infinite"):
        Engine.from_module(module, X)


def test_infinity_of_a_regression_is_refused():
    module = mlp(outputs=1)
    with torch.no_grad():
        module[3].bias.fill_(-torch.inf)
    with pytest.raises(VerificationError, match=r"a regression can be read from its outputs \(.*NaN or infinity"):
        Engine.from_module(module, X, "regression")


@pytest.mark.parametrize(
    ("found", "wanted", "passed"),
    [
        ([0.0, -INF], [0.0, -INF], True),
        ([-INF, -INF], [-INF, -INF], True),
        ([0.0, -INF], [0.0, -1e30], False),
        ([0.0, 1.0], [0.0, -INF], False),
        ([0.0, -INF], [-INF, 0.0], False),
        ([0.5, -INF], [0.0, -INF], False),
        ([0.0, INF], [0.0, INF], False),
        ([0.0, np.nan], [0.0, np.nan], False),
        ([-INF, np.nan], [-INF, 0.0], False),
    ],
)
def test_outputs_agree_where_their_minus_infinities_do(found, wanted, passed):
    check = close("they agree", (np.array(found),), (np.array(wanted),), 1e-4)
    assert isinstance(check, Check)
    assert check.passed is passed
