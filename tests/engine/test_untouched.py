"""The user's own objects are as they were, whether their network is served, is refused, or fails."""

import collections
import copy
import functools
import random
import types

import numpy as np
import pytest
import torch
from torch import nn

from mcdropout.engine import Engine, EngineError
from tests.engine import notes
from tests.engine.networks import Custom, centred, conv_net, drop_connect, drop_path, many_sites, mlp
from tests.engine.traps import test_closures as closures

X = torch.linspace(-1, 1, 12).reshape(3, 4)
WIDE = torch.linspace(-1, 1, 24).reshape(3, 8)


def picture(*roots):
    """What is reached from some objects: of each the kind, the identity and the value, and in what order it holds
    which others."""
    seen, kept, waiting = {}, [], [(f"root {index}", root) for index, root in enumerate(roots)]
    while waiting:
        path, x = waiting.pop()
        if id(x) in seen or isinstance(x, types.ModuleType | types.CodeType | types.BuiltinFunctionType):
            continue
        kept.append(x)
        seen[id(x)] = (path, type(x), value_of(x), [(name, id(held)) for name, held in held_by(x)])
        waiting += [(f"{path}.{name}", held) for name, held in held_by(x) if not isinstance(held, int | str | float)]
    return seen, kept


def value_of(x):
    if isinstance(x, torch.Tensor) and x.is_meta:
        return x._version, x.shape, x.requires_grad
    if isinstance(x, torch.Tensor):
        return x._version, x.data_ptr(), x.requires_grad, id(x.grad), x.detach().numpy().tobytes(), id(x.grad_fn)
    if isinstance(x, np.ndarray):
        return x.tobytes()
    if isinstance(x, np.random.Generator):
        return str(x.bit_generator.state)
    if isinstance(x, torch.Generator):
        return x.get_state().numpy().tobytes()
    return x if isinstance(x, int | float | str | bytes | bool | type(None)) else None


def held_by(x):
    """What an object holds, and its class, if that is the user's."""
    if isinstance(x, dict):
        yield from ((str(key), value) for key, value in dict.items(x))
    elif isinstance(x, list | tuple | collections.deque):
        yield from ((str(index), value) for index, value in enumerate(x))
    elif isinstance(x, set | frozenset):
        yield from (("element", value) for value in sorted(x, key=str))
    elif isinstance(x, types.FunctionType):
        yield from (("cell", cell) for cell in x.__closure__ or ())
        yield from (("defaults", value) for value in (x.__defaults__, x.__kwdefaults__))
        yield "globals", {name: x.__globals__[name] for name in x.__code__.co_names if name in x.__globals__}
        yield "file", {name: value for name, value in vars(notes).items() if not name.startswith("__")}
    elif isinstance(x, types.CellType):
        yield "contents", x.cell_contents
    elif isinstance(x, types.MethodType):
        yield from (("function", x.__func__), ("self", x.__self__))
    elif isinstance(x, functools.partial):
        yield from (("function", x.func), ("arguments", x.args), ("keywords", x.keywords))
    elif isinstance(x, type) and x.__module__.startswith("tests."):
        yield from ((name, value) for name, value in vars(x).items() if name not in ("__dict__", "__weakref__"))
    if not isinstance(x, type | types.FunctionType) and type(x).__module__.startswith(("tests.", "torch.nn")):
        yield from getattr(x, "__dict__", {}).items()
        yield from ((name, getattr(x, name)) for name in getattr(type(x), "__slots__", ()) if hasattr(x, name))
    if isinstance(x, nn.Module):
        yield from ((kind.__name__, kind) for kind in type(x).__mro__)


def picture_of(*roots):
    """The picture, without the identities of what `held_by` makes itself."""
    seen, kept = picture(*roots)
    told = {}
    for number, (path, kind, value, held) in seen.items():
        if path.endswith((".globals", ".file")):
            told[path] = [name for name, _ in held]
        else:
            told[number] = (path, kind, value, [pair for pair in held if pair[0] not in ("globals", "file")])
    return told, kept


def process():
    """What PyTorch, NumPy and Python hold for the whole process."""
    return (
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.get_rng_state().numpy().tobytes(),
        str(np.random.get_state()),
        random.getstate(),
        dict(nn.modules.module._global_forward_hooks),
        dict(nn.modules.module._global_forward_pre_hooks),
    )


def differences(before, after):
    """What was told of objects before and after, where it differs."""
    return [
        (before.get(number), after.get(number))
        for number in before.keys() | after.keys()
        if before.get(number) != after.get(number)
    ]


def outcome(module, x, **options):
    """What came of an attempt to make an engine, after which the user's objects are found as they were."""
    given = x if isinstance(x, tuple | dict) else (x,)
    before, kept = picture_of(module, given)
    whole = process()
    try:
        Engine.from_module(module, x, options.pop("task", "regression"), **options)
        found = "served"
    except EngineError:
        found = "refused"
    except BaseException:
        found = "crashed"
    assert process() == whole
    after, _ = picture_of(module, given)
    assert differences(before, after) == []
    del kept
    return found


class CountsInItsClass(nn.Module):
    calls: list = []  # noqa: RUF012
    last = {"shape": None}  # noqa: RUF012
    total = 0
    seen = torch.zeros(1)
    drawn = np.zeros(2)

    def __init__(self):
        super().__init__()
        self.rest = mlp()

    def forward(self, x):
        type(self).total += 1
        self.calls.append(x.shape)
        self.last["shape"] = x.shape
        with torch.no_grad():
            self.seen.add_(0 * x.detach().sum() + 1) if type(x) is torch.Tensor else None
        self.drawn[0] += 1
        type(self).added = "an attribute that was not there"
        return self.rest(x)


COUNT = 0
LOG: list = []
FEATURES: dict = {}
HISTORY = collections.deque(maxlen=3)


class Meter:
    def __init__(self):
        self.values, self.last = [], None

    def update(self, value):
        self.values.append(value)
        self.last = value


METER = Meter()


def _note(value):
    LOG.append(value)


def counts_in_globals():
    def forward(self, x):
        global COUNT
        COUNT += 1
        _note(x)
        FEATURES["x"] = x
        HISTORY.append(x)
        METER.update(x)
        return self.rest(x)

    return Custom(forward, rest=mlp())


def counts_in_another_file():
    def forward(self, x):
        global NEW
        NEW = x
        notes.note(x)
        notes.LATEST["x"] = x
        return self.rest(x)

    return Custom(forward, rest=mlp())


def hook_into_a_global():
    module = mlp()
    module[0].register_forward_hook(lambda part, inputs, output: FEATURES.update(hidden=output))
    return module


def hook_into_a_closure():
    module, features, counted = mlp(), {}, [0]
    names = set()

    def hook(part, inputs, output):
        nonlocal module
        features["hidden"] = output
        counted[0] += 1
        names.add(str(output.shape))
        module.kept = output

    module[0].register_forward_hook(hook)
    return module


def hook_by_a_method():
    module = Custom(lambda self, x: self.rest(x), rest=mlp(), features={})

    def hook(self, part, inputs, output):
        self.features["hidden"] = output
        self.saved = output

    module.rest[1].register_forward_hook(types.MethodType(hook, module))
    module.rest[1].register_forward_pre_hook(lambda part, inputs: setattr(part, "given", inputs))
    return module


def keeps_attributes():
    def forward(self, x):
        self.hidden = self.rest[0](x)
        self.history.append(self.hidden)
        return self.rest(x)

    return Custom(forward, rest=mlp(), hidden=None, history=[])


def keeps_in_a_closure_that_holds_a_lock():
    notes, lines = [], (line for line in ())

    def note(x):
        notes.append(x)
        return lines

    module = Custom(lambda self, x: (self.note(x), self.rest(x))[1], rest=mlp())
    module.note = note
    return module


class HeldByLines:
    """What cannot be copied, and is written to."""

    def __init__(self):
        self.lines, self.notes = (line for line in ()), []


def writes_to_what_cannot_be_copied():
    holder = HeldByLines()
    module = Custom(lambda self, x: (self.note(x), self.rest(x))[1], rest=mlp())
    module.note = lambda x: holder.notes.append(x)
    return module


def draws_from_numpy_and_python_and_changes_what_all_share():
    def forward(self, x):
        np.random.rand()
        random.random()
        self.generator.random()
        torch.set_default_dtype(torch.float64)
        torch.set_default_dtype(torch.float32)
        return self.rest(x)

    return Custom(forward, rest=mlp(), generator=np.random.default_rng(1))


def leaves_another_default():
    def forward(self, x):
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        return self.rest(x)

    return Custom(forward, rest=mlp())


def trained(module=None):
    module = module or conv_net()
    module.train()(torch.rand(4, 1, 6, 6)).sum().backward()
    return module


def frozen_in_part():
    module = many_sites()
    module[0].weight.requires_grad_(False)
    module[3].eval()
    return module


def spectral():
    module = nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 8)), nn.Dropout(0.5), nn.Linear(8, 3))
    module.train()(X).sum().backward()
    return module


def counts_its_copies():
    class Copied(Custom):
        def __deepcopy__(self, memo):
            self.copies += 1
            other = Custom(self._run, rest=copy.deepcopy(self.rest, memo))
            return other

    return Copied(lambda self, x: self.rest(x), rest=mlp(), copies=0)


@functools.lru_cache
def _mask(size):
    return torch.ones(size)


def fills_a_cache():
    return Custom(lambda self, x: self.rest(x * _mask(4)), rest=mlp())


def recurrent():
    lstm = nn.LSTM(4, 6, 2, dropout=0.25, batch_first=True)
    return Custom(lambda self, x: self.last(self.lstm(x)[0][:, -1]), lstm=lstm, last=nn.Linear(6, 3))


def transformer():
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.25, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(40, 3))


SERVED = {
    "mlp": (mlp, X),
    "many sites": (many_sites, torch.rand(3, 6)),
    "conv net": (conv_net, torch.rand(3, 1, 6, 6)),
    "conv net after a training step": (trained, torch.rand(3, 1, 6, 6)),
    "drop connect": (drop_connect, X),
    "drop path": (lambda: nn.Sequential(nn.Linear(4, 4), drop_path(0.25), nn.Linear(4, 3)), X),
    "spectral norm": (spectral, X),
    "partly frozen": (frozen_in_part, torch.rand(3, 6)),
    "a count in its class": (CountsInItsClass, X),
    "counts in globals": (counts_in_globals, X),
    "counts in another file": (counts_in_another_file, X),
    "a hook into a global": (hook_into_a_global, X),
    "a hook into a closure": (hook_into_a_closure, X),
    "a hook by a method": (hook_by_a_method, X),
    "notes in a closure": (keeps_in_a_closure_that_holds_a_lock, X),
    "notes in what cannot be copied": (writes_to_what_cannot_be_copied, X),
    "numbers of NumPy and Python": (draws_from_numpy_and_python_and_changes_what_all_share, X),
    "another default dtype": (leaves_another_default, X),
    "attributes": (keeps_attributes, X),
    "copies that are counted": (counts_its_copies, X),
    "a cache": (fills_a_cache, X),
    "an lstm": (recurrent, torch.rand(3, 5, 4)),
    "a transformer": (transformer, torch.rand(3, 5, 8)),
    **{f"functions: {build.__name__}": (build, closures.X) for build in closures.HELD},
}
# These are converted to ONNX too. The others are exported and split, after which no code of the user's runs: ONNX is
# made of the split program.
CONVERTED = {"mlp", "conv net after a training step", "drop connect", "counts in globals", "a hook into a closure"}


def counts_in_a_buffer():
    def forward(self, x):
        self.count += 1
        return self.rest(x)

    module = Custom(forward, rest=mlp())
    module.register_buffer("count", torch.zeros(()))
    return module


def grows_its_state():
    def forward(self, x):
        self.seen = x.mean() if self.seen is None else self.seen + x.mean()
        return self.rest(x) + self.seen

    return Custom(forward, rest=mlp(), seen=None)


REFUSED = {
    "nothing to drop": (lambda: nn.Linear(4, 3), X),
    "rows that mix": (lambda: centred(mlp()), X),
    "a buffer that counts": (counts_in_a_buffer, X),
    "a state that grows": (grows_its_state, X),
    "no copy": (lambda: Custom(lambda self, x: self.rest(x), rest=mlp(), lines=(line for line in ())), X),
    "a copy that is itself": (closures.SharesItself, WIDE),
    "a copy that shares a part": (closures.SharesAPart, WIDE),
    "a wrong example": (mlp, torch.rand(3, 7)),
    "no tensor": (lambda: Custom(lambda self, x: None, rest=mlp()), X),
    **{f"outside: {name}": (build, WIDE) for name, (build, _) in closures.OUTSIDE.items()},
}


def _ends(when, error):
    calls = [0]

    def forward(self, x):
        self.count += 1
        LOG.append(x)
        calls[0] += 1
        self.saved = x
        if when(self, calls[0], x):
            raise error
        return self.rest(x)

    module = Custom(forward, rest=mlp())
    module.register_buffer("count", torch.zeros(()))
    return module


MOMENTS = {
    "the first pass": lambda self, calls, x: True,
    "the second pass": lambda self, calls, x: calls == 2,
    "train mode": lambda self, calls, x: self.training,
    "three rows": lambda self, calls, x: len(x) == 3,
    "the export": lambda self, calls, x: type(x) is not torch.Tensor,
}


@pytest.mark.wide
@pytest.mark.parametrize("kind", SERVED)
def test_what_is_served_is_left_as_it_was(kind):
    torch.manual_seed(0)
    build, x = SERVED[kind]
    module = build()
    assert outcome(module, x, runtime="auto" if kind in CONVERTED else "torch") == "served"
    if kind != "spectral norm":  # which a training step left in its graph
        copy.deepcopy(module)


def test_a_cache_keeps_nothing_that_it_was_given_meanwhile():
    _mask.cache_clear()
    assert outcome(fills_a_cache(), X, runtime="torch") == "served"
    assert _mask.cache_info().currsize == 0


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["conv net", "a count in its class", "a hook into a closure", "drop path"])
def test_what_is_served_by_the_network_itself_is_left_as_it_was(kind, training):
    torch.manual_seed(0)
    build, x = SERVED[kind]
    assert outcome(build().train(training), x, runtime="eager") == "served"


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_is_left_as_it_was(kind):
    torch.manual_seed(0)
    build, x = REFUSED[kind]
    assert outcome(build(), x) == "refused"


@pytest.mark.wide
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("error", [ValueError("a mistake"), KeyboardInterrupt(), SystemExit(3)])
def test_what_fails_is_left_as_it_was(moment, error):
    torch.manual_seed(0)
    module = _ends(MOMENTS[moment], error)
    assert outcome(module, X) in ("refused", "crashed")
    assert "saved" not in vars(module)
    copy.deepcopy(module)


@pytest.mark.parametrize("given", ["tensor", "gradients", "array", "by name", "no copy of its memory"])
def test_the_example_inputs_are_left_as_they_were(given):
    def forward(self, x):
        x.mul_(2.0)
        return self.rest(x)

    x = {
        "tensor": X.clone(),
        "gradients": X.clone().requires_grad_(),
        "array": X.clone().numpy(),
        "by name": {"x": X.clone()},
        "no copy of its memory": torch.from_numpy(X.clone().numpy()),
    }[given]
    module = Custom(forward, rest=mlp())
    if given == "by name":
        module.forward = lambda x: module.rest(x.mul_(2.0))
    assert outcome(module, x, runtime="torch") == "served"
