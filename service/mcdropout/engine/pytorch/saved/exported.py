"""Exported networks: what `torch.export` has made of one, with its train mode given back.

An exported graph is flat, and has forgotten `self.training`. It still holds every dropout operator, in eval mode too,
and for each operator the path of the module that called it. Here each is called by a module at that path again.
"""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass
from torch.utils._pytree import TreeSpec, tree_unflatten
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.value_ranges import ValueRanges

from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.pytorch.saved.operators import COUNTED, DROPPING, NOISE, STATISTICS, drop, plain_name

_aten = torch.ops.aten
_AS_IT_WAS = (
    "what eval mode does instead is not in the file; network.eval() exported keeps its dropout, and is accepted"
)
# Batch norm as decompositions write it, with the position of the switch at which a new running mean may be returned.
_DECOMPOSED_NORMS = ("_native_batch_norm_legit_functional", "_native_batch_norm_legit", "native_batch_norm")
_RECURRENT = ("LSTM", "GRU", "RNN")
_GUARDS = "_guards_fn"


@dataclass(frozen=True)
class _Input:
    """A tensor that an exported network takes; None stands for a size that is open."""

    name: str
    shape: tuple[int | None, ...]
    dtype: torch.dtype

    def check(self, x: Tensor) -> None:
        """Sizes and dtypes are fixed in the graph, which might go on with others."""
        fits = x.dim() == len(self.shape) and all(b is None or a == b for a, b in zip(x.shape, self.shape, strict=True))
        if x.dtype != self.dtype or not fits:
            sizes = ", ".join("any" if size is None else str(size) for size in self.shape)
            raise ValueError(
                f"the input {self.name!r} is {x.dtype} of shape {list(x.shape)}; {self.dtype} of shape [{sizes}], with "
                "which the network was exported, is accepted"
            )


@dataclass(frozen=True)
class _Guards:
    """What an exporter took for granted of the sizes: the graph follows one way of each branch on them.

    Attributes:
        check: raises AssertionError where something is not so.
        taken: what it takes: inputs, by position, and whatever else the network was exported with.
    """

    check: Callable[..., None]
    taken: tuple[tuple[int | None, Any], ...]

    def __call__(self, inputs: Sequence[Tensor]) -> None:
        """Raise where the graph is not the network that it was exported from."""
        try:
            self.check(*(value if index is None else inputs[index] for index, value in self.taken))
        except AssertionError as error:
            told = str(error).removeprefix("Guard failed: ")
            raise ValueError(
                f"the network was exported for other sizes: not so that {told}; inputs of which that is true are "
                "accepted"
            ) from None


class _Caller(nn.Module):
    """A module of the network as it was, as far as it drops."""

    def forward(self, name: str, *arguments: Any, **named: Any) -> Any:
        return drop(name, self.training, *arguments, **named)


class _Exported(nn.Module):
    """An exported network that has a train mode."""

    def __init__(
        self,
        parts: nn.Module,
        graph: fx.Graph,
        inputs: Sequence[_Input],
        outputs: TreeSpec,
        guards: _Guards | None,
    ) -> None:
        super().__init__()
        self._parameters.update(parts._parameters)
        self._buffers.update(parts._buffers)
        self._modules.update(parts._modules)
        for name, value in vars(parts).items():
            if isinstance(value, Tensor):  # constants, which move with the network
                self.register_buffer(name, value, persistent=False)
        self._inputs, self._outputs, self._guards = tuple(inputs), outputs, guards
        self._run: Callable[..., Any] = type(fx.GraphModule(self, graph)).forward

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        rest = [spec.name for spec in self._inputs[len(inputs) :]]
        if len(inputs) > len(self._inputs) or sorted(rest) != sorted(named):
            raise ValueError(
                f"it is called with {len(inputs)} inputs by position and {sorted(named)} by name; the network was "
                f"exported with {[spec.name for spec in self._inputs]}"
            )
        given = [*inputs, *(named[name] for name in rest)]
        for spec, x in zip(self._inputs, given, strict=True):
            spec.check(x)
        if self._guards is not None:
            self._guards(given)
        return tree_unflatten(self._run(self, *given), self._outputs)


def exported_network(program: ExportedProgram, bare: bool = False) -> nn.Module:
    """The exported network as a module in eval mode, with dropout that heeds train mode.

    Args:
        program: it.
        bare: whether it may have no dropout.

    Raises:
        UnsupportedModelError: its dropout is gone, it draws what has no eval mode, or its rows are fixed.
    """
    if any(value.device.type != "cpu" for value in [*program.state_dict.values(), *program.constants.values()]):
        program = move_to_device_pass(program, "cpu")
    assert program.call_spec.out_spec is not None
    return _network(_with_any_rows(program).module(), program.call_spec.out_spec, bare)


def exported_module(module: fx.GraphModule, bare: bool = False) -> nn.Module:
    """The same of what an exported program's `module()` returned, which is left as it is.

    Args:
        module: it.
        bare: whether it may have no dropout, as part of a network, say.
    """
    parts = copy.deepcopy(module)
    codegen: Any = parts.graph._codegen
    return _network(parts, codegen.pytree_info.out_spec, bare)


def _with_any_rows(program: ExportedProgram) -> ExportedProgram:
    """The program without bounds that its owner declared for the rows, as in `Dim("rows", max=64)`; it shares the rest.

    What the exporter itself found to be so of the rows stays among its guards.
    """
    values = [node.meta.get("val") for node in program.graph.find_nodes(op="placeholder")]
    first: list[Any] = [value.shape[0] for value in values if isinstance(value, Tensor) and value.dim()]
    rows = {size.node.expr for size in first if isinstance(size, torch.SymInt)}
    other = copy.copy(program)
    other._range_constraints = {
        symbol: ValueRanges(0, int_oo) if symbol in rows else found
        for symbol, found in program.range_constraints.items()
    }
    return other


def _network(parts: nn.Module, outputs: TreeSpec, bare: bool) -> nn.Module:
    check = _take_guards(parts)
    graph = _Rewriting(parts, bare).graph
    values = [node.meta.get("val") for node in graph.find_nodes(op="placeholder")]
    tensors = itertools.count()
    taken = tuple((next(tensors), None) if isinstance(value, Tensor) else (None, value) for value in values)
    inputs = _take_inputs(graph)
    graph.eliminate_dead_code()
    graph.set_codegen(fx.graph.CodeGen())
    return _Exported(parts, graph, inputs, outputs, check and _Guards(check, taken)).eval()


def _take_guards(parts: nn.Module) -> Callable[..., None] | None:
    """What checks the sizes that a graph was exported for, which is no longer part of it then; None where nothing."""
    graph: fx.Graph = parts.graph  # type: ignore[assignment]
    for node in graph.find_nodes(op="call_module", target=_GUARDS):
        graph.erase_node(node)
    guards = parts._modules.pop(_GUARDS, None)
    return None if guards is None else guards.forward


def _take_inputs(graph: fx.Graph) -> list[_Input]:
    """The tensors that the network takes; whatever else it was exported with stays as it was."""
    inputs: list[_Input] = []
    for node in graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            node.replace_all_uses_with(value)
            graph.erase_node(node)
            continue
        shape = tuple(None if isinstance(size, torch.SymInt) else size for size in value.shape)
        if None not in shape and shape[:1] != (1,):  # a network of one row can be run for each
            raise UnsupportedModelError(
                f"its input {node.target!r} has the fixed shape {list(shape)}, with no dimension for any number of "
                "rows; one that is exported with dynamic_shapes, as in torch.export.export(network, (x,), "
                "dynamic_shapes=({0: torch.export.Dim('rows')},)), is accepted"
            )
        inputs.append(_Input(str(node.target), shape, value.dtype))
    return inputs


class _Rewriting:
    """The graph of an exported network while its train mode is given back.

    Attributes:
        graph: what became of it.
    """

    def __init__(self, parts: nn.Module, bare: bool) -> None:
        """`bare`: whether it may have no dropout."""
        self.graph: fx.Graph = parts.graph  # type: ignore[assignment]
        self._parts = parts
        self._bare = bare
        self._callers: set[str] = set()
        self._drops = False
        self._inline_gradient_modes()
        self._free_devices()
        for node in list(self.graph.nodes):
            if node.op == "call_function":
                self._rewrite(node)
        self.graph.eliminate_dead_code()
        self._refuse_what_is_left()

    def _rewrite(self, node: fx.Node) -> None:
        name = plain_name(str(node.target))
        family = name.partition(".")[0]
        if name in DROPPING:
            self._replace(node, name, *_arguments(node))
        elif family in STATISTICS:
            self._keep_statistics(node, *STATISTICS[family])
        elif family in _DECOMPOSED_NORMS:
            self._keep_statistics_decomposed(node)
        elif family in NOISE:
            arguments, named = _arguments(node)
            arguments[NOISE[family]] = False
            node.args, node.kwargs = tuple(arguments), named
        elif name in ("bernoulli.p", "bernoulli_.float"):
            self._scaled_bernoulli(node)
        elif family.endswith("_") or family == "copy":
            self._leave_counts(node)
        elif family == "_assert_tensor_metadata":  # of the device too; what it tells is checked of the inputs
            self.graph.erase_node(node)

    def _replace(self, node: fx.Node, name: str, arguments: Sequence[Any], named: dict[str, Any]) -> None:
        """Have an operator that drops called by the module that called it."""
        self._drops |= DROPPING[name].drops(arguments)
        path = _path(node)
        with self.graph.inserting_before(node):
            if path:
                self._callers.add(path)
                _put_caller(self._parts, path)
                call = self.graph.call_module(path, (name, *arguments), named)
            else:
                training = self.graph.get_attr("training")
                call = self.graph.call_function(drop, (name, training, *arguments), named)
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call)
        self.graph.erase_node(node)

    def _scaled_bernoulli(self, node: fx.Node) -> None:
        """Bernoulli numbers divided by their mean are dropout of ones: what eval mode does instead is known."""
        like, mean = node.args[:2]
        if not isinstance(mean, float):
            return
        scaled = list(node.users)
        for user in scaled:
            divides = plain_name(str(user.target)).partition(".")[0] in ("div", "div_")
            if not divides or user.args[:2] != (node, mean):
                return
        for user in scaled:
            with self.graph.inserting_before(user):
                ones = self.graph.call_function(_aten.ones_like.default, (like,))
            self._replace(user, "dropout", (ones, round(1.0 - mean, 12), True), {})
        self.graph.erase_node(node)

    def _keep_statistics(self, node: fx.Node, mean: int, switch: int) -> None:
        arguments, named = _arguments(node)
        if arguments[mean] is not None:
            arguments[switch] = False
        node.args, node.kwargs = tuple(arguments), named

    def _keep_statistics_decomposed(self, node: fx.Node) -> None:
        arguments, _ = _arguments(node)
        if len(arguments) < 8 or arguments[3] is None or not arguments[5]:
            return
        node.target = _aten._native_batch_norm_legit_no_training.default
        node.args, node.kwargs = (*arguments[:5], *arguments[6:8]), {}

    def _leave_counts(self, node: fx.Node) -> None:
        """Take out what moves the statistics of a normalization layer."""
        moved = node.args[0]
        if isinstance(moved, fx.Node) and moved.op == "get_attr" and str(moved.target).endswith(COUNTED):
            node.replace_all_uses_with(moved)
            self.graph.erase_node(node)

    def _inline_gradient_modes(self) -> None:
        """Take the operators of `with torch.no_grad():` out of graphs of their own; nothing here has gradients."""
        for node in list(self.graph.nodes):
            if node.op != "call_function" or str(node.target) != "wrap_with_set_grad_enabled":
                continue
            _, inner, *values = node.args
            held: Any = self._parts.get_submodule(inner.target)
            copies = dict(zip(held.graph.find_nodes(op="placeholder"), values, strict=True))
            with self.graph.inserting_before(node):
                returned: Any = self.graph.graph_copy(held.graph, copies)
            for user in list(node.users):
                user.replace_all_uses_with(returned[user.args[1]])
                self.graph.erase_node(user)
            self.graph.erase_node(node)

    def _free_devices(self) -> None:
        """New tensors lie where the network lies, not where it was exported."""
        fixed = [node for node in self.graph.nodes if isinstance(node.kwargs.get("device"), torch.device)]
        first = next(iter(self.graph.find_nodes(op="placeholder")), None)
        if not fixed or first is None:
            return
        with self.graph.inserting_before(next(node for node in self.graph.nodes if node.op == "call_function")):
            device = self.graph.call_function(getattr, (first, "device"))
        for node in fixed:
            node.update_kwarg("device", device)

    def _refuse_what_is_left(self) -> None:
        taken_apart = [*self._lost_layers(), *self._recurrent_layers_taken_apart()]
        if taken_apart:
            raise UnsupportedModelError(
                f"the dropout of {', '.join(taken_apart)} is gone, as run_decompositions() does with it; what "
                "torch.export.export returns, saved as it is, is accepted"
            )
        for node in self.graph.nodes:
            if inner := [x for graph in _inner_graphs(self._parts, node) for x in graph.nodes if _draws(x)]:
                raise UnsupportedModelError(
                    f"{_path(node) or '(network)'} draws ({inner[0].target}) inside {node.target}, which is not looked "
                    "into; a network whose dropout lies outside of such operators is accepted"
                )
            if _draws(node):
                raise UnsupportedModelError(
                    f"{_path(node) or '(network)'} draws numbers ({node.target}) whatever the mode, as it did in train "
                    f"mode when it was exported; {_AS_IT_WAS}"
                )
        if not self._drops and not self._bare:
            raise UnsupportedModelError(
                "it holds no dropout; a network with dropout that was exported with torch.export.export, and saved "
                "without run_decompositions(), is accepted (from train mode where its dropout is that of attention, or "
                "its own code's)"
            )

    def _lost_layers(self) -> list[str]:
        """Dropout layers that the graph knows to have been there, but which call nothing that drops."""
        layers = {
            path: node
            for node in self.graph.nodes
            for path, kind in _stack(node)[-1:]
            if kind.startswith("torch.nn.modules.dropout.") and node.op == "call_function"
        }
        return [path for path in layers if path not in self._callers]

    def _recurrent_layers_taken_apart(self) -> list[str]:
        layers = {
            path: None
            for node in self.graph.nodes
            for path, kind in _stack(node)[-1:]
            if kind.startswith("torch.nn.modules.rnn.") and kind.endswith(_RECURRENT)
        }
        parameters = {name for name, _ in self._parts.named_parameters()}
        return [path for path in layers if path not in self._callers and f"{path}.weight_hh_l1" in parameters]


def _stack(node: fx.Node) -> list[tuple[str, str]]:
    """The modules that ran when a node was exported, outermost first: the path and the class of each."""
    return [(path, str(kind)) for path, kind in (node.meta.get("nn_module_stack") or {}).values()]


def _path(node: fx.Node) -> str:
    return _stack(node)[-1][0] if _stack(node) else ""


def _arguments(node: fx.Node) -> tuple[list[Any], dict[str, Any]]:
    """A node's arguments, all that can be given by position so, and those that can not."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    by_position = [argument for argument in schema if not argument.kwarg_only]
    named = dict(node.kwargs)
    rest = [named.pop(argument.name, argument.default_value) for argument in by_position[len(node.args) :]]
    return [*node.args, *rest], named


def _put_caller(parts: nn.Module, path: str) -> None:
    """Have a module at `path` that can be called; what it holds stays in it."""
    around, _, name = path.rpartition(".")
    parent = parts
    for step in around.split(".") if around else ():
        if step not in parent._modules:
            parent.add_module(step, nn.Module())
        parent = parent.get_submodule(step)
    held = parent._modules.get(name)
    if isinstance(held, _Caller):
        return
    caller = _Caller()
    if held is not None:
        caller.__dict__.update(held.__dict__)
    parent.add_module(name, caller)


def _inner_graphs(parts: nn.Module, node: fx.Node) -> Iterator[fx.Graph]:
    """The graphs that a node holds, as `torch.cond` does, and those within."""
    for held in node.all_input_nodes:
        inner = getattr(parts, str(held.target), None) if held.op == "get_attr" else None
        if isinstance(inner, fx.GraphModule):
            yield inner.graph
            for each in inner.graph.nodes:
                yield from _inner_graphs(inner, each)


def _draws(node: fx.Node) -> bool:
    """Whether a node takes numbers from PyTorch's generators."""
    tags = getattr(node.target, "tags", ())
    if node.op != "call_function" or torch.Tag.nondeterministic_seeded not in tags:
        return False
    name = plain_name(str(node.target))
    if name in DROPPING:
        return DROPPING[name].drops(_arguments(node)[0])
    switch = NOISE.get(name.partition(".")[0])
    return switch is None or bool(_arguments(node)[0][switch])
