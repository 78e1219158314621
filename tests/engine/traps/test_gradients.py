"""Traps of gradients: networks that find derivatives in their forward pass, and hooks that wait for them."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcdropout.engine import Engine
from mcdropout.engine.inspection import inspect
from mcdropout.engine.pytorch.module import understand
from mcdropout.engine.reading import Reading
from tests.engine.networks import Custom

X = torch.randn(3, 3, generator=torch.Generator().manual_seed(1))


def potential(outputs=1):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, outputs))


def force(self, x):
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        return torch.autograd.grad(self.net(x).sum(), x)[0]


def force_by_backward(self, x):
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        self.net(x).sum().backward()
    return -x.grad


def residual(self, x):
    """The value, its gradient, and a second derivative, as a network that solves an equation has them."""
    with torch.enable_grad():
        x = x.clone().requires_grad_(True)
        value = self.net(x)
        slope = torch.autograd.grad(value.sum(), x, create_graph=True)[0]
        curvature = torch.autograd.grad(slope[:, 0].sum(), x)[0]
    return torch.cat([value, slope, curvature], 1)


def force_without_saying_so(self, x):
    """Works where gradients are recorded only."""
    x = x.detach().requires_grad_(True)
    return torch.autograd.grad(self.net(x).sum(), x)[0]


def influence(self, x):
    """The gradient of each row's value by weights."""
    with torch.enable_grad():
        hidden = self.net[:3](x)
        rows = [torch.autograd.grad(self.net[3](row).sum(), self.net[3].weight)[0][0] for row in hidden]
    return torch.stack(rows)


IN_FORWARD = {
    "autograd.grad": force,
    "backward": force_by_backward,
    "second derivatives": residual,
    "gradients that are on by default": force_without_saying_so,
    "by weights": influence,
    "func.grad": lambda self, x: torch.func.grad(lambda y: self.net(y).sum())(x),
    "func.vjp": lambda self, x: torch.func.vjp(self.net, x)[1](torch.ones(len(x), 1))[0],
    "func.jvp": lambda self, x: torch.func.jvp(self.net, (x,), (torch.ones_like(x),))[1],
    "func.jacrev": lambda self, x: torch.func.jacrev(lambda y: self.net(y).sum(0))(x)[0],
    "func.jacfwd": lambda self, x: torch.func.jacfwd(lambda y: self.net(y).sum(0), randomness="same")(x)[0],
    "autograd.functional": lambda self, x: torch.autograd.functional.jacobian(lambda y: self.net(y).sum(0), x)[0],
}


def plain_loop(module, x, engine, passes, seed):
    """What the module answers under the engine's masks, `[passes, rows, ...]`: its dropout replaced by hand."""
    found = []
    for number in range(passes):
        parts = [engine.masks(seed, row, number, 1)[0] for row in range(len(x))]
        mask = torch.from_numpy(np.concatenate(parts))

        class Masked(nn.Module):
            def forward(self, x, mask=mask):
                return x * mask

        module.net[2] = Masked()
        found.append(module(x).detach())
    return torch.stack(found).numpy()


@pytest.mark.wide
@pytest.mark.parametrize(
    ("form", "runtime"), [*((form, "eager") for form in IN_FORWARD), ("autograd.grad", "auto"), ("func.grad", "auto")]
)
def test_derivatives_in_the_forward_pass_are_those_of_the_plain_loop(form, runtime):
    module = Custom(IN_FORWARD[form], net=potential())
    engine = Engine.from_module(module, X, "regression", runtime=runtime)
    assert [(site.name, site.scope) for site in engine.sites] == [("net.2", "row")]
    found = engine.samples(X, 6, 3)
    np.testing.assert_allclose(found, plain_loop(module, X, engine, 6, 3), atol=1e-5)
    assert np.ptp(found, axis=0).max() > 1e-3


@pytest.mark.parametrize("error", [AssertionError, NotImplementedError, ValueError])
def test_a_derivative_that_is_given_in_training_only_is_not_asked_for(error):
    class Reversible(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2.0

        @staticmethod
        def backward(ctx, gradient):
            raise error("make sure to use model.train()")

    module = Custom(lambda self, x: Reversible.apply(self.net(x)), net=classifier())
    engine = Engine.from_module(module, X, runtime="eager")
    assert [site.name for site in engine.sites] == ["net.2"]


def test_a_network_that_finds_derivatives_can_be_inspected():
    found = inspect(lambda: understand(Custom(force, net=potential()), X), Reading("regression"))
    assert found.error is None
    assert found.seconds is not None


def classifier():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 4))


def kept_by_hooks():
    network, kept = classifier(), {}
    network[1].register_forward_hook(lambda part, inputs, output: kept.update(activation=output))
    network[1].register_full_backward_hook(lambda part, given, got: kept.update(gradient=got[0]))
    return network


def hooked_tensor(self, x):
    hidden = self.net[:3](x)
    hidden.register_hook(lambda gradient: None)
    return self.net[3](hidden)


def retained(self, x):
    self.hidden = self.net[:3](x)
    self.hidden.retain_grad()
    return self.net[3](self.hidden)


@pytest.mark.parametrize(
    ("make", "runtime"),
    [
        (kept_by_hooks, "torch"),
        (lambda: Custom(hooked_tensor, net=classifier()), "auto"),  # which torch.export does not follow
        (lambda: Custom(retained, net=classifier()), "auto"),
    ],
    ids=["hooks on modules", "a hook on a tensor", "a gradient that is kept"],
)
def test_what_waits_for_gradients_does_not_keep_a_network_from_serving(make, runtime):
    engine = Engine.from_module(make(), X, runtime=runtime)
    assert len(engine.sites) == 1
    plain = Engine.from_module(classifier(), X, runtime="torch")
    np.testing.assert_allclose(engine.predict(X, 30, 1).mean, plain.predict(X, 30, 1).mean, atol=1e-5)


class Salesforce(nn.Module):
    """WeightDrop of salesforce/awd-lstm-lm."""

    def __init__(self, module, weights, dropout, assign=lambda w: w):
        super().__init__()
        self.module, self.weights, self.dropout, self.assign = module, weights, dropout, assign
        if issubclass(type(module), nn.RNNBase):
            module.flatten_parameters = self.nothing
        for name in weights:
            weight = getattr(module, name)
            del module._parameters[name]
            module.register_parameter(f"{name}_raw", nn.Parameter(weight.data))

    def nothing(*_, **__):
        return

    def _setweights(self):
        for name in self.weights:
            raw = getattr(self.module, f"{name}_raw")
            setattr(self.module, name, self.assign(F.dropout(raw, p=self.dropout, training=self.training)))

    def forward(self, *args):
        self._setweights()
        return self.module.forward(*args)


class WithoutGradients(Salesforce):
    def _setweights(self):
        with torch.no_grad():
            super()._setweights()


class Fastai(nn.Module):
    """WeightDropout of fastai."""

    def __init__(self, module, layers, dropout):
        super().__init__()
        self.module, self.dropout, self.layers = module, dropout, layers
        for layer in layers:
            weight = getattr(module, layer)
            delattr(module, layer)
            self.register_parameter(f"{layer}_raw", nn.Parameter(weight.data))
            setattr(module, layer, weight.clone())
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters = self._do_nothing

    def _do_nothing(self):
        pass

    def _setweights(self):
        for layer in self.layers:
            raw = getattr(self, f"{layer}_raw")
            setattr(self.module, layer, F.dropout(raw, p=self.dropout) if self.training else raw.clone())

    def forward(self, *args):
        self._setweights()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=UserWarning)
            return self.module(*args)


class OldFastai(nn.Module):
    """WeightDropout of fastai 1, which writes into the parameters of the module."""

    def __init__(self, module, layers, dropout):
        super().__init__()
        self.module, self.dropout, self.layers = module, dropout, layers
        for layer in layers:
            weight = getattr(module, layer)
            self.register_parameter(f"{layer}_raw", nn.Parameter(weight.data))
            module._parameters[layer] = F.dropout(weight, p=dropout, training=False)

    def forward(self, *args):
        for layer in self.layers:
            raw = getattr(self, f"{layer}_raw")
            self.module._parameters[layer] = F.dropout(raw, p=self.dropout, training=self.training)
        return self.module(*args)


WRAPPERS = {
    "salesforce": Salesforce,
    "salesforce with parameters": lambda *args: Salesforce(*args, assign=nn.Parameter),
    "salesforce without gradients": WithoutGradients,
    "fastai": Fastai,
    "fastai 1": OldFastai,
}


def runtime_of(wrapper):
    """One of them runs as ONNX, which is made of the program that PyTorch runs split; fastai 1 cannot be exported."""
    return "auto" if wrapper in ("salesforce", "fastai 1") else "torch"


def language_model(wrap, directions=1):
    torch.manual_seed(0)
    both = directions == 2
    names = ["weight_hh_l0", "weight_hh_l0_reverse"][:directions]
    recurrent = wrap(nn.LSTM(4, 8, batch_first=True, bidirectional=both), names, 0.5)
    return Custom(
        lambda self, x: self.last(self.recurrent(x)[0][:, -1]), recurrent=recurrent, last=nn.Linear(8 * directions, 3)
    )


STEPS = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(2))


@pytest.mark.wide
@pytest.mark.parametrize("trained", [False, True], ids=["fresh", "after training"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_dropout_of_recurrent_weights_is_one_mask_a_pass(wrapper, directions, trained):
    module = language_model(WRAPPERS[wrapper], directions)
    if trained and wrapper != "salesforce without gradients":
        module.train()(STEPS).sum().backward()
    engine = Engine.from_module(module, STEPS, runtime=runtime_of(wrapper))
    assert [(site.kind, site.scope, site.mask_shape) for site in engine.sites] == [
        ("dropconnect", "pass", (32, 8))
    ] * directions
    masks = [torch.from_numpy(mask) for mask in engine.masks(4, 0, 0, 1)]
    plain = nn.LSTM(4, 8, batch_first=True, bidirectional=directions == 2)
    state = {name.rpartition(".")[2]: value for name, value in module.recurrent.named_parameters()}
    state |= {name.removesuffix("_raw"): value for name, value in state.items() if name.endswith("_raw")}
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    with torch.no_grad():
        for name, mask in zip(["weight_hh_l0", "weight_hh_l0_reverse"], masks, strict=False):
            getattr(plain, name).mul_(mask)
        wanted = module.last(plain(STEPS)[0][:, -1])
    (found,) = engine.outputs(STEPS, [mask.numpy() for mask in masks])
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_dropout_of_a_linear_layers_weights_is_one_mask_a_pass(wrapper):
    torch.manual_seed(0)
    wrapped = WRAPPERS[wrapper](nn.Linear(3, 4), ["weight"], 0.25)
    module = Custom(lambda self, x: self.layer(x), layer=wrapped)
    engine = Engine.from_module(module, X, runtime=runtime_of(wrapper))
    assert [(site.kind, site.scope, site.p) for site in engine.sites] == [("dropconnect", "pass", 0.25)]
    assert engine.predict(X, 20, 1).variance.min() > 0.0
