"""Interpretation: methods of TorchScript as Python functions that run their graphs step by step.

Branches and loops are taken as they come, so that what depends on `self.training` still does. Operators that draw are
called as the functions that `RandomCalls` sees.
"""

import inspect
import re
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.pytorch.saved.operators import COUNTED, DROPPING, NOISE, STATISTICS, drop, plain_name
from mcdropout.engine.pytorch.saved.primitives import OPERATORS, READS, VALUES, on_numbers, to_dtype

Frame = dict[str, Any]
Step = Callable[[Frame], None]
_NO_SCHEMA = "(no schema)"
_SELF = ""  # no value of a graph has this name
_ATTENTION = "__torch__.torch.nn.functional.multi_head_attention_forward"
_PACKED = "__torch__.torch.nn.utils.rnn.PackedSequence"
_GRADIENT_MODE = re.compile(r".*\.grad_mode\.(no_grad|enable_grad|inference_mode)")
_NOT_FOR_RAW = ("layout", "pin_memory", "memory_format", "generator")
_TYPES: dict[str, type] = {"Tensor": Tensor, "int": int, "float": float, "bool": bool, "str": str}
RAW: dict[str, Callable[..., Any]] = {
    **{name: getattr(torch, name) for name in ("rand", "randn", "rand_like", "randn_like", "bernoulli", "normal")},
    **{name: getattr(torch, name) for name in ("randint", "randint_like", "randperm", "multinomial")},
    **{name: getattr(Tensor, name) for name in ("bernoulli_", "uniform_", "normal_")},
    **{name: getattr(Tensor, name) for name in ("exponential_", "geometric_", "cauchy_", "log_normal_", "random_")},
}
"""What draws numbers for a network's own code, by name."""


def operator_of(node: Any) -> str:
    """The name of what a node does: `aten::size.int`, or `prim::If`."""
    schema: str = node.schema()
    name: str = node.kind() if schema == _NO_SCHEMA else schema.partition("(")[0]
    return name


def calls_module(method: str) -> bool:
    """Whether a method is what calling its module means: `forward`; `forward1` where a trace met the module a second
    time; `forward__0` where it takes inputs of several types."""
    return re.fullmatch(r"forward(?:__)?\d*", method) is not None


@dataclass(frozen=True)
class Method:
    """What a method or a function does.

    Attributes:
        names: its parameters.
        defaults: the values of those that may be left out.
        run: takes the module that runs it, and its arguments.
        constants: tensors that the module has to hold for it.
    """

    names: tuple[str, ...]
    defaults: Mapping[str, Any]
    run: Callable[..., Any]
    constants: Mapping[str, Tensor]


@dataclass
class _Reading:
    """A graph while its steps are put together."""

    path: str
    function: bool
    constants: dict[str, Tensor] = field(default_factory=dict)
    depth: int = 0


class Interpreter:
    """Makes functions of methods."""

    def __init__(self, unit: Any) -> None:
        """
        Args:
            unit: PyTorch's `CompilationUnit`, which knows the functions that methods call.
        """
        self._unit = unit
        self._methods: dict[str, Method] = {}
        self._constants = 0

    def method(self, key: str, origin: Any, path: str, function: bool = False) -> Method:
        """A method or a function, whose run calls `call(method, arguments)` of the modules that it calls.

        Args:
            key: its name, with that of its class.
            origin: PyTorch's `ScriptMethod` or `ScriptFunction`.
            path: of a module that has it.
            function: whether it is no method.

        Raises:
            UnsupportedModelError: it certainly does what is not followed here. What it may do is refused when it does.
        """
        if key not in self._methods:
            schema = origin.schema.arguments
            reading = _Reading(path, function or not calls_module(key.rpartition(".")[2]))
            graph = origin.graph
            run = self._block(graph, reading)
            names = tuple(argument.name for argument in schema)
            self._methods[key] = Method(
                names=names if function else names[1:],
                defaults={argument.name: argument.default_value for argument in schema if argument.has_default_value()},
                run=_running([value.debugName() for value in graph.inputs()], run, function),
                constants=reading.constants,
            )
        return self._methods[key]

    def _block(self, block: Any, reading: _Reading) -> Callable[[Frame], list[Any]]:
        """The steps of a block, in order; what it returns."""
        steps = [self._step(node, reading) for node in block.nodes() if node.kind() != "prim::Param"]
        outputs = [value.debugName() for value in block.outputs()]

        def run(frame: Frame) -> list[Any]:
            for step in steps:
                step(frame)
            return [frame[name] for name in outputs]

        return run

    def _step(self, node: Any, reading: _Reading) -> Step:
        kind = node.kind()
        if kind == "prim::Constant":
            return self._constant(node, reading)
        if kind in ("prim::If", "prim::Loop"):
            reading.depth += 1
            blocks = [self._block(block, reading) for block in node.blocks()]
            reading.depth -= 1
            if kind == "prim::If":
                return _branch(node, blocks)
            return _loop(node, blocks[0], [value.debugName() for value in next(iter(node.blocks())).inputs()])
        if kind == "prim::CallFunction":
            return self._function(node, reading)
        return _assigning(node, _operation(node, reading), unpacks=kind in ("prim::ListUnpack", "prim::TupleUnpack"))

    def _constant(self, node: Any, reading: _Reading) -> Step:
        name, value = node.output().debugName(), node.output().toIValue()
        if isinstance(value, torch.device):
            return _device(name, value)
        if not isinstance(value, Tensor):
            return lambda frame: frame.__setitem__(name, value)
        key = f"torchscript_constant_{self._constants}"
        self._constants += 1
        reading.constants[key] = value
        return lambda frame: frame.__setitem__(name, getattr(frame[_SELF], key))

    def _function(self, node: Any, reading: _Reading) -> Step:
        callee, *_ = node.inputs()
        key = callee.type().annotation_str
        origin = self._unit.find_function(key)
        own = [argument.name for argument in origin.schema.arguments]
        if key == _ATTENTION and set(own) <= set(inspect.signature(F.multi_head_attention_forward).parameters):
            # `RandomCalls` knows the dropout within for what it is: of attention.
            return _assigning(
                node, lambda *values: F.multi_head_attention_forward(**dict(zip(own, values[2:], strict=True)))
            )
        function = self.method(key, origin, reading.path, function=True)
        reading.constants.update(function.constants)
        return _assigning(node, lambda module, _callee, *values: function.run(module, *values))


def _running(names: list[str], run: Callable[[Frame], list[Any]], function: bool) -> Callable[..., Any]:
    def call(module: nn.Module, *values: Any) -> Any:
        frame: Frame = dict(zip(names, values if function else (module, *values), strict=True))
        frame[_SELF] = module
        (returned,) = run(frame)
        return returned

    return call


def _assigning(node: Any, operation: Callable[..., Any], unpacks: bool = False) -> Step:
    """The step that calls `operation(module, *inputs)`, and keeps what it returns."""
    inputs = [value.debugName() for value in node.inputs()]
    outputs = [value.debugName() for value in node.outputs()]
    if len(outputs) == 1 and not unpacks:
        (only,) = outputs

        def step(frame: Frame) -> None:
            frame[only] = operation(frame[_SELF], *[frame[name] for name in inputs])

        return step

    def step_of_several(frame: Frame) -> None:
        returned = operation(frame[_SELF], *[frame[name] for name in inputs])
        if outputs:
            frame.update(zip(outputs, returned, strict=True))

    return step_of_several


def _branch(node: Any, blocks: Sequence[Callable[[Frame], list[Any]]]) -> Step:
    condition = node.input().debugName()
    outputs = [value.debugName() for value in node.outputs()]
    then, otherwise = blocks

    def step(frame: Frame) -> None:
        taken = then if frame[condition] else otherwise
        frame.update(zip(outputs, taken(frame), strict=True))

    return step


def _loop(node: Any, body: Callable[[Frame], list[Any]], inside: Sequence[str]) -> Step:
    most, start, *carried = [value.debugName() for value in node.inputs()]
    outputs = [value.debugName() for value in node.outputs()]

    def step(frame: Frame) -> None:
        values, going, turn = [frame[name] for name in carried], frame[start], 0
        while going and turn < frame[most]:
            frame.update(zip(inside, (turn, *values), strict=True))
            going, *values = body(frame)
            turn += 1
        frame.update(zip(outputs, values, strict=True))

    return step


def _device(name: str, device: torch.device) -> Step:
    """A device is where the network lies, not where it was saved."""

    def step(frame: Frame) -> None:
        near = [x for x in frame.values() if isinstance(x, Tensor)] or list(frame[_SELF].parameters())
        frame[name] = near[0].device if near else device

    return step


def _operation(node: Any, reading: _Reading) -> Callable[..., Any]:
    """What a node does, as a function of the module that runs it and of its inputs."""
    kind, operator = node.kind(), operator_of(node)
    if kind == "prim::GetAttr":
        attribute = node.s("name")
        return lambda _module, owner: getattr(owner, attribute)
    if kind == "prim::SetAttr":
        attribute = node.s("name")
        return lambda _module, owner, value: setattr(owner, attribute, value)
    if kind == "prim::CallMethod":
        method = node.s("name")
        return lambda _module, owner, *values: owner.call(method, values)
    if kind == "prim::TupleConstruct":
        return _tuple(node.output().type())
    if kind == "prim::isinstance" and (types := _types(node)):
        return lambda _module, value: isinstance(value, types)
    if kind == "prim::CreateObject" and _GRADIENT_MODE.fullmatch(node.output().type().annotation_str):
        return lambda _module: _GradientMode()
    if operator in READS:
        known_number = _numbers(node).get(0)
        return lambda _module, value: READS[operator](value if known_number is None else known_number)
    if operator in OPERATORS:
        return lambda _module, *values: OPERATORS[operator](*values)
    if node.schema() != _NO_SCHEMA and (operation := _with_schema(node, operator)):
        return operation
    message = (
        f"{reading.path or '(network)'} uses {operator}, which is not followed here; a network of operators on "
        "tensors, numbers, texts, lists, tuples and dicts is accepted"
    )
    if not reading.function and reading.depth == 0:
        raise UnsupportedModelError(message)

    def refuse(*_: Any) -> Any:  # only where it is come by: much code is for cases that never are
        raise UnsupportedModelError(message)

    return refuse


class _GradientMode:
    """`with torch.no_grad():`, which changes nothing here."""

    def call(self, _method: str, _arguments: Sequence[Any]) -> None:
        return None


def _types(node: Any) -> tuple[type, ...]:
    """What `isinstance` asks for; nothing where that is not known."""
    named = re.search(r"\[types=\[([\w, ]+)\]\]", str(node))
    names = named[1].split(", ") if named else []
    return tuple(_TYPES[name] for name in names) if set(names) <= set(_TYPES) else ()


def _tuple(kind: Any) -> Callable[..., Any]:
    if kind.annotation_str == _PACKED:
        return lambda _module, *values: PackedSequence(*values)
    named = re.fullmatch(r"NamedTuple\((.*)\)", kind.str())
    if not named:
        return lambda _module, *values: values
    names = re.findall(r"(?:^|, )(\w+) : ", named[1])
    # PyTorch forgets the name.
    make: Any = namedtuple("Outputs", names)  # type: ignore[misc]
    return lambda _module, *values: make(*values) if len(values) == len(names) else values


def _with_schema(node: Any, operator: str) -> Callable[..., Any] | None:
    """An operator that has a schema; None for one that nobody here knows."""
    schema = torch._C.parse_schema(node.schema())
    family = plain_name(operator).partition(".")[0]
    call = _Call(
        tuple(argument.name if argument.kwarg_only else None for argument in schema.arguments),
        frozenset(i for i, argument in enumerate(schema.arguments) if "ScalarType" in str(argument.real_type)),
    )
    if operation := _with_train_mode(node, plain_name(operator), call):
        return operation
    if family in RAW:
        return lambda _module, *values: call(RAW[family], values, _NOT_FOR_RAW)
    tensors = [i for i, argument in enumerate(schema.arguments) if str(argument.type) in ("Tensor", "Optional[Tensor]")]
    if not tensors and family in VALUES:
        return lambda _module, *values: VALUES[family](*values)
    overload, numbers = _overload(operator), _numbers(node)
    if overload is None:
        return None

    def operate(_module: nn.Module, *values: Any) -> Any:
        if any(isinstance(values[i], int | float | torch.SymInt | torch.SymFloat) for i in tensors):
            known = [numbers.get(i, value) for i, value in enumerate(values)]
            return on_numbers(family, lambda given: call(overload, given), values, known, tensors)
        return call(overload, values)

    return operate


def _with_train_mode(node: Any, name: str, call: "_Call") -> Callable[..., Any] | None:
    """An operator that does something else in train mode; None for any other.

    Where the file says which it is to do, as traces do, that is what the network did when it was traced.
    """
    family, inputs = name.partition(".")[0], [value.node() for value in node.inputs()]

    def is_fixed(position: int) -> bool:
        return bool(inputs[position].kind() == "prim::Constant")

    if name in DROPPING:
        if is_fixed(DROPPING[name].switch):
            return lambda module, *values: call(partial(drop, name, module.training), values)
        return lambda _module, *values: call(DROPPING[name].function, values)
    if family in STATISTICS:
        mean, switch = STATISTICS[family]
        return _normalization(family, mean, switch, is_fixed(switch))
    if family in NOISE and is_fixed(NOISE[family]):
        switch, overload = NOISE[family], _overload(f"aten::{name}")
        return lambda _module, *values: call(overload, (*values[:switch], False, *values[switch + 1 :]))
    if family == "add_" and inputs[0].kind() == "prim::GetAttr" and inputs[0].s("name") in COUNTED:
        return lambda _module, count, *_: count
    return None


def _numbers(node: Any) -> dict[int, int | float]:
    """The inputs of a node that are constants of one number each, which traced networks hold as tensors."""
    constants = {
        i: value.toIValue() for i, value in enumerate(node.inputs()) if value.node().kind() == "prim::Constant"
    }
    return {i: value.item() for i, value in constants.items() if isinstance(value, Tensor) and value.dim() == 0}


@dataclass(frozen=True)
class _Call:
    """How an operator of PyTorch's is called from Python.

    Attributes:
        names: for each argument, its name where it cannot be given by position.
        dtypes: the positions of arguments that are dtypes, which TorchScript counts.
    """

    names: tuple[str | None, ...]
    dtypes: frozenset[int]

    def __call__(self, function: Callable[..., Any], values: Sequence[Any], without: Sequence[str] = ()) -> Any:
        placed = [to_dtype(value) if i in self.dtypes else value for i, value in enumerate(values)]
        pairs = list(zip(self.names, placed, strict=False))
        by_name = {name: value for name, value in pairs if name and value is not None and name not in without}
        return function(*(value for name, value in pairs if name is None), **by_name)


def _normalization(family: str, mean: int, switch: int, fixed: bool) -> Callable[..., Any]:
    """Batch norm by the function that `RandomCalls` knows; a traced one that knows its statistics uses them."""
    function: Any = F.batch_norm if family == "batch_norm" else F.instance_norm

    def normalize(_module: nn.Module, x: Tensor, weight: Any, bias: Any, *values: Any) -> Any:
        running_mean, running_var, switched, momentum, epsilon, _ = values
        if fixed and running_mean is not None:
            switched = False
        return function(x, running_mean, running_var, weight, bias, switched, momentum, epsilon)

    return normalize


def _overload(operator: str) -> Any:
    """The function of `torch.ops` that an operator is; None where there is none."""
    space, _, rest = operator.partition("::")
    name, _, overload = rest.partition(".")
    try:
        return getattr(getattr(getattr(torch.ops, space), name), overload or "default")
    except (AttributeError, RuntimeError):
        return None
