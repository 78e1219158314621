"""Written-out dropout: what exporters make of dropout where they do not write a `Dropout` node.

A draw and the constants beside it are a small graph of their own. Run with the draw on either side of its threshold, it
shows what it is: two numbers, of which one is 0, that data is multiplied by. The probability is found by bisection, the
scale of what is kept beside the multiplication.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto, helper

from mcdropout.engine.arrays import Array
from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.kinds import ALPHA, CHANNEL, DROPCONNECT, ELEMENT
from mcdropout.engine.onnx.dataflow import (
    DRAWS,
    Dataflow,
    Names,
    attribute,
    is_op,
    key,
    sources,
    subgraphs,
    tensor,
    value_info,
)
from mcdropout.engine.onnx.find.draws import Cut, Draw, Facts
from mcdropout.engine.onnx.measuring import SIZE_INPUTS, Probe
from mcdropout.engine.sites import Site

_TOLERANCE = 1e-3  # of a scale, relative; float16 has three digits
_SAME = 4e-7  # thresholds that near are one: float32 numbers between 0 and 1
_STEPS = 33
_BISECTIONS = 26
_SHAPES_ONLY = ("Expand", "Reshape", "Unsqueeze", "Squeeze", "Identity", "Flatten", "Tile", "Transpose")


def origins(flow: Dataflow, facts: Facts) -> dict[str, str]:
    """For each value made of one draw and constants alone, the key of the node that draws."""
    found: dict[str, str] = {}
    for node in flow.nodes:
        if is_op(node, *DRAWS):
            found[key(node)] = key(node)
            continue
        if is_op(node, "Mul") and any(facts.fixed(name) and facts.number(name) is None for name in node.input):
            continue  # a weight that is dropped is data
        taken = [name for name in sources(node) if not facts.fixed(name)]
        drawn = {found.get(name, "") for name in taken}
        if len(drawn) == 1 and "" not in drawn and not any(subgraphs(node)) and not is_op(node, "Shape", "Size"):
            (origin,) = drawn
            found.update((name, origin) for name in node.output if name)
    return found


def without_where(flow: Dataflow, facts: Facts) -> Dataflow:
    """The graph with `Where(drawn, x, 0)` as `x * Cast(drawn)`, so that dropout has one form."""
    origin, names, nodes = origins(flow, facts), Names(flow.names), []
    for node in flow.nodes:
        chosen = _chosen(node, origin, facts)
        if chosen is None:
            nodes.append(node)
            continue
        data, turned = chosen
        condition = node.input[0]
        if turned:
            nodes.append(helper.make_node("Not", [condition], [names.fresh(f"{condition}_not")]))
            condition = nodes[-1].output[0]
        factor = names.fresh(f"{node.output[0]}_factor")
        nodes.append(helper.make_node("Cast", [condition], [factor], to=facts.probe.types[data]))
        nodes.append(helper.make_node("Mul", [data, factor], [node.output[0]], node.name))
    return replace(flow, nodes=tuple(nodes))


def _chosen(node: NodeProto, origin: dict[str, str], facts: Facts) -> tuple[str, bool] | None:
    """What a node `Where` lets through or makes 0 as a draw says, and whether it does so where that is false."""
    if not is_op(node, "Where") or node.input[0] not in origin:
        return None
    for data, other, turned in ((node.input[1], node.input[2], False), (node.input[2], node.input[1], True)):
        if facts.number(other) == 0.0 and facts.number(data) is None and data not in origin:
            return data, turned
    return None


@dataclass(frozen=True)
class _Meaning:
    """What a value is on either side of the threshold: `dropped` with probability `p`."""

    p: float
    dropped: float
    kept: float


def recognise(node: NodeProto, path: str, origin: dict[str, str], facts: Facts) -> Draw:
    """The dropout that is made of a node's uniform or Bernoulli numbers.

    Args:
        node: draws them.
        path: its name.
        origin: as `origins` returns it.
        facts: of the graph.

    Raises:
        UnsupportedModelError: they make something else, or their scale is not known.
    """
    numbers = _Numbers(node, path, origin, facts)
    factors: dict[str, list[NodeProto]] = {}
    summands: dict[str, list[NodeProto]] = {}
    for value in numbers.ends:
        for user in facts.flow.consumers.get(value, []):
            if key(user) in origin or is_op(user, "Shape", "Size"):
                continue
            if not is_op(user, "Mul", "Add") or value in facts.flow.outputs:
                raise _unknown(node, path, f"the {user.op_type} that takes {value!r}")
            (factors if is_op(user, "Mul") else summands).setdefault(value, []).append(user)
    if not factors:
        raise _unknown(node, path, "no Mul takes them")
    if summands:
        return _alpha(numbers, list(factors), list(summands))
    cuts: list[Cut] = []
    p: float | None = None
    drawn = 0.0  # where everything is kept
    for value, users in factors.items():
        value = numbers.of_one_unit(value)
        meaning = numbers.meaning(value)
        if meaning.dropped != 0.0 or (p is not None and abs(p - meaning.p) > _SAME):
            raise _unknown(node, path, f"{value!r} is {meaning.dropped:g} or {meaning.kept:g}")
        if p is not None and drawn != numbers.kept_draw:
            raise _unknown(node, path, f"{value!r} keeps what {cuts[0].value!r} drops")
        p, drawn = meaning.p, numbers.kept_draw
        for user in users:
            _check_scale(user, value, meaning, numbers)
        scale = meaning.kept * (1.0 - p)
        scale = 1.0 if abs(scale - 1.0) <= _TOLERANCE else scale  # but for rounding
        cuts.append(Cut(value, 0, scale, scale))
    assert p is not None
    shaped = cuts[0].value
    if any(facts.shape(cut.value) != facts.shape(shaped) for cut in cuts):
        raise _unknown(node, path, "they are used in several shapes")
    kind = _kind(shaped, next(iter(factors.values()))[0], facts)
    return Draw(path, kind, p, p > 0.0, key(node), shaped, tuple(cuts), numbers.kept_draw)


def _unknown(node: NodeProto, path: str, found: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{path} ({node.op_type}) draws numbers that are not known to make dropout: {found}; dropout that multiplies "
        "by 0 or by 1 / (1 - p), Dropout nodes and normal noise are accepted"
    )


class _Numbers:
    """The small graph that a draw and the constants beside it are.

    Attributes:
        ends: its values that something outside of it takes.
        made: all of its values.
        low, high: between which the numbers are.
        kept_draw: a number for which everything is kept, once a meaning is known.
    """

    def __init__(self, node: NodeProto, path: str, origin: dict[str, str], facts: Facts) -> None:
        self.node, self.path, self.facts = node, path, facts
        self._name = key(node)
        own = [x for x in facts.flow.nodes if origin.get(key(x)) == self._name and x is not node]
        self.made = {name for x in own for name in x.output if name} | {self._name}
        used = {name for x in facts.flow.nodes if key(x) not in origin for name in sources(x)}
        self.ends = [name for name in (self._name, *(key(x) for x in own)) if name in used]
        if given_out := self.made.intersection(facts.flow.outputs):
            raise _unknown(node, path, f"{min(given_out)!r} is an output of the graph")
        outside = {name for x in own for name in sources(x)} - self.made
        shapes = {x.input[at] for x in own for at in SIZE_INPUTS.get(x.op_type, ()) if at < len(x.input)}
        if follows := sorted(name for name in outside - shapes if facts.follows(name)):
            raise _unknown(node, path, f"{follows[0]!r}, beside them, follows the sizes of the inputs")
        if follows := sorted(name for name in outside - shapes if facts.follows_rows(name)):
            raise _unknown(node, path, f"{follows[0]!r}, beside them, follows the number of rows")
        self._shape = facts.shape(self._name)
        kind = facts.probe.types[self._name]
        self._dtype = helper.tensor_dtype_to_np_dtype(kind)
        flow = Dataflow(
            tuple(own),
            (value_info(self._name, kind, self._shape),),
            (),
            {name: tensor(name, facts.array(name)) for name in outside},
            facts.flow.frame,
        )
        self._probe = Probe(flow) if own else None
        self._found: dict[float, dict[str, float | None]] = {}
        self.low, self.high, self._one = 0.0, 1.0, None
        if is_op(node, "Bernoulli"):
            self._one = facts.number(node.input[0])
            if self._one is None:
                raise _unknown(node, path, f"their probability {node.input[0]!r} is no constant")
            if not 0.0 <= self._one <= 1.0:
                raise _unknown(node, path, f"their probability is {self._one:g}, which is none")
        else:
            self.low, self.high = float(attribute(node, "low", 0.0)), float(attribute(node, "high", 1.0))
        self.kept_draw = 0.0

    def run(self, drawn: Array) -> dict[str, Array]:
        """The values for given numbers."""
        found = {} if self._probe is None else self._probe.run([drawn])
        return {self._name: drawn} | {name: value.numpy() for name, value in found.items()}

    def at(self, drawn: float, value: str) -> float:
        """A value where all numbers are the same."""
        if drawn not in self._found:
            arrays = self.run(np.full(self._shape, drawn, self._dtype))
            self._found[drawn] = {
                name: float(x.flat[0]) if x.size and x.dtype.kind in "fiub" and (x == x.flat[0]).all() else None
                for name, x in arrays.items()
            }
        found = self._found[drawn].get(value)
        if found is None:
            raise _unknown(self.node, self.path, f"units of {value!r} differ for the same number")
        return found

    def meaning(self, value: str) -> _Meaning:
        """What a value is: two numbers, one for what is dropped."""
        if self._one is not None:
            zero, one = self.at(0.0, value), self.at(1.0, value)
            turned = one == 0.0
            self.kept_draw = 0.0 if turned else 1.0
            p = self._one if turned else round(1.0 - self._one, 12)
            return _Meaning(p, one, zero) if turned else _Meaning(p, zero, one)
        top = float(np.nextafter(self._dtype.type(self.high), self._dtype.type(self.low)))
        grid = np.linspace(self.low, top, _STEPS)
        seen = [self.at(float(x), value) for x in grid]
        low, high = seen[0], seen[-1]
        switch = next((at for at, x in enumerate(seen) if x != low), None)
        if switch is None:  # nothing is dropped; nothing is kept
            self.kept_draw = self.low
            return _Meaning(0.0, 0.0, low) if low else _Meaning(1.0, 0.0, 0.0)
        if any(x != high for x in seen[switch:]):
            raise _unknown(self.node, self.path, f"{value!r} takes more than two values")
        left, right = float(grid[switch - 1]), float(grid[switch])
        for _ in range(_BISECTIONS):
            middle = (left + right) / 2
            left, right = (middle, right) if self.at(middle, value) == low else (left, middle)
        below = _roundest((right - self.low) / (self.high - self.low), _SAME if self._dtype == np.float32 else 2e-3)
        self._check_units(value, low, high, self.low + below * (self.high - self.low))
        drops_below = low == 0.0 or (high != 0.0 and abs(low) < abs(high))
        self.kept_draw = top if drops_below else self.low
        return _Meaning(below, low, high) if drops_below else _Meaning(round(1.0 - below, 12), high, low)

    def _check_units(self, value: str, low: float, high: float, threshold: float) -> None:
        """Each unit must be decided by a number of its own."""
        drawn = np.random.default_rng(0).uniform(self.low, self.high, self._shape).astype(self._dtype)
        found = self.run(drawn)[value]
        expected = np.where(drawn < threshold, low, high)
        if found.size != drawn.size or (found.ravel() != expected.ravel().astype(found.dtype)).any():
            raise _unknown(self.node, self.path, f"units of {value!r} do not have a number each")

    def of_one_unit(self, value: str) -> str:
        """The value before it was given the shape of the data, where that repeats or reorders what was drawn."""
        count = int(np.prod(self._shape))
        while value != self._name:
            producer = self.facts.flow.producers[value]
            larger = int(np.prod(self.facts.shape(value))) != count
            if not is_op(producer, *(_SHAPES_ONLY if larger else ("Transpose",))):
                break
            value = next(name for name in producer.input if name in self.made)
        if int(np.prod(self.facts.shape(value))) != count:
            raise _unknown(self.node, self.path, f"{value!r} has another size than what is drawn")
        return value


def _roundest(value: float, tolerance: float) -> float:
    """The number with the fewest digits that is as near as that."""
    return next(x for x in (round(value, digits) for digits in range(1, 18)) if abs(x - value) <= tolerance)


def _check_scale(user: NodeProto, factor: str, meaning: _Meaning, numbers: _Numbers) -> None:
    """What is kept must be scaled by 1 / (1 - p), by the factor itself or by a constant beside it."""
    if meaning.p >= 1.0:
        return
    wanted = 1.0 / (1.0 - meaning.p)
    flow, facts = numbers.facts.flow, numbers.facts
    near = [meaning.kept]
    data = next((name for name in user.input if name not in numbers.made), None)
    before = None if data is None else flow.producers.get(data)
    after = flow.consumers.get(user.output[0], [])
    near += [
        meaning.kept * scale
        for node, value in ((before, None), (after[0] if len(after) == 1 else None, user.output[0]))
        if node is not None and (scale := _scale(node, value, facts)) is not None
    ]
    if not any(abs(found / wanted - 1.0) <= _TOLERANCE for found in near):
        raise UnsupportedModelError(
            f"{numbers.path} ({numbers.node.op_type}) makes dropout with p = {meaning.p:g} whose kept units are "
            f"multiplied by {meaning.kept:g}; what the network is without it is told only where they are multiplied by "
            f"1 / (1 - p) = {wanted:g}, at the mask or by a constant next to it (inverted dropout)"
        )


def _scale(node: NodeProto, value: str | None, facts: Facts) -> float | None:
    """The constant that a node multiplies by, if it does: of a given value, or of whatever it takes."""
    if not is_op(node, "Mul", "Div"):
        return None
    for at, name in enumerate(node.input):
        constant = facts.number(name)
        if constant and (value is None or value in node.input) and not (is_op(node, "Div") and at == 0):
            return 1.0 / constant if is_op(node, "Div") else constant
    return None


def _alpha(numbers: _Numbers, factors: Sequence[str], summands: Sequence[str]) -> Draw:
    """Alpha dropout, whose dropped units take another value than 0."""
    facts, node, path = numbers.facts, numbers.node, numbers.path
    if len(factors) != 1 or len(summands) != 1:
        raise _unknown(node, path, "more than one value of theirs is multiplied by, or added")
    (factor,), (summand,) = factors, summands
    found = numbers.meaning(factor)
    kept_draw = numbers.kept_draw
    added_kept = numbers.at(kept_draw, summand)
    added_dropped = numbers.at(numbers.low if kept_draw != numbers.low else numbers.high, summand)
    site = Site(path, 0, ALPHA, found.p, "row", (), 0)
    wanted = (site.kept, site.dropped)
    if found.p >= 1.0 or not np.allclose(
        ((found.kept, added_kept), (found.dropped, added_dropped)), wanted, _TOLERANCE, _TOLERANCE
    ):
        raise _unknown(node, path, f"{factor!r} is multiplied by and {summand!r} added, but not as alpha dropout does")
    if not facts.shape(factor) == facts.shape(summand) == facts.shape(key(node)):
        raise _unknown(node, path, "they are used in several shapes")
    cuts = (Cut(factor, 0, 1.0, 1.0), Cut(summand, 1, 1.0, 0.0))
    return Draw(path, ALPHA, found.p, found.p > 0.0, key(node), factor, cuts, kept_draw)


def _kind(factor: str, user: NodeProto, facts: Facts) -> str:
    """What is dropped together, by the shapes of the factor and of what it multiplies."""
    shape, whole = facts.shape(factor), facts.shape(user.output[0])
    other = next((name for name in user.input if name != factor), factor)
    if facts.fixed(other) and len(facts.shape(other)) > 1:
        return DROPCONNECT
    return CHANNEL if int(np.prod(shape)) < int(np.prod(whole)) else ELEMENT
