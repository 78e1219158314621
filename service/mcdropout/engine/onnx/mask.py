"""Masked graphs: a graph as `f(*inputs, *masks)`, and the same with nothing dropped.

A mask is float32 `[rows, *site.mask_shape]`, as everywhere. In the graph it is brought into the dimensions of the site
and to the type of what it multiplies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto, TensorProto, helper

from mcdropout.engine.cutting.placement import mask_moves, parts_axis
from mcdropout.engine.kinds import NORMAL
from mcdropout.engine.onnx.dataflow import Dataflow, attribute, is_op, key, pruned, renamed, tensor, value_info
from mcdropout.engine.onnx.draft import Draft
from mcdropout.engine.onnx.find.draws import Cut, Draw
from mcdropout.engine.onnx.inference import BOOL_MASK_SINCE, filled, identity
from mcdropout.engine.sites import Site


@dataclass(frozen=True)
class Masked:
    """A site, the draw that it is, and which dimensions of its shape follow sizes of the inputs that differ."""

    site: Site
    draw: Draw
    varying: tuple[bool, ...] = ()


def substituted(flow: Dataflow, draws: Sequence[Draw], masked: Sequence[Masked], types: Mapping[str, int]) -> Dataflow:
    """The graph with a mask, an input behind the others, for each of `masked`; every other draw keeps everything.

    Args:
        flow: the graph.
        draws: all that it draws.
        masked: what takes a mask, in the order of the masks.
        types: ONNX element types of values.
    """
    return _Substitution(flow, draws, masked, types).flow()


class _Substitution:
    def __init__(
        self, flow: Dataflow, draws: Sequence[Draw], masked: Sequence[Masked], types: Mapping[str, int]
    ) -> None:
        self._flow, self._types = flow, types
        self._draft = Draft(flow)
        self._names = self._draft.names
        self._draws = {draw.node: draw for draw in draws}
        self._sites = {one.draw.node: one.site for one in masked}
        self._varying = {one.draw.node: one.varying for one in masked}
        self._masks = {one.draw.node: self._names.fresh(f"mask_{index}") for index, one in enumerate(masked)}
        self._cuts: dict[str, tuple[Draw, Cut]] = {cut.value: (draw, cut) for draw in draws for cut in draw.cuts}
        self._placed: dict[tuple[str, int, int], str] = {}

    def flow(self) -> Dataflow:
        nodes = [new for node in self._flow.nodes for new in self._instead_of(node)]
        masks = [
            value_info(
                self._masks[node],
                TensorProto.FLOAT,
                [*(["rows"] if site.scope == "row" else []), *self._declared(node, site)],
            )
            for node, site in self._sites.items()
        ]
        inputs = (*self._flow.inputs, *masks)
        return pruned(replace(self._flow, nodes=tuple(nodes), inputs=inputs, weights=self._draft.weights))

    def _declared(self, node: str, site: Site) -> list[int | str]:
        """The sizes of a mask, with names for those that differ."""
        sizes: list[int | str] = list(site.shape)
        for axis in (axis for axis, follows in enumerate(self._varying[node]) if follows):
            sizes[axis] = f"{self._masks[node]}_{axis}"
        return [2, *sizes] if site.shifted else sizes

    def _instead_of(self, node: NodeProto) -> list[NodeProto]:
        draw = self._draws.get(key(node))
        if draw is None:
            return self._behind_cut(node)
        if is_op(node, "Dropout"):
            on = draw.node in self._sites
            return self._multiplied(node, draw) if on else list(identity(node, self._flow, self._names))
        if draw.kind == NORMAL:
            return self._noise(node, draw)
        *before, last = self._all_the_same(node, draw.kept)
        return [*before, *self._behind_cut(last)]

    def _multiplied(self, node: NodeProto, draw: Draw) -> list[NodeProto]:
        """A `Dropout` under its mask."""
        kind = self._types[node.input[0]]
        nodes, mask = self._mask(draw, 0, kind)
        if node.output[0]:
            nodes.append(helper.make_node("Mul", [node.input[0], mask], [node.output[0]], node.name))
        if len(node.output) > 1 and node.output[1]:
            kept_output = node.output[1]
            kept = kept_output if self._flow.opset >= BOOL_MASK_SINCE else self._names.fresh(f"{kept_output}_kept")
            nodes.append(helper.make_node("Cast", [mask], [kept], to=TensorProto.BOOL))
            if kept != kept_output:
                nodes.append(helper.make_node("Cast", [kept], [kept_output], to=kind))
        return nodes

    def _noise(self, node: NodeProto, draw: Draw) -> list[NodeProto]:
        """Normal numbers, with the node's own mean and deviation; their mean where they are off."""
        mean, deviation = attribute(node, "mean", 0.0), attribute(node, "scale", 1.0)
        if draw.node not in self._sites:
            return self._all_the_same(node, mean)
        kind = self._types[draw.node]
        nodes, numbers = self._mask(draw, 0, kind)
        scaled = self._names.fresh(f"{draw.node}_scaled")
        nodes.append(helper.make_node("Mul", [numbers, self._constant(deviation, kind)], [scaled]))
        nodes.append(helper.make_node("Add", [scaled, self._constant(mean, kind)], [draw.node], node.name))
        return nodes

    def _all_the_same(self, node: NodeProto, value: float) -> list[NodeProto]:
        """What a node that draws gives, with one value for all its numbers."""
        drawn = key(node)
        values = np.array([value], helper.tensor_dtype_to_np_dtype(self._types[drawn]))
        if node.input:
            return list(filled(node.input[0], drawn, values, self._names))
        shape = self._draft.constant(f"{drawn}_shape", np.array(attribute(node, "shape"), np.int64))
        return [helper.make_node("ConstantOfShape", [shape], [drawn], value=tensor("value", values))]

    def _behind_cut(self, node: NodeProto) -> list[NodeProto]:
        """A node, and where a mask takes the place of what it gives, what it is multiplied by instead."""
        cut_at = next((name for name in node.output if name in self._cuts), None)
        if cut_at is None:
            return [node]
        draw, cut = self._cuts[cut_at]
        kind = self._types[cut_at]
        if draw.node in self._sites:
            nodes, source = self._mask(draw, cut.part, kind)
            if cut.scale == 1.0:
                return [*nodes, helper.make_node("Identity", [source], [cut_at])]
            return [*nodes, helper.make_node("Mul", [source, self._constant(cut.scale, kind)], [cut_at])]
        drawn = self._names.fresh(f"{cut_at}_drawn")
        still = np.array([cut.still], helper.tensor_dtype_to_np_dtype(kind))
        return [renamed(node, {cut_at: drawn}), *filled(drawn, cut_at, still, self._names)]

    def _mask(self, draw: Draw, part: int, kind: int) -> tuple[list[NodeProto], str]:
        """A site's mask in its dimensions and of a type, and the nodes that it takes; none where it is there."""
        known = (draw.node, part, kind)
        if known in self._placed:
            return [], self._placed[known]
        site, mask = self._sites[draw.node], self._masks[draw.node]
        nodes, name, axis = list[NodeProto](), mask, parts_axis(site)
        if axis is not None:
            index, name = self._draft.whole_numbers(part), self._names.fresh(f"{mask}_gather")
            nodes.append(helper.make_node("Gather", [mask, index], [name], axis=axis))
        moved, name = self._draft.moved(name, mask_moves(site))
        nodes += moved
        if kind != TensorProto.FLOAT:
            cast = self._names.fresh(f"{mask}_cast")
            nodes.append(helper.make_node("Cast", [name], [cast], to=kind))
            name = cast
        self._placed[known] = name
        return nodes, name

    def _constant(self, value: float, kind: int) -> str:
        return self._draft.constant("scale", np.array(value, helper.tensor_dtype_to_np_dtype(kind)))
