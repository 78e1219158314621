"""Traps of users' own Monte Carlo dropout: networks that set modes themselves, against which `eval()` does nothing.

The baseline is the network with its dropout off; batch norm stays in eval mode.
"""

import itertools
import types
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcdropout.engine import Engine
from tests.engine.networks import Custom

X = torch.linspace(-1, 1, 32).reshape(4, 8)
P = 0.375


class Net(nn.Module):
    """Dropout behind a batch norm that has seen data."""

    def __init__(self, dropout=None):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.n, self.d, self.o = (
            nn.Linear(8, 16),
            nn.BatchNorm1d(16),
            dropout or nn.Dropout(P),
            nn.Linear(16, 3),
        )
        with torch.no_grad():
            self.n.running_mean.uniform_(-1, 1)
            self.n.running_var.uniform_(0.5, 2)

    def forward(self, x):
        return self.o(self.d(F.relu(self.n(self.a(x)))))


class EvalKeepsDropoutOn(Net):
    def eval(self):
        super().eval()
        for part in self.modules():
            if isinstance(part, nn.Dropout):
                part.train()
        return self


class EvalReturnsNothing(Net):
    def eval(self):
        super().eval()
        self.d.train()


class EvalRaises(Net):
    def eval(self):
        raise RuntimeError("this network is always stochastic")


class EvalIsTrain(Net):
    def eval(self):
        return self.train()


class TrainRaises(Net):
    def train(self, mode=True):
        if mode:
            raise RuntimeError("this network is for inference")
        return super().train(mode)


class TrainRaisesAlways(Net):
    def train(self, mode=True):
        raise RuntimeError("no modes here")


class TrainReturnsNothing(Net):
    def train(self, mode=True):
        super().train(mode)


class TrainDoesNothing(Net):
    def train(self, mode=True):
        return self


class TrainFreezesBatchNorm(Net):
    def train(self, mode=True):
        super().train(mode)
        self.n.eval()
        for parameter in self.n.parameters():
            parameter.requires_grad_(False)
        return self


class TrainKeepsDropoutOn(Net):
    def train(self, mode=True):
        super().train(mode)
        self.d.train(True)
        return self


class TrainTakesNoMode(Net):
    def train(self):
        self.training = True


class AlwaysOn(nn.Dropout):
    def train(self, mode=True):
        return super().train(True)


class ReturnsNothing(nn.Dropout):
    def train(self, mode=True):
        self.training = True


class IgnoresItsMode(nn.Dropout):
    def forward(self, x):
        return F.dropout(x, self.p, True, self.inplace)


class TurnsItselfOn(nn.Dropout):
    def forward(self, x):
        self.training = True
        return super().forward(x)


class TurnsItselfOnAndOff(nn.Dropout):
    def forward(self, x):
        self.train()
        x = super().forward(x)
        self.eval()
        return x


class OnByProperty(nn.Dropout):
    @property
    def training(self):
        return True

    @training.setter
    def training(self, value):
        pass


class CannotBeSet(nn.Dropout):
    def __setattr__(self, name, value):
        if name == "training" and "training" in vars(self):
            raise AttributeError("the mode of this dropout is fixed")
        super().__setattr__(name, value)


class OnUnlessAsked(nn.Module):
    def __init__(self):
        super().__init__()
        self.p, self.mc = P, True

    def forward(self, x):
        return F.dropout(x, self.p, self.training or self.mc)


class OnInForward(Net):
    def forward(self, x):
        self.d.train()
        return super().forward(x)


class AllOnInForward(Net):
    def forward(self, x):
        for part in self.modules():
            if isinstance(part, nn.Dropout):
                part.train()
        return super().forward(x)


class TrainInForward(Net):
    def forward(self, x):
        self.train()
        return super().forward(x)


class TrainingInForward(Net):
    def forward(self, x):
        self.training = True
        x = F.relu(self.n(self.a(x)))
        return self.o(F.dropout(x, P, self.training))


class TrainAndBackInForward(Net):
    def forward(self, x):
        was = self.training
        self.train()
        self.n.eval()
        x = super().forward(x)
        self.train(was)
        return x


class Functional(Net):
    def forward(self, x):
        return self.o(F.dropout(F.relu(self.n(self.a(x))), p=P, training=True))


class FunctionalWithoutMode(Net):
    def forward(self, x):
        return self.o(F.dropout(F.relu(self.n(self.a(x))), P))


class Applies(Net):
    def enable_dropout(self):
        self.apply(lambda part: part.train() if type(part).__name__.startswith("Dropout") else None)

    def eval(self):
        super().eval()
        self.enable_dropout()
        return self


def eval_replaced():
    module = Net()
    module.eval = lambda: module
    return module


def eval_replaced_by_a_method():
    def evaluate(self):
        nn.Module.eval(self)
        self.d.train()

    module = Net()
    module.eval = types.MethodType(evaluate, module)
    return module


def train_replaced():
    module = Net()
    module.train = lambda mode=True: module
    return module


def on_by_a_hook():
    module = Net()
    module.d.register_forward_pre_hook(lambda part, inputs: part.train() and None)
    return module


def on_by_a_hook_of_the_network():
    module = Net()
    module.register_forward_pre_hook(lambda part, inputs: module.d.train() and None)
    return module


def inside_of_another():
    return nn.Sequential(EvalKeepsDropoutOn(), nn.Linear(3, 3))


HABITS = {
    **{
        kind.__name__: kind
        for kind in (
            EvalKeepsDropoutOn,
            EvalReturnsNothing,
            EvalRaises,
            EvalIsTrain,
            TrainRaises,
            TrainRaisesAlways,
            TrainReturnsNothing,
            TrainDoesNothing,
            TrainFreezesBatchNorm,
            TrainKeepsDropoutOn,
            TrainTakesNoMode,
            OnInForward,
            AllOnInForward,
            TrainInForward,
            TrainingInForward,
            TrainAndBackInForward,
            Functional,
            FunctionalWithoutMode,
            Applies,
        )
    },
    **{
        f"dropout that is {kind.__name__}": lambda kind=kind: Net(kind(P))
        for kind in (
            AlwaysOn,
            ReturnsNothing,
            IgnoresItsMode,
            TurnsItselfOn,
            TurnsItselfOnAndOff,
            OnByProperty,
            CannotBeSet,
        )
    },
    "dropout that is on unless it is asked not to be": lambda: Net(OnUnlessAsked()),
    "eval that is replaced": eval_replaced,
    "eval that is replaced by a method": eval_replaced_by_a_method,
    "train that is replaced": train_replaced,
    "on by a hook": on_by_a_hook,
    "on by a hook of the network": on_by_a_hook_of_the_network,
    "inside of another": inside_of_another,
}


def wanted(module, masks=None):
    """The network with masks for its dropout, or with its dropout off; its batch norm in eval mode."""
    left = iter(masks or ())

    def dropped(x, *args, **kwargs):
        return x * torch.from_numpy(next(left)) if masks else x

    def normalized(x, mean, var, weight, bias, *args, **kwargs):
        return torch.batch_norm(x, weight, bias, mean, var, False, 0.1, 1e-5, False)

    patched = mock.patch.multiple("torch.nn.functional", dropout=dropped, batch_norm=normalized)
    with patched, torch.no_grad():
        return module(X).numpy()


# ONNX is made of the program that PyTorch runs split: one habit of each kind shows that nothing is lost on the way.
CONVERTED = ("EvalKeepsDropoutOn", "TrainInForward", "Functional", "on by a hook")


@pytest.mark.wide
@pytest.mark.parametrize(
    ("runtime", "name"),
    [*itertools.product(("eager", "torch"), HABITS), *itertools.product(("auto",), CONVERTED)],
)
def test_a_network_that_keeps_its_dropout_on_is_served_and_has_a_baseline_with_it_off(name, runtime):
    module = HABITS[name]()
    state = {key: value.clone() for key, value in module.state_dict().items()}
    modes = [part.training for part in module.modules()]
    engine = Engine.from_module(module, X, "regression", runtime=runtime)
    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert [site.p for site in engine.sites] == [P]
    assert engine.program.runtime == runtime or runtime == "auto"
    masks = engine.masks(3, 0, 0, len(X))
    np.testing.assert_allclose(engine.outputs(X, masks)[0], wanted(module, masks), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(engine.predict(X, 0).mean, wanted(module), rtol=1e-4, atol=1e-5)
    assert engine.predict(X, 50, 1).epistemic_variance.min() > 0


def test_what_eval_does_beside_modes_is_done():
    class Merges(Net):
        def eval(self):
            self.o.weight.data.mul_(2.0)
            return super().eval()

    module = Merges()
    engine = Engine.from_module(module, X, "regression", runtime="eager")
    np.testing.assert_allclose(engine.predict(X, 0).mean, wanted(module.eval()), rtol=1e-4, atol=1e-5)


def test_dropout_that_its_network_switches_off_in_forward_stays_off():
    def forward(self, x):
        self.frozen.eval()
        return self.rest(self.frozen(x))

    module = Custom(forward, frozen=nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)), rest=Net())
    engine = Engine.from_module(module, X, "regression", runtime="eager")
    assert [site.name for site in engine.sites] == ["rest.d"]
    assert [(site.name, site.reason) for site in engine.sites_off] == [("frozen.1", "its own code switches it off")]
