"""Traps of programs: TorchScript, exported graphs and quantized layers, whole or as parts of another network."""

import copy
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcdropout.engine import Engine, UnsupportedModelError
from tests.engine.networks import Custom, mlp

X = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _deprecations():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def exported(module, x=X):
    return torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("rows")},))


PROGRAMS = {
    "scripted": lambda module: torch.jit.script(module),
    "scripted in train mode": lambda module: torch.jit.script(module.train()),
    "traced": lambda module: torch.jit.trace(module.eval(), X),
    "exported": lambda module: exported(module.eval()),
    "exported in train mode": lambda module: exported(module.train()),
    "an exported module": lambda module: exported(module.eval()).module(),
    "an exported module in train mode": lambda module: exported(module.train()).module(),
    "unflattened": lambda module: torch.export.unflatten(exported(module.eval())),
    "unflattened in train mode": lambda module: torch.export.unflatten(exported(module.train())),
}


def answers_alike(found, wanted):
    assert [(site.name, site.kind, site.p) for site in found.sites] == [
        (site.name, site.kind, site.p) for site in wanted.sites
    ]
    np.testing.assert_allclose(found.samples(X, 8, 1), wanted.samples(X, 8, 1), atol=1e-6)
    np.testing.assert_allclose(found.predict(X, 0).mean, wanted.predict(X, 0).mean, atol=1e-6)


@pytest.mark.wide
@pytest.mark.parametrize("form", PROGRAMS)
def test_a_program_that_is_handed_over_answers_as_the_network_that_it_was_made_of(form):
    program = PROGRAMS[form](copy.deepcopy(mlp()))
    wanted = Engine.from_module(mlp(), X, runtime="eager")
    answers_alike(Engine.from_module(program, X, runtime="eager"), wanted)
    answers_alike(Engine.from_module(program, X, runtime="eager"), wanted)  # which left it as it was


PARTS = ["scripted", "scripted in train mode", "traced", "an exported module"]


@pytest.mark.parametrize("form", PARTS)
def test_dropout_in_a_part_that_is_a_program_is_found(form):
    def network(part):
        torch.manual_seed(5)
        return nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.25), part, nn.ModuleDict({"last": nn.Linear(3, 3)})["last"])

    program = PROGRAMS[form](copy.deepcopy(mlp()))
    found = Engine.from_module(network(program), X, runtime="eager")
    assert [site.name for site in found.sites] == ["1", "2.2"]
    answers_alike(found, Engine.from_module(network(mlp()), X, runtime="eager"))


@pytest.mark.wide
@pytest.mark.parametrize("form", PARTS)
def test_a_part_without_dropout_that_is_a_program_is_run_as_it_is(form):
    def plain():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(4, 4), nn.Tanh())

    def network(part):
        torch.manual_seed(5)
        return nn.Sequential(part, nn.Dropout(0.25), nn.Linear(4, 3))

    found = Engine.from_module(network(PROGRAMS[form](plain())), X)
    answers_alike(found, Engine.from_module(network(plain()), X, runtime="eager"))


def test_a_frozen_part_has_no_dropout_left_and_is_run_as_it_is():
    frozen = torch.jit.freeze(torch.jit.script(mlp().eval()))
    engine = Engine.from_module(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), frozen), X, runtime="eager")
    assert [site.name for site in engine.sites] == ["1"]


def test_a_program_that_two_modules_hold_is_one():
    program = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)))
    module = Custom(lambda self, x: self.last(self.a(self.b(x))), a=program, b=program, last=nn.Linear(4, 3))
    engine = Engine.from_module(module, X, runtime="eager")
    assert [site.name for site in engine.sites] == ["a.1", "a.1#1"]


def test_methods_of_a_scripted_part_can_be_called():
    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x):
            return self.encode(x, 1.0)

        @torch.jit.export
        def encode(self, x, scale: float):
            return F.dropout(self.linear(x) * scale, 0.5, self.training)

    part = Part()
    module = Custom(lambda self, x: self.part.encode(x, scale=2.0), part=torch.jit.script(part))
    plain = Custom(lambda self, x: self.part.encode(x, scale=2.0), part=part)
    answers_alike(Engine.from_module(module, X, runtime="eager"), Engine.from_module(plain, X, runtime="eager"))


def test_the_users_own_program_stays_as_it_is():
    module = nn.Sequential(nn.Linear(4, 4), torch.jit.script(mlp())).train()
    Engine.from_module(module, X, runtime="eager")
    assert isinstance(module[1], torch.jit.ScriptModule)
    assert module[1].training
    program = exported(mlp().eval())
    before = str(program)
    Engine.from_module(program, X, runtime="eager")
    assert str(program) == before


@pytest.mark.parametrize(
    ("program", "told"),
    [
        (lambda: torch.jit.freeze(torch.jit.script(mlp().eval())), "the network is TorchScript, but it was frozen"),
        (lambda: torch.jit.script(nn.Linear(4, 3)), "the network is TorchScript, but it holds no dropout"),
        (lambda: exported(nn.Linear(4, 3)), "the network is an exported program, but it holds no dropout"),
        (
            lambda: torch.export.export(mlp().eval(), (X,)),
            "the network is an exported program, but its input 'input' has the fixed shape [3, 4]",
        ),
        (
            lambda: nn.Sequential(nn.Linear(4, 4), torch.jit.trace(mlp().train(), X, check_trace=False), noise()),
            "2 is TorchScript, but ",
        ),
    ],
    ids=["frozen", "without dropout", "exported without dropout", "for three rows", "a part that draws"],
)
def test_a_program_that_has_lost_its_dropout_is_refused_with_what_is_accepted(program, told):
    with pytest.raises(UnsupportedModelError) as raised:
        Engine.from_module(program(), X)
    assert str(raised.value).startswith(told)
    assert "is accepted" in str(raised.value)


def noise():
    return torch.jit.trace(Custom(lambda self, x: x + torch.rand_like(x)), torch.rand(3, 3), check_trace=False)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.recurrent, self.drop, self.last = nn.LSTM(4, 8, batch_first=True), nn.Dropout(0.5), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.drop(self.recurrent(x)[0][:, -1]))


@pytest.mark.parametrize(("make", "x"), [(mlp, X), (Recurrent, torch.rand(3, 5, 4))], ids=["linear", "recurrent"])
def test_each_row_of_a_dynamically_quantized_network_is_quantized_alone(make, x):
    torch.manual_seed(0)
    module = torch.ao.quantization.quantize_dynamic(make().eval(), {nn.Linear, nn.LSTM}, dtype=torch.qint8)
    engine = Engine.from_module(module, x)
    found = engine.samples(x, 4, 1)
    for row in range(3):
        np.testing.assert_allclose(
            engine.run((x[row : row + 1].numpy(),), [1], [row], 4, samples=True).samples[0], found[:, row], atol=1e-6
        )
    with torch.no_grad():
        plain = torch.cat([module(x[row : row + 1]) for row in range(3)]).softmax(-1)
    np.testing.assert_allclose(engine.predict(x, 0).mean, plain, atol=1e-5)


def branching(self, x):
    out = self.net(x).mean(1)
    if x.shape[1] == 7:
        out = out * 3
    return out * 5 if x.shape[1] > 12 else out


def exported_by_steps(form):
    steps = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    network = Custom(branching, net=mlp()).eval()
    program = torch.export.export(network, (torch.rand(3, 6, 4),), dynamic_shapes=((steps,),))
    return program.module() if form == "an exported module" else program


@pytest.mark.wide
@pytest.mark.parametrize("form", ["exported", "an exported module"])
@pytest.mark.parametrize(
    ("least", "most", "told"),
    [(2, 6, None), (8, 12, None), (3, 9, r"steps 7: .*\.size\(\)\[1\] != 7"), (8, 14, r"size\(\)\[1\] <= 12")],
)
def test_a_program_is_not_served_at_sizes_at_which_it_is_not_the_network_any_more(form, least, most, told):
    x = torch.rand(3, least, 4)

    def prepare():
        shapes, sizes = [("steps", 4)], {"steps": (least, most)}
        return Engine.from_module(exported_by_steps(form), x, "regression", shapes=shapes, sizes=sizes)

    if told is None:
        network = Custom(branching, net=mlp()).eval()
        for steps in (least, most):
            rows = torch.rand(2, steps, 4)
            np.testing.assert_allclose(prepare().predict(rows, 0).mean, network(rows).detach(), rtol=1e-4)
        return
    with pytest.raises(UnsupportedModelError, match=f"{told}.* are accepted"):
        prepare()


@pytest.mark.parametrize("limit", [12, 200])
def test_a_program_is_given_no_more_rows_than_it_was_exported_for(limit):
    counting = Custom(lambda s, x: s.net(x) * 5 if x.shape[0] > limit else s.net(x), net=mlp())
    program = torch.export.export(counting, (X,), dynamic_shapes=(({0: torch.export.Dim.DYNAMIC},),))
    x = torch.rand(600, 4, generator=torch.Generator().manual_seed(1))
    engine = Engine.from_module(program, X, "regression")
    np.testing.assert_allclose(engine.predict(x, 0).mean, mlp().eval()(x).detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("declared", [{"max": 1024}, {"min": 3}, {"min": 3, "max": 8}], ids=["most", "least", "both"])
def test_a_program_whose_owner_declared_how_many_rows_it_takes_is_split_all_the_same(declared):
    rows = torch.export.Dim("rows", **declared)
    engine = Engine.from_module(torch.export.export(mlp(), (X,), dynamic_shapes=({0: rows},)), X)
    assert engine.program.strategy == "split"
    np.testing.assert_allclose(engine.predict(X[:1], 0).mean, mlp().eval()(X[:1]).softmax(-1).detach(), atol=1e-6)


class BeginsInAState(nn.Module):
    def __init__(self, layer, rows):
        super().__init__()
        self.recurrent, self.drop, self.last = layer(4, 8, batch_first=True), nn.Dropout(0.5), nn.Linear(8, 3)
        self.rows = rows

    def forward(self, x):
        state = torch.zeros(1, self.rows, 8)
        start = (state, state) if isinstance(self.recurrent, nn.LSTM) else state
        return self.last(self.drop(self.recurrent(x, start)[0][:, -1]))


@pytest.mark.wide
@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_traced_recurrent_layer_that_begins_in_a_state_of_so_many_rows_is_refused(layer, rows):
    x = torch.rand(rows, 5, 4)
    program = torch.jit.trace(BeginsInAState(layer, rows).eval(), x)
    with pytest.raises(UnsupportedModelError, match=rf"in a state of {rows} rows? and is given [123]; .* is accepted"):
        Engine.from_module(program, x)
