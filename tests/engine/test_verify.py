"""Verification: each check fails when what it looks at is not so."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcdropout.engine import Engine, VerificationError
from mcdropout.engine.pytorch.cut.export import export
from mcdropout.engine.pytorch.cut.split import split
from mcdropout.engine.pytorch.module import understand
from mcdropout.engine.runtimes.tensors import TorchRuntime
from mcdropout.engine.verify import check_network, check_program, take_reference
from tests.engine.networks import Custom, centred, conv_net, drop_connect, many_sites, mlp

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)

EVAL = "the network with keep-everything masks equals its eval mode"
PROGRAM_EVAL = "the program with keep-everything masks equals eval mode"
PROGRAM_LOOP = "the program equals the eager loop under the same masks"
DIFFERENT = "two passes with different masks differ"
SAME = "two passes with the same masks agree"
ROWS = "a row's answer does not depend on the rows beside it"
DRAWING = "masks that are drawn while it runs are those drawn before"
MODES = "modules without a site stay in eval mode"
STILL = "no parameter and no buffer moved by a bit"
EVERY = [EVAL, MODES, STILL, PROGRAM_EVAL, PROGRAM_LOOP, DIFFERENT, SAME, ROWS]


class Faulty:
    """A runtime with a fault: `spoil(call, outputs, again)` stands between the real one and its caller."""

    device = "cpu"

    def __init__(self, real, spoil):
        self.real, self.spoil, self.calls = real, spoil, 0

    def prefix(self, inputs):
        return self.real.prefix(inputs)

    def suffix(self, frontier, rows, masks):
        self.calls += 1
        outputs = self.real.suffix(frontier, rows, masks)
        return self.spoil(self.calls, outputs, lambda other: self.real.suffix(frontier, rows, other(masks)))


def verified(module, inputs=X, spoil=None, tamper=None):
    """The names of the checks that fail."""
    examples = (torch.from_numpy(inputs),)
    subject = understand(module, inputs)
    network, source, eager = subject.network, subject.source, subject.eager
    runtime = TorchRuntime(split(export(network, examples, source), 1), "cpu")
    if tamper:
        tamper(network)
    served = Faulty(runtime, spoil) if spoil else runtime
    wanted, kept = subject.eval_outputs(), source.keep_everything(len(inputs))
    checks = [check_network(eager, kept, subject.arrays, wanted)]
    of_program, error = [], ""
    try:
        reference = take_reference(eager, source, subject.arrays, wanted, subject.tolerance)
        of_program = check_program(served, served, source, reference)
    except VerificationError as refusal:
        error = str(refusal)
    checks += [*subject.own_checks(), *of_program]
    failed = [check.name for check in checks if not check.passed]
    if failed or error:
        return [name for name in EVERY if name in failed or name in error]
    assert all(check.passed and check.detail for check in checks)
    assert [check.name for check in checks] == EVERY
    return []


def test_a_network_that_decides_otherwise_in_few_passes_is_tried_until_one_does():
    def forward(self, x):
        votes = self.drop(torch.ones_like(x).repeat(1, 8)).sum(1, keepdim=True)
        return x * (votes > 39)

    assert verified(Custom(forward, drop=nn.Dropout(0.4))) == []


def test_a_sound_network_passes_every_check():
    assert verified(mlp()) == []
    assert verified(conv_net(), np.random.default_rng(0).random((3, 1, 6, 6), np.float32)) == []


def test_the_engine_says_which_checks_its_program_passed():
    checks = Engine.from_module(mlp(), X, runtime="torch").program.checks
    assert [check.name for check in checks] == EVERY
    assert all(check.passed for check in checks)


def test_a_network_that_answers_otherwise_in_train_mode_is_refused():
    def forward(network, x):
        x = network.body(x)
        return F.dropout(x, 0.5) + 1.0 if network.training else x

    assert verified(Custom(forward, body=nn.Linear(4, 3))) == [EVAL, PROGRAM_EVAL]


def test_batch_statistics_in_a_module_that_has_to_leave_eval_mode_stay_those_of_training():
    def forward(network, x):
        x = F.batch_norm(x, network.mean, network.var, training=network.training)
        return F.dropout(x, 0.5) if network.training else x

    module = Custom(forward)
    module.register_buffer("mean", torch.zeros(4))
    module.register_buffer("var", torch.ones(4))
    x = np.random.default_rng(0).random((3, 4, 5), np.float32)
    engine = Engine.from_module(module, x, class_axis=1, runtime="eager")
    np.testing.assert_allclose(engine.outputs(x, [np.ones((3, 4, 5), np.float32)])[0], x / np.sqrt(1 + 1e-5))
    assert not module.mean.any()


def test_a_network_whose_rows_influence_each_other_is_refused():
    assert verified(centred(mlp())) == [PROGRAM_LOOP, ROWS]


def test_a_network_whose_rows_influence_each_other_is_refused_with_dropout_on_a_weight():
    assert verified(drop_connect()) == []
    assert ROWS in verified(centred(drop_connect()))


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5])
def test_one_example_row_is_enough_to_find_that_rows_influence_each_other(value):
    with pytest.raises(VerificationError, match=ROWS):
        Engine.from_module(centred(mlp()), np.full((1, 4), value, np.float32), runtime="eager")


def test_one_example_row_of_whole_numbers_is_enough_too():
    def forward(network, words):
        vectors = network.vectors(words)[:, 0]
        return network.rest(vectors - vectors.mean(0))

    module = Custom(forward, vectors=nn.Embedding(9, 4), rest=mlp())
    with pytest.raises(VerificationError, match=ROWS):
        Engine.from_module(module, np.array([[1, 2, 2, 5]]), runtime="eager")


def test_a_mask_that_has_no_effect_is_refused():
    def forward(network, x):
        return network.body(x) + 0.0 * network.drop(x).sum(1, keepdim=True)

    module = Custom(forward, body=nn.Linear(4, 3), drop=nn.Dropout(0.5))
    assert verified(module) == [DIFFERENT]


def test_a_runtime_that_returns_wrong_numbers_is_refused():
    failed = verified(mlp(), spoil=lambda call, outputs, again: tuple(out + 1e-2 for out in outputs))
    assert failed == [PROGRAM_EVAL, PROGRAM_LOOP]


def test_a_runtime_that_ignores_its_masks_is_refused():
    def spoil(call, outputs, again):
        return again(lambda masks: [np.ones_like(mask) for mask in masks])

    assert verified(mlp(), spoil=spoil) == [PROGRAM_LOOP, DIFFERENT]


def test_a_runtime_that_gives_masks_to_other_rows_is_refused():
    def spoil(call, outputs, again):
        return again(lambda masks: [mask[::-1].copy() for mask in masks])

    assert verified(mlp(), spoil=spoil) == [PROGRAM_LOOP, ROWS]


class Drawing(Faulty):
    """A runtime that draws its masks itself, as `draw` does."""

    def __init__(self, real, draw):
        super().__init__(real, lambda call, outputs, again: outputs)
        self.draw = draw

    def suffix_drawing(self, frontier, rows, masks):
        return self.suffix(frontier, rows, self.draw(masks))


def test_a_runtime_that_draws_other_masks_is_refused():
    subject = understand(mlp(), X)
    runtime = TorchRuntime(split(export(subject.network, (torch.from_numpy(X),), subject.source), 1), "cpu")
    wanted = subject.eval_outputs()
    reference = take_reference(subject.eager, subject.source, subject.arrays, wanted, subject.tolerance)
    sound = Drawing(runtime, lambda masks: masks.draw())
    assert [check.name for check in check_program(sound, sound, subject.source, reference)][-1] == DRAWING
    shifted = Drawing(runtime, lambda masks: [np.roll(mask, 1, axis=0) for mask in masks.draw()])
    with pytest.raises(VerificationError, match=DRAWING):
        check_program(shifted, shifted, subject.source, reference)


def test_a_runtime_that_does_not_repeat_itself_is_refused():
    def spoil(call, outputs, again):
        return tuple(out + np.float32(1e-6 * call) for out in outputs)

    assert verified(mlp(), spoil=spoil) == [SAME]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_runtime_that_returns_no_numbers_is_refused(bad):
    failed = verified(mlp(), spoil=lambda call, outputs, again: tuple(out * np.float32(bad) for out in outputs))
    assert PROGRAM_EVAL in failed
    assert PROGRAM_LOOP in failed


def test_a_runtime_that_returns_another_shape_is_refused():
    failed = verified(mlp(), spoil=lambda call, outputs, again: tuple(out[:, :1] for out in outputs))
    assert failed == [PROGRAM_EVAL, PROGRAM_LOOP]


def test_a_part_without_a_site_that_left_eval_mode_is_refused():
    assert verified(conv_net(), np.ones((3, 1, 6, 6), np.float32), tamper=_train_relu) == [MODES]


def _train_relu(network):
    network.module[2].train()


def test_a_part_whose_dropout_is_gone_in_the_mode_it_is_in_is_refused():
    def forward(network, x):
        return network.rest(F.dropout(x, 0.5) if network.training else x)

    module = Custom(forward, rest=mlp())
    assert verified(module) == []
    assert verified(module, tamper=lambda network: network.module.eval()) == [MODES, PROGRAM_LOOP]


def test_a_copy_whose_weights_moved_is_refused():
    def tamper(network):
        network.module[3].bias[0] += 1e-7

    assert STILL in verified(mlp(), tamper=tamper)


def test_a_network_that_writes_to_its_buffers_is_refused():
    def forward(network, x):
        network.count += 1
        return network.rest(x)

    module = Custom(forward, rest=mlp())
    module.register_buffer("count", torch.zeros(()))
    with pytest.raises(VerificationError, match=f"{STILL}.*moved: count"):
        Engine.from_module(module, X, runtime="eager")


def test_a_program_that_fails_gives_way_to_the_next_and_the_engine_says_why(monkeypatch):
    real = TorchRuntime.suffix
    monkeypatch.setattr(TorchRuntime, "suffix", lambda *args: tuple(out + 1e-2 for out in real(*args)))
    monkeypatch.delattr("mcdropout.engine.pytorch.cut.forms.convert")
    engine = Engine.from_module(many_sites(), np.ones((1, 6), np.float32))
    assert engine.program.runtime == "eager"
    assert PROGRAM_LOOP in engine.program.reason
    with pytest.raises(VerificationError, match=PROGRAM_LOOP):
        Engine.from_module(mlp(), X, runtime="torch")


def test_where_a_pass_takes_long_a_program_that_holds_elsewhere_is_checked_by_fewer_and_a_wrong_one_is_still_refused(
    monkeypatch,
):
    subject = understand(mlp(), X)
    runtime = TorchRuntime(split(export(subject.network, (torch.from_numpy(X),), subject.source), 1), "cpu")
    wanted = subject.eval_outputs()
    reference = take_reference(subject.eager, subject.source, subject.arrays, wanted, subject.tolerance)

    def calls(spoil=lambda call, outputs, again: outputs, **how):
        served = Faulty(runtime, spoil)
        check_program(served, served, subject.source, reference, **how)
        return served.calls

    thorough = calls()
    assert calls(elsewhere=True) == thorough
    monkeypatch.setattr("mcdropout.engine.verify._LONG_PASS", 0.0)
    assert calls() == thorough
    assert calls(elsewhere=True) < thorough
    for spoil in (
        lambda call, outputs, again: tuple(out + 1.0 for out in outputs),
        lambda call, outputs, again: tuple(out + len(out) for out in outputs) if len(outputs[0]) == 1 else outputs,
    ):
        with pytest.raises(VerificationError):
            calls(spoil, elsewhere=True)
