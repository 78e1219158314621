"""Draws: the nodes of a graph that make randomness, each as one call that a mask can stand for.

`Dropout` says what it does. What exporters wrote out of random numbers is recognised by what it computes
(`written.py`); normal numbers are noise that the graph scales by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from onnx import NodeProto, numpy_helper

from mcdropout.engine.arrays import Array, with_rows
from mcdropout.engine.cutting.layout import ROWS
from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.kinds import ATTENTION, DROPCONNECT, ELEMENT, KINDS, NORMAL
from mcdropout.engine.onnx.branches import look_at
from mcdropout.engine.onnx.dataflow import CONSTANT, DATA, DRAWS, SIZE, Dataflow, attribute, every_node, is_op, key
from mcdropout.engine.onnx.inference import RATIO_IS_INPUT_SINCE, label
from mcdropout.engine.onnx.measuring import Probe
from mcdropout.engine.sizes import Sizing

_DEFAULT_RATIO = 0.5


@dataclass(frozen=True)
class Cut:
    """A value made of a draw and constants, which a mask takes the place of.

    Attributes:
        value: its name.
        part: which of the mask's values it takes: 0 for the factor, 1 for the summand of alpha dropout.
        scale: what the mask is multiplied by to become it.
        still: what it is where nothing is dropped or scaled.
    """

    value: str
    part: int
    scale: float
    still: float


@dataclass(frozen=True)
class Draw:
    """A random call of a graph, as `selection.select` takes it.

    Attributes:
        path: the name of its node.
        kind, p: as a `Site` has them.
        active: whether it drops anything.
        node: the key of its node.
        shaped: the value that has the shape of its mask.
        cuts: what its mask takes the place of; nothing of a `Dropout`, and of noise.
        kept: the number drawn for what is kept, where dropout is written out.
        injected: whether the selection has added it.
        number: of its node's calls, of which there is one.
    """

    path: str
    kind: str
    p: float | None
    active: bool
    node: str
    shaped: str
    cuts: tuple[Cut, ...] = ()
    kept: float = 0.0
    injected: bool = False
    number: int = 0

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from the other draws."""
        return self.path, self.number

    @property
    def raw(self) -> bool:
        """Whether its mask is numbers that the graph itself makes something of."""
        return KINDS[self.kind].raw


class Facts:
    """What is known of a graph while its draws are looked for.

    Attributes:
        flow: the graph.
        probe: the same with every `Dropout` silent.
        arrays: example inputs, with two rows.
        level: of each value, as `dataflow.levels` has it.
        sizing: which sizes of the inputs may differ; None where none may.
    """

    def __init__(
        self,
        flow: Dataflow,
        probe: Probe,
        arrays: Sequence[Array],
        level: dict[str, int],
        sizing: Sizing | None = None,
    ) -> None:
        self.flow, self.probe, self.arrays, self.level, self.sizing = flow, probe, arrays, level, sizing
        self._seen: dict[str, Array] = {}
        self._following_rows: dict[str, bool] = {}
        self._shapes = {name: tuple(value.shape()) for name, value in probe.run(arrays).items()}
        self._shapes.update((x.name, a.shape) for x, a in zip(probe.flow.inputs, arrays, strict=True))
        self._shapes.update((name, tuple(weight.dims)) for name, weight in probe.flow.weights.items())

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a value with two rows."""
        return self._shapes[name]

    def array(self, name: str) -> Array:
        """A value with two rows."""
        if name not in self._seen:
            weight = self.flow.weights.get(name)
            self._seen[name] = self.probe.array(self.arrays, name) if weight is None else numpy_helper.to_array(weight)
        return self._seen[name]

    def fixed(self, name: str) -> bool:
        """Whether no input decides what a value holds, other than by its size."""
        return self.level.get(name, DATA) < DATA

    def follows(self, name: str) -> bool:
        """Whether what a fixed value holds follows sizes that may differ."""
        return self.sizing is not None and self.level.get(name) == SIZE and name in self._following

    @cached_property
    def _following(self) -> frozenset[str]:
        names = [name for name, level in self.level.items() if level == SIZE and self.probe.types.get(name)]
        return frozenset(look_at(self.probe.flow, names, self.arrays, self.sizing).following)

    def number(self, name: str) -> float | None:
        """The number that all entries of a fixed value are, at all sizes; None where it is something else."""
        if not self.fixed(name):
            return None
        found = _number_of(self.array(name))
        return None if found is None or self.follows(name) or self.follows_rows(name) else found

    def follows_rows(self, name: str) -> bool:
        """Whether a fixed value whose entries are all the same is another one for another number of rows."""
        if self.level.get(name) != SIZE or _number_of(self.array(name)) is None:
            return False
        if name not in self._following_rows:
            others = [[with_rows(x, rows) for x in self.arrays] for rows in (1, ROWS[1])]
            found = {str(_number_of(self.probe.array(arrays, name))) for arrays in (self.arrays, *others)}
            self._following_rows[name] = len(found) > 1
        return self._following_rows[name]


def _number_of(values: Array) -> float | None:
    """The number that all entries are; None where they differ, or are no numbers."""
    if values.dtype.kind not in "fiub" or not values.size:
        return None
    first = values.flat[0]
    same = np.isnan(values) if first != first else values == first
    return shortest(first) if same.all() else None


def shortest(value: np.generic) -> float:
    """A number as it was meant: of those that are stored as `value`, the one with the fewest digits."""
    return float(str(value)) if value.dtype.kind == "f" else float(value)


def paths(flow: Dataflow) -> dict[str, str]:
    """What each node that may draw is called, by its key: its name where no other has it."""
    drawing = [node for node in flow.nodes if is_op(node, "Dropout", *DRAWS)]
    named = [node.name for node in drawing]
    return {key(node): node.name if named.count(node.name) == 1 and node.name else key(node) for node in drawing}


def check_ratios(flow: Dataflow) -> None:
    """Raise UnsupportedModelError for a `Dropout` whose ratio is an input that has to be fed."""
    fed = {value.name for value in flow.inputs if value.name not in flow.weights}
    for node in every_node(flow.nodes):
        if is_op(node, "Dropout") and len(node.input) > 1 and node.input[1] in fed:
            raise UnsupportedModelError(
                f"{label(node)} (Dropout) takes its ratio from the input {node.input[1]!r}; a constant ratio is "
                "accepted"
            )


def dropout(node: NodeProto, path: str, facts: Facts) -> Draw:
    """What a node `Dropout` draws.

    Raises:
        UnsupportedModelError: its ratio is no constant, or no probability.
    """
    data = node.input[0]
    ratio: float | None = attribute(node, "ratio", _DEFAULT_RATIO)
    if facts.flow.opset >= RATIO_IS_INPUT_SINCE:
        given = node.input[1] if len(node.input) > 1 else ""
        ratio = facts.number(given) if given else _DEFAULT_RATIO
        if ratio is None:
            raise UnsupportedModelError(
                f"{path} (Dropout) takes its ratio from {given!r}, which is known only when the graph runs; a "
                "constant ratio is accepted"
            )
    assert ratio is not None
    p = shortest(np.float32(ratio))
    if not 0.0 <= p <= 1.0:
        raise UnsupportedModelError(f"{path} (Dropout) has the ratio {p:g}; a number from 0 to 1 is accepted")
    kind = DROPCONNECT if facts.level.get(data, DATA) == CONSTANT and facts.shape(data) else ELEMENT
    if _is_softmax(data, facts.flow):
        kind = ATTENTION
    return Draw(path, kind, p, p > 0.0, key(node), data)


def _is_softmax(name: str, flow: Dataflow) -> bool:
    """Whether a value is the weights of attention, perhaps with those of masked queries set to 0."""
    node = flow.producers.get(name)
    if node is not None and is_op(node, "Where", "Cast"):
        return any(_is_softmax(source, flow) for source in node.input if source in flow.producers)
    return node is not None and is_op(node, "Softmax")


def noise(node: NodeProto, path: str) -> Draw:
    """Normal numbers, whatever the graph makes of them; nothing of them is their mean."""
    return Draw(path, NORMAL, None, True, key(node), key(node))


def nested(flow: Dataflow, following: Mapping[str, str] | None = None) -> dict[str, str]:
    """The names of nodes within subgraphs that draw, each with the operator that the subgraph belongs to.

    Args:
        flow: the graph.
        following: the keys of `If` nodes that follow sizes, each with what says so.

    Raises:
        UnsupportedModelError: one of them is not `Dropout`, so that nothing can stand for it.
    """
    found: dict[str, str] = {}
    for outer in flow.nodes:
        where = f"the {outer.op_type} {label(outer)}{(following or {}).get(key(outer), '')}"
        for node in every_node([outer]):
            if node is outer or not is_op(node, "Dropout", *DRAWS):
                continue
            if not is_op(node, "Dropout"):
                raise UnsupportedModelError(
                    f"{label(node)} ({node.op_type}) draws within {where}; a graph that "
                    "draws outside of loops and branches is accepted"
                )
            found[label(node)] = where
    return found
