"""Findings in an exported network: what the flow of data around each site shows."""

import itertools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from mcdropout.engine.findings import DROPOUT_PAPER, Finding
from mcdropout.engine.kinds import ATTENTION, CHANNEL, DROPCONNECT, ELEMENT
from mcdropout.engine.sites import Site

_VARIANCE_SHIFT = "X. Li et al., Understanding the disharmony between dropout and batch normalization, CVPR 2019"
_RECURRENT = "Y. Gal, Z. Ghahramani, A theoretically grounded application of dropout in RNNs, NeurIPS 2016"
_APPROXIMATION = "Y. Gal, Z. Ghahramani, Dropout as a Bayesian approximation, ICML 2016"
_CONVOLUTIONS = f"{DROPOUT_PAPER}, section 6.1.2, keeps convolutions at 0.1 to 0.25"

HIGH_RATE_ON_CONVOLUTIONS = 0.3
# So many calls of one module, one after another, are a loop over time steps.
_FEWEST_STEPS = 3

_aten = torch.ops.aten


def findings_of_graph(graph_module: fx.GraphModule, inputs: int, sites: Sequence[Site]) -> list[Finding]:
    """What the flow of data around each site shows.

    Args:
        graph_module: the exported `f(*inputs, *masks)`.
        inputs: how many of its placeholders are inputs.
        sites: what its masks belong to, in order.
    """
    flow = _Flow(graph_module, inputs, sites)
    found: list[Finding] = []
    for look in (_feeds_batch_norm, _on_output, _twice_in_a_row, _high_on_convolution, _fresh_each_step):
        found += look(flow)
    return found


class _Flow:
    """The graph, with the node at which each site's mask meets the data."""

    def __init__(self, graph_module: fx.GraphModule, inputs: int, sites: Sequence[Site]) -> None:
        nodes = list(graph_module.graph.nodes)
        placeholders = [node for node in nodes if node.op == "placeholder"]
        self.sites = tuple(sites)
        self.outputs = {node for node in nodes if node.op == "output"}
        self._masks = placeholders[inputs:]
        self._data = self.after(placeholders[:inputs])
        self.entries = [self._entry(mask) for mask in self._masks]
        self.site_at = {entry: index for index, entry in enumerate(self.entries) if entry is not None}

    def after(self, start: Iterable[fx.Node]) -> set[fx.Node]:
        """The nodes of `start` and all that depend on them."""
        reached, waiting = set(start), list(start)
        while waiting:
            for user in waiting.pop().users:
                if user not in reached:
                    reached.add(user)
                    waiting.append(user)
        return reached

    def _entry(self, mask: fx.Node) -> fx.Node | None:
        """The first node in which the mask meets values of the network's input."""
        own, waiting = {mask}, [mask]
        while waiting:
            node = waiting.pop(0)
            for user in node.users:
                others = [x for x in user.all_input_nodes if x not in own]
                if user.op == "call_function" and any(x in self._data and not _is_filled(x) for x in others):
                    return user
                if user not in own:
                    own.add(user)
                    waiting.append(user)
        return None

    def data_into(self, entry: fx.Node, mask: int) -> fx.Node | None:
        """What the mask is applied to."""
        from_mask = self.after([self._masks[mask]])
        return next((x for x in entry.all_input_nodes if x not in from_mask and x in self._data), None)

    def forward(self, start: fx.Node, through: Callable[[fx.Node], bool]) -> Iterable[fx.Node]:
        """The nodes after `start`, onward only from those that `through` lets pass."""
        seen, waiting = {start}, [start]
        while waiting:
            for user in waiting.pop(0).users:
                if user not in seen:
                    seen.add(user)
                    yield user
                    if through(user):
                        waiting.append(user)

    def backward(self, start: fx.Node, through: Callable[[fx.Node], bool]) -> Iterable[fx.Node]:
        """`start` and the nodes before it, onward only from those that `through` lets pass."""
        seen, waiting = {start}, [start]
        while waiting:
            node = waiting.pop(0)
            yield node
            if through(node):
                for source in node.all_input_nodes:
                    if source not in seen:
                        seen.add(source)
                        waiting.append(source)


_FILLED = {"new_ones", "ones_like", "ones", "zeros", "zeros_like", "new_zeros", "full", "full_like", "sym_size"}
_CONVOLUTIONS_OPS = {"conv1d", "conv2d", "conv3d", "convolution", "conv_transpose2d", "conv_transpose1d"}
_WEIGHTED = {
    *_CONVOLUTIONS_OPS,
    "linear",
    "addmm",
    "mm",
    "bmm",
    "matmul",
    "baddbmm",
    "lstm",
    "gru",
    "rnn_tanh",
    "rnn_relu",
}
_WEIGHTED |= {"scaled_dot_product_attention", "embedding", "einsum"}
_RECURRENT_OPS = {"lstm", "gru", "rnn_tanh", "rnn_relu"}
_BATCH_NORMS = {"_native_batch_norm_legit_no_training", "batch_norm", "native_batch_norm", "cudnn_batch_norm"}
_NORMS = {*_BATCH_NORMS, "layer_norm", "native_layer_norm", "group_norm", "native_group_norm", "rms_norm"}
_RESHAPES = {"view", "reshape", "_unsafe_view", "flatten", "squeeze", "unsqueeze", "permute", "transpose", "clone"}
_RESHAPES |= {"contiguous", "_to_copy", "to", "getitem", "expand", "t", "unflatten"}


def _operation(node: fx.Node) -> str:
    """The name of what a node computes, without its overload."""
    if node.target is operator.getitem:
        return "getitem"
    target: Any = node.target
    return str(getattr(target, "overloadpacket", target)).rpartition(".")[2]


def _is_filled(node: fx.Node) -> bool:
    return node.op == "call_function" and _operation(node) in _FILLED


def _feeds_batch_norm(flow: _Flow) -> Iterable[Finding]:
    for index, entry in enumerate(flow.entries):
        if entry is None:
            continue
        after = flow.forward(entry, lambda node: node not in flow.site_at and _operation(node) not in _BATCH_NORMS)
        if any(_operation(node) in _BATCH_NORMS for node in after):
            text = (
                "feeds a batch norm, whose statistics were gathered without this dropout: in stochastic passes the "
                "variance that it sees is another one than in training"
                if flow.sites[index].injected
                else "feeds a batch norm, whose statistics were gathered with this dropout on: in eval mode (mc=0) the "
                "variance that it sees is another one than in training"
            )
            yield Finding("dropout-before-batch-norm", flow.sites[index].name, text, _VARIANCE_SHIFT)


def _on_output(flow: _Flow) -> Iterable[Finding]:
    for index, entry in enumerate(flow.entries):
        if entry is None:
            continue
        after = flow.forward(entry, lambda node: _operation(node) not in _WEIGHTED | _NORMS | {"mean", "sum"})
        if flow.outputs & set(after) and flow.sites[index].kind != DROPCONNECT:
            yield Finding(
                "dropout-on-output",
                flow.sites[index].name,
                "drops the network's outputs themselves: zeros among them say nothing of what the weights do not know",
                f"{_APPROXIMATION}: dropout stands before the weights",
            )


def _twice_in_a_row(flow: _Flow) -> Iterable[Finding]:
    for index, entry in enumerate(flow.entries):
        data = None if entry is None else flow.data_into(entry, index)
        if data is None:
            continue
        for node in flow.backward(data, lambda node: node.op == "call_function" and _operation(node) in _RESHAPES):
            before = flow.site_at.get(node)
            if before is not None and before != index:
                kept = [1.0 - (flow.sites[number].p or 0.0) for number in (before, index)]
                yield Finding(
                    "two-dropouts-in-a-row",
                    flow.sites[index].name,
                    f"drops what {flow.sites[before].name} has left, with nothing between: together they keep "
                    f"{kept[0] * kept[1]:.3g}",
                    DROPOUT_PAPER,
                )


def _high_on_convolution(flow: _Flow) -> Iterable[Finding]:
    for index, (site, entry) in enumerate(zip(flow.sites, flow.entries, strict=True)):
        if entry is None or site.kind not in (ELEMENT, CHANNEL) or (site.p or 0.0) <= HIGH_RATE_ON_CONVOLUTIONS:
            continue
        if site.units == 1:  # a branch as a whole
            continue
        data = flow.data_into(entry, index)
        if data is None or not _is_map(data):
            continue
        sources = flow.backward(data, lambda node: node.op == "call_function" and _operation(node) not in _WEIGHTED)
        if any(node.op == "call_function" and _operation(node) in _CONVOLUTIONS_OPS for node in sources):
            yield Finding(
                "high-rate-on-convolutions",
                site.name,
                f"drops {site.p:g} of a convolution's outputs; with more than {HIGH_RATE_ON_CONVOLUTIONS:g} accuracy "
                "usually suffers",
                _CONVOLUTIONS,
            )


def _is_map(node: fx.Node) -> bool:
    """Whether a value is features in places: `[rows, channels, ...]` with more than one place."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dim() >= 3 and any(size != 1 for size in value.shape[2:])


def _fresh_each_step(flow: _Flow) -> Iterable[Finding]:
    text = "draws a fresh mask for each time step; a Bayesian recurrent network keeps one for the whole sequence"
    reported: set[str] = set()
    for site, entry in zip(flow.sites, flow.entries, strict=True):
        if entry is None or site.kind == ATTENTION:
            continue
        after = flow.forward(entry, lambda node: _operation(node) in _RESHAPES)
        feeds_steps = any(_operation(node) in _RECURRENT_OPS for node in after)
        if feeds_steps and site.scope == "row" and len(site.shape) > 1 and site.shape[0] > 1:
            reported.add(site.name)
            yield Finding("fresh-mask-each-step", site.name, text, _RECURRENT)
    for path in dict.fromkeys(site.path for site in flow.sites):
        own = [index for index, site in enumerate(flow.sites) if site.path == path and site.name not in reported]
        entries = [entry for index in own if (entry := flow.entries[index]) is not None]
        if len(entries) >= _FEWEST_STEPS and _is_loop(flow, entries):
            yield Finding("fresh-mask-each-step", flow.sites[own[0]].name, f"{text} ({len(own)} steps)", _RECURRENT)


def _is_loop(flow: _Flow, entries: Sequence[fx.Node]) -> bool:
    """Whether between each of the nodes and the next the same weights are applied."""
    weights: list[set[object]] = []
    for earlier, later in itertools.pairwise(entries):
        between = flow.after([earlier]) & set(flow.backward(later, lambda _: True))
        weights.append({x.target for node in between for x in node.all_input_nodes if x.op == "get_attr"})
    return bool(weights[0]) and all(some == weights[0] for some in weights[1:])
