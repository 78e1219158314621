"""Traps of functions that hold a network's modules: a deep copy leaves them bound to the user's."""

import collections
import copy
import functools
import itertools
import random
import types
import weakref
from dataclasses import dataclass, field
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcdropout.engine import Engine, UnsupportedModelError, VerificationError
from tests.engine.networks import Custom

X = torch.linspace(-1, 1, 32).reshape(4, 8)
P = 0.375


class Parts(nn.Module):
    """Parts whose order a forward of some kind knows."""

    def __init__(self):
        super().__init__()
        self.a, self.n, self.d, self.o = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(P), nn.Linear(16, 3)

    def forward(self, x):
        return self.run(x)

    def body(self, x):
        return self.o(self.d(F.relu(self.n(self.a(x)))))


def lambda_over_self():
    module = Parts()
    module.run = lambda x: module.o(module.d(module.n(module.a(x))))
    return module


def function_over_layers():
    module = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(P), nn.Linear(16, 3))
    layers = list(module)

    def forward(x):
        for layer in layers:
            x = layer(x)
        return x

    module.forward = forward
    return module


def nested_closures():
    module = Parts()

    def outer():
        held = {"parts": (module.a, [module.n, module.d], module.o)}

        def inner(x):
            first, middle, last = held["parts"]
            for part in middle:
                first, x = None, part(x if first is None else first(x))
            return last(x)

        return lambda x: inner(x)

    module.run = outer()
    return module


def bound_method_of_the_original():
    module = Parts()
    module.forward = module.body
    return module


def bound_by_hand():
    module = Parts()
    other = module.d

    def forward(self, x):
        return self.o(other(self.n(self.a(x))))

    module.forward = types.MethodType(forward, module)
    return module


def partial_over_modules():
    module = Parts()

    def run(a, d, x, *, rest):
        return rest[1](d(rest[0](a(x))))

    module.run = functools.partial(run, module.a, module.d, rest=[module.n, module.o])
    return module


def partial_of_a_closure():
    module = Parts()
    module.run = functools.partial(lambda scale, x: module.body(x) * scale, 2.0)
    return module


def default_arguments():
    module = Parts()

    def run(x, a=module.a, parts=(module.n, module.d), *, o=module.o):
        x = a(x)
        for part in parts:
            x = part(x)
        return o(x)

    module.run = run
    return module


def functions_in_lists_and_dicts():
    module = Parts()
    module.steps = [module.a, lambda x: module.n(x), {"drop": lambda x: module.d(x)}, (lambda x: module.o(x),)]

    def run(x):
        first, second, third, (fourth,) = module.steps
        return fourth(third["drop"](second(first(x))))

    module.run = run
    return module


@dataclass(frozen=True)
class Steps:
    """Steps of a network, in an object that cannot be written to."""

    first: object
    others: list = field(default_factory=list)

    def __call__(self, x):
        for step in (self.first, *self.others):
            x = step(x)
        return x


def dataclass_of_functions():
    module = Parts()
    module.run = Steps(lambda x: module.a(x), [module.n, lambda x: module.d(x), module.o.forward])
    return module


class Slotted:
    """A function in a slot."""

    __slots__ = ("function",)

    def __init__(self, function):
        self.function = function

    def __call__(self, x):
        return self.function(x)


def function_in_a_slot():
    module = Parts()
    module.run = Slotted(lambda x: module.body(x))
    return module


def attribute_of_a_function():
    module = Parts()

    def run(x):
        return run.of.body(x)

    run.of = module
    module.run = run
    return module


def forward_hook():
    module = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    drop = nn.Dropout(P)
    module[1].register_forward_hook(lambda part, inputs, output: drop(output))
    return module


def forward_pre_hook_of_the_original():
    module = Parts()
    module.run = module.o
    module.register_forward_pre_hook(lambda part, inputs: (module.d(module.n(module.a(inputs[0]))),))
    return module


class Dropped(nn.Module):
    """A parametrization that drops from a weight by a function that it was given."""

    def __init__(self, drop):
        super().__init__()
        self.drop = drop

    def forward(self, weight):
        return self.drop(weight)


def parametrization():
    module = nn.Sequential(nn.Linear(8, 16), nn.Dropout(P), nn.Linear(16, 3))
    torch.nn.utils.parametrize.register_parametrization(module[0], "weight", Dropped(lambda w: w * module[2].bias[0]))
    return module


def decorated():
    module = Parts()

    def doubled(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return 2.0 * function(*args, **kwargs)

        return wrapper

    module.body = doubled(module.body)
    module.run = lambda x: module.body(x)
    return module


def weak_reference_to_the_parent():
    module = Parts()
    child = Custom(lambda self, x: self.parent().body(x))
    child.parent = weakref.ref(module)
    module.child = child
    module.run = lambda x: child(x)
    return module


def built_in_method_of_a_weight():
    module = Parts()
    product = module.o.weight.matmul
    module.run = lambda x: product(module.d(module.n(module.a(x))).T).T
    return module


def class_inside_of_a_function():
    a, d, o = nn.Linear(8, 16), nn.Dropout(P), nn.Linear(16, 3)

    class Local(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.o = a, o

        def forward(self, x):
            return o(d(self.a(x)))

    return Local()


def modules_in_a_list():
    module = nn.Module()
    layers = [nn.Linear(8, 16), nn.ReLU(), nn.Dropout(P), nn.Linear(16, 3)]
    module.layers = layers
    module.forward = lambda x: functools.reduce(lambda value, layer: layer(value), module.layers, x)
    return module


def modules_in_nested_containers():
    return Custom(
        lambda self, x: self.held["last"](self.held["middle"][0](self.held["first"](x))),
        held={"first": nn.Linear(8, 16), "middle": (nn.Dropout(P),), "last": nn.Linear(16, 3)},
    )


def recursive_function():
    module = nn.Sequential(nn.Linear(8, 16), nn.Dropout(P), nn.Linear(16, 3))

    def run(x, index=0):
        return x if index == len(module) else run(module[index](x), index + 1)

    module.forward = run
    return module


def cached_function():
    module = Parts()

    @functools.lru_cache
    def part(name):
        return getattr(module, name)

    module.run = lambda x: part("o")(part("d")(part("n")(part("a")(x))))
    module.run(torch.zeros(2, 8))
    return module


def unregistered_by_a_trick():
    module = Parts()
    inner = Custom(lambda self, x: self.outer[0].body(x), outer=[module])
    module.run = lambda x: inner(x)
    return module


def proxy_of_the_parent():
    module = Parts()
    vars(module)["child"] = Custom(lambda self, x: self.parent.body(x))
    vars(module.child)["parent"] = weakref.proxy(module)
    module.run = lambda x: module.child(x)
    return module


def factory_of_a_dictionary():
    module = Parts()
    module.others = collections.defaultdict(lambda: module.d)
    module.run = lambda x: module.o(module.others["new"](module.n(module.a(x))))
    return module


Pair = collections.namedtuple("Pair", "first second")


def named_tuple():
    module = Parts()
    module.pair = Pair(lambda x: module.n(module.a(x)), {module.d})
    module.run = lambda x: module.o(next(iter(module.pair.second))(module.pair.first(x)))
    return module


def partial_with_attributes():
    module = nn.Sequential(nn.Linear(8, 16), nn.Dropout(P), nn.Linear(16, 3))
    drop = module[1]

    def wrapped(part, x):
        return part.forward.__wrapped__(x)

    drop.forward = functools.update_wrapper(functools.partial(wrapped, drop), drop.forward)
    return module


def functional_call_of_a_network_without_values():
    module = nn.Sequential(nn.Linear(8, 16), nn.Dropout(P), nn.Linear(16, 3))
    values, base = {name: value.detach() for name, value in module.named_parameters()}, copy.deepcopy(module).to("meta")
    whole = nn.Module()
    whole.forward = lambda x: torch.func.functional_call(base, values, (x,))
    return whole


def compiled():
    return torch.compile(nn.Sequential(nn.Linear(8, 16), nn.Dropout(P), nn.Linear(16, 3)), backend="eager")


HELD = [
    lambda_over_self,
    function_over_layers,
    nested_closures,
    bound_method_of_the_original,
    bound_by_hand,
    partial_over_modules,
    partial_of_a_closure,
    default_arguments,
    functions_in_lists_and_dicts,
    dataclass_of_functions,
    function_in_a_slot,
    attribute_of_a_function,
    forward_hook,
    forward_pre_hook_of_the_original,
    parametrization,
    decorated,
    weak_reference_to_the_parent,
    built_in_method_of_a_weight,
    class_inside_of_a_function,
    modules_in_a_list,
    modules_in_nested_containers,
    recursive_function,
    cached_function,
    unregistered_by_a_trick,
    proxy_of_the_parent,
    factory_of_a_dictionary,
    named_tuple,
    partial_with_attributes,
    functional_call_of_a_network_without_values,
    compiled,
]


def under(module, masks, x=X):
    """The module itself, with masks in the place of dropout, and all else in eval mode."""
    left = iter(masks)
    with mock.patch("torch.nn.functional.dropout", lambda h, *args, **kwargs: h * next(left)), torch.no_grad():
        return module.eval()(x).numpy()


def spoiled(module, engine, masks):
    """What an engine answers before and after its user trains, overwrites and changes the network."""
    before = engine.outputs(X, masks)[0], engine.predict(X, 30, 1).mean
    module.train()
    for part in {id(part): part for part in (*module.modules(), *_all_modules(module))}.values():
        part.training = True
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        for value in (*part._parameters.values(), *part._buffers.values()):
            if value is not None:
                value.data.zero_()
    return before, (engine.outputs(X, masks)[0], engine.predict(X, 30, 1).mean)


def _all_modules(module):
    from mcdropout.engine.pytorch.private.held import walk

    return [x for _, x in walk(module) if isinstance(x, nn.Module)]


# ONNX is made of the program that PyTorch runs split: a few kinds show that nothing is lost on the way.
CONVERTED = [lambda_over_self, forward_hook, parametrization, built_in_method_of_a_weight]


@pytest.mark.parametrize(
    ("build", "runtime"),
    [
        (build, runtime)
        for runtime in ("eager", "torch", "auto")
        for build in (HELD if runtime != "auto" else CONVERTED)
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
class TestAFunctionThatHoldsModules:
    @pytest.mark.wide
    def test_is_bound_to_those_of_the_copy(self, build, runtime):
        torch.manual_seed(0)
        module = build().train(runtime == "eager")
        engine = Engine.from_module(module, X, "regression", runtime=runtime)
        assert [(site.p, site.kind) for site in engine.sites] == [(P, "element")]
        masks = engine.masks(7, 0, 0, len(X))
        same = under(module, map(torch.from_numpy, masks))
        np.testing.assert_allclose(engine.outputs(X, masks)[0], same, rtol=1e-4, atol=1e-5)
        deterministic = under(module, itertools.repeat(torch.ones(())))
        np.testing.assert_allclose(engine.predict(X, 0).mean, deterministic, rtol=1e-4, atol=1e-5)
        assert engine.predict(X, 50, 1).epistemic_variance.min() > 0

    @pytest.mark.wide
    def test_and_later_changes_of_the_users_network_change_no_answer(self, build, runtime):
        torch.manual_seed(0)
        module = build()
        engine = Engine.from_module(module, X, "regression", runtime=runtime)
        before, after = spoiled(module, engine, engine.masks(7, 0, 0, len(X)))
        for a, b in zip(before, after, strict=True):
            np.testing.assert_array_equal(a, b)
        assert before[0].std() > 0


class TestModulesThatAreNotRegistered:
    def test_have_the_names_of_where_they_lie(self):
        names = {
            build: Engine.from_module(build(), X, "regression", runtime="eager").sites[0].name
            for build in (modules_in_a_list, modules_in_nested_containers, forward_hook, compiled)
        }
        assert names[modules_in_a_list] == "layers.2"
        assert names[modules_in_nested_containers] == "held.middle.0"
        assert names[compiled] == "_orig_mod.1"
        assert names[forward_hook].endswith(".drop")

    def test_stay_in_eval_mode_where_they_normalize(self):
        module = Custom(lambda self, x: self.layers[2](self.layers[1](self.layers[0](x))))
        module.layers = [nn.BatchNorm1d(8), nn.Dropout(P), nn.Linear(8, 3)]
        module.layers[0].running_mean += 1.0
        module.layers[0].eval()
        engine = Engine.from_module(module, X, "regression", runtime="eager")
        wanted = module.layers[2]((X - 1.0) / (1.0 + 1e-5) ** 0.5)
        np.testing.assert_allclose(engine.predict(X, 0).mean, wanted.detach(), rtol=1e-4, atol=1e-5)

    def test_whose_normalization_no_eval_reaches_are_refused(self):
        module = Custom(lambda self, x: self.layers[2](self.layers[1](self.layers[0](x))))
        module.layers = [nn.BatchNorm1d(8), nn.Dropout(P), nn.Linear(8, 3)]
        with pytest.raises(UnsupportedModelError, match=r"layers\.0 \(BatchNorm1d\) is in train mode, .* nn\.Mod"):
            Engine.from_module(module.eval(), X, "regression", runtime="eager")

    def test_that_count_in_a_buffer_are_refused(self):
        def counts(self, x):
            self.count += 1
            return x

        counting = Custom(counts)
        counting.register_buffer("count", torch.zeros(()))
        module = Custom(lambda self, x: self.rest(self.layers[0](x)), layers=[counting], rest=function_over_layers())
        with pytest.raises(VerificationError, match=r"moved: layers\.0\.count"):
            Engine.from_module(module, X, "regression", runtime="eager")


WHOLE = Parts()
PART = nn.Dropout(P)
BACKBONE = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
FREE = nn.Parameter(torch.ones(8))
RELU = nn.ReLU()
MEAN = torch.linspace(0, 1, 8)


def global_network():
    module = WHOLE
    module.run = lambda x: WHOLE.o(WHOLE.d(WHOLE.a(x)))
    return module


def global_helper_function():
    module = WHOLE
    module.run = lambda x: _over_whole(x)
    return module


def _over_whole(x):
    return WHOLE.o(WHOLE.d(WHOLE.a(x)))


def global_weight():
    module = WHOLE
    module.run = lambda x: module.d(_weighted(x))
    return module


def _weighted(x):
    return F.linear(x, WHOLE.a.weight, WHOLE.a.bias)


def global_flag():
    module = WHOLE
    module.run = lambda x: module.o(F.dropout(module.a(x), P, WHOLE.training))
    return module


def with_a_global(function):
    return nn.Sequential(nn.Linear(8, 8), nn.Dropout(P), Custom(lambda self, x: function(x)), nn.Linear(8, 3))


class ClassLevel(nn.Module):
    """A dropout that all networks of the class share."""

    drop = nn.Dropout(P)

    def __init__(self):
        super().__init__()
        self.a, self.o = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x):
        return self.o(self.drop(self.a(x)))


class Trainer:
    """What holds a network, and cannot be copied."""

    def __init__(self, module):
        self.module, self.file = module, (line for line in ())


def closure_over_what_cannot_be_copied():
    module = Parts()
    trainer = Trainer(module)
    module.run = lambda x: trainer.module.o(trainer.module.d(trainer.module.a(x)))
    return module


def weight_of_what_cannot_be_copied():
    module = Parts()
    trainer = Trainer(module)
    module.run = lambda x: module.o(module.d(F.linear(x, trainer.module.a.weight)))
    return module


OUTSIDE = {
    "a global network": (global_network, "WHOLE"),
    "a global network in a helper function": (global_helper_function, "WHOLE"),
    "a weight of a global network": (global_weight, "WHOLE"),
    "a flag of a global network": (global_flag, "WHOLE"),
    "a global dropout": (lambda: with_a_global(lambda x: PART(x)), "Dropout, which draws, that is no part"),
    "a global backbone": (
        lambda: with_a_global(lambda x: BACKBONE(x)),
        "has weights or buffers, that is no part",
    ),
    "a global parameter": (lambda: with_a_global(lambda x: x * FREE), r"a parameter of shape \[8\]"),
    "a dropout of the class": (ClassLevel, "Dropout, which draws, that is no part"),
    "a weight in an object that cannot be copied": (weight_of_what_cannot_be_copied, r"a\.weight of the network"),
    "an object that cannot be copied": (closure_over_what_cannot_be_copied, r"a \(Linear\) of the network"),
}


@pytest.mark.parametrize("kind", OUTSIDE)
@pytest.mark.parametrize("training", [True, False])
def test_what_lies_outside_of_the_copy_is_named_and_left_as_it_is(kind, training):
    build, named = OUTSIDE[kind]
    module = build().train(training)
    states = [copy.deepcopy(part.state_dict()) for part in (module, WHOLE, BACKBONE)]
    BACKBONE.train(training)
    with pytest.raises(UnsupportedModelError, match=named) as raised:
        Engine.from_module(module, X, "regression", runtime="eager")
    assert "outside of the engine's copy" in str(raised.value)
    for part, state in zip((module, WHOLE, BACKBONE), states, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in part.state_dict().items())
    assert {part.training for part in module.modules()} == {training}


@pytest.mark.parametrize(
    "function",
    [lambda x: RELU(x), lambda x: x - MEAN, lambda x: nn.ReLU()(x), lambda x: nn.LayerNorm(8)(x)],
    ids=["a global activation", "a global constant", "an activation made on the way", "a norm made on the way"],
)
def test_what_holds_no_state_or_is_made_on_the_way_is_no_obstacle(function):
    module = with_a_global(function)
    engine = Engine.from_module(module, X, "regression", runtime="eager")
    assert [site.name for site in engine.sites] == ["1"]
    np.testing.assert_allclose(engine.predict(X, 0).mean, module.eval()(X).detach(), rtol=1e-4, atol=1e-5)


def test_dropout_that_is_made_on_the_way_is_a_site():
    module = Custom(lambda self, x: self.o(nn.Dropout(P)(x)), o=nn.Linear(8, 3))
    assert [site.p for site in Engine.from_module(module, X, "regression", runtime="eager").sites] == [P]


class SharesItself(Parts):
    def __deepcopy__(self, memo):
        return self


class SharesAPart(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.d, self.o = nn.Linear(8, 16), nn.Dropout(P), nn.Linear(16, 3)

    def forward(self, x):
        return self.o(self.d(self.a(x)))

    def __deepcopy__(self, memo):
        other = type(self)()
        other.a = self.a
        return other


class SharesAWeight(SharesAPart):
    def __deepcopy__(self, memo):
        other = SharesAWeight()
        other.a.weight = self.a.weight
        return other


class SharesStorage(SharesAPart):
    def __deepcopy__(self, memo):
        other = SharesStorage()
        other.o.bias = nn.Parameter(self.o.bias.detach())
        return other


@pytest.mark.parametrize(
    ("kind", "shared"),
    [(SharesItself, "all"), (SharesAPart, r"a \(Linear\)"), (SharesAWeight, r"a\.weight"), (SharesStorage, r"o\.bias")],
)
@pytest.mark.parametrize("inner", [False, True])
def test_a_copy_that_shares_what_it_holds_is_refused_before_anything_is_touched(kind, shared, inner):
    module = kind()
    module.run = module.body if kind is SharesItself else None
    whole = nn.Sequential(module) if inner else module
    named = shared.replace("all", "0" if inner else "all") if kind is SharesItself else shared
    with pytest.raises(UnsupportedModelError, match=rf"cannot be copied \(its copy shares .*{named}.* with it\)"):
        Engine.from_module(whole, X, "regression", runtime="eager")
    for part in whole.modules():
        assert part.training
        assert not part._forward_hooks
        assert not part._forward_pre_hooks
    assert all(parameter.requires_grad for parameter in whole.parameters())


def test_parts_that_a_network_makes_when_it_first_runs_are_its_own():
    def forward(self, x):
        if not hasattr(self, "late"):
            self.late = nn.Dropout(P)
            self.late.train(self.training)
        return self.o(self.late(x))

    engine = Engine.from_module(Custom(forward, o=nn.Linear(8, 3)), X, "regression", runtime="eager")
    assert [site.p for site in engine.sites] == [P]


def test_a_network_that_has_no_values_yet_is_refused():
    module = nn.Sequential(nn.LazyLinear(4), nn.Dropout(P), nn.Linear(4, 3))
    with pytest.raises(UnsupportedModelError, match=r"0\.weight has no values yet\); a network that has run once"):
        Engine.from_module(module, X, "regression", runtime="eager")


class OfNumPy:
    """The older generator, with the newer one's method."""

    def __init__(self):
        self.state = np.random.RandomState(0)

    def random(self):
        return self.state.random_sample()


@pytest.mark.parametrize("rng", [np.random.default_rng(0), random.Random(0), OfNumPy()])
def test_generators_of_the_networks_own_show_however_seldom_it_heeds_them(rng):
    module = Custom(
        lambda self, x: self.rest(x) + (1 if self.training and self.rng.random() < 1e-9 else 0),
        rest=function_over_layers(),
        rng=rng,
    )
    with pytest.raises(UnsupportedModelError, match=r"a generator of its own in \(network\)"):
        Engine.from_module(module, X, "regression", runtime="eager")


def test_generators_of_the_networks_own_are_seeded_apart_in_each_copy():
    module = Custom(
        lambda self, x: self.rest(x) * (1 + self.rng.random() if self.training else 1),
        rest=function_over_layers(),
        rng=np.random.default_rng(0),
    )
    with pytest.raises(UnsupportedModelError, match="a generator of its own in"):
        Engine.from_module(module, X, "regression", runtime="eager")
