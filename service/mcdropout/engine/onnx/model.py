"""ONNX models as subjects of preparation."""

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
from onnx import TensorProto, numpy_helper

from mcdropout.digest import digest_of
from mcdropout.engine.arrays import Array, with_rows
from mcdropout.engine.checks import Check
from mcdropout.engine.cutting.layout import Layout
from mcdropout.engine.errors import NoDropoutError, UnsupportedModelError
from mcdropout.engine.faults import refusing
from mcdropout.engine.findings import Finding, findings_of_sites
from mcdropout.engine.inputs import Bounds, Inputs, Shapes, as_axis, dimensions_of
from mcdropout.engine.kinds import CHANNEL, ELEMENT
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.onnx.added import with_added
from mcdropout.engine.onnx.branches import branches_inlined
from mcdropout.engine.onnx.cut.cost import cost_of
from mcdropout.engine.onnx.cut.split import CannotSplitError, Cut, split
from mcdropout.engine.onnx.dataflow import DRAWS, Dataflow, every_node, from_model, is_op, key, pruned
from mcdropout.engine.onnx.eager import GraphRuntime, session_of, session_of_file
from mcdropout.engine.onnx.find.draws import Draw, check_ratios, nested, paths
from mcdropout.engine.onnx.find.dropout import Found, find_draws, site_of
from mcdropout.engine.onnx.find.ends import EndNode, can_be_left_out, ends_of, is_linear, without_ends
from mcdropout.engine.onnx.inference import batch_norm_in_inference, modes_apart, silenced
from mcdropout.engine.onnx.mask import Masked, substituted
from mcdropout.engine.onnx.measuring import Probe, Value, measure, with_varying
from mcdropout.engine.onnx.mixing import compared, mixers
from mcdropout.engine.onnx.read.batches import for_any_rows
from mcdropout.engine.onnx.read.binding import Bound, bind
from mcdropout.engine.onnx.read.file import read_model
from mcdropout.engine.program import Cost, Graph, Graphs, Outline
from mcdropout.engine.reading import Entries, Entry, Reading, in_entries
from mcdropout.engine.returned import Returned
from mcdropout.engine.runtimes import Form, Refusal, Runnable, Runtime, Target
from mcdropout.engine.selection import Selection, select, site_off
from mcdropout.engine.settling import Evidence, reads_below
from mcdropout.engine.sites import Site, SiteOff
from mcdropout.engine.sizes import Dimension, Sizes, Sizing, check_extents, extents_of, told
from mcdropout.engine.stages import begin
from mcdropout.engine.subject import EXAMPLE_ROWS
from mcdropout.engine.trials import Trial, steady, varied
from mcdropout.engine.verify import (
    HALF_TOLERANCE,
    PROGRAM_TOLERANCE,
    run_pairs,
    telling_passes,
    tried,
    tried_beside_equal_rows,
)

_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_NO_DROPOUT = (
    "the graph has no dropout to switch on; exporters leave it out of a model in inference mode. From PyTorch: "
    "model.train() before torch.onnx.export(model, inputs, path, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)), or, "
    "which keeps dropout of attention too, the same with dynamo=False, training=torch.onnx.TrainingMode.PRESERVE, "
    "do_constant_folding=False and dynamic_axes; batch normalization is brought back into inference here. Or serve the "
    "PyTorch module itself. From Keras: call the Dropout layers with training=True. What an exporter left out can also "
    "be put back behind nodes of the graph (`dropout: add:`), and added so to a network that was trained without any, "
    "such as a multi-layer perceptron of scikit-learn"
)
_IDLE = "it does not reach the output"


@dataclass(frozen=True)
class _Understood:
    """What `understand` finds out.

    Attributes:
        bound: the graph as the engine feeds it, and what feeds it.
        found: the graph, and what it draws.
        masked: what takes a mask.
        off: what does not.
        values: what is known of the values of the graph with nothing dropped.
        normalized: batch normalizations that were in training form.
        ends: nodes that make probabilities of logits, by the outputs of the file.
        below: whether the graph gives what these take.
        as_it_is: whether the file itself is in inference mode.
        path: the file.
        digest: of it.
        sizing: which sizes of the inputs may differ; None where none may.
        given: the graph as the file has it, with its dropout off; None where numbers drawn otherwise are in it.
    """

    bound: Bound
    found: Found
    masked: tuple[Masked, ...]
    off: tuple[SiteOff, ...]
    values: Mapping[str, Value]
    normalized: tuple[str, ...]
    ends: Mapping[str, EndNode]
    below: bool
    as_it_is: bool
    path: Path
    digest: str
    sizing: Sizing | None
    given: Dataflow | None


class GraphSubject:
    """An ONNX model whose randomness is known: a `Subject`.

    Attributes:
        flow: `f(*inputs, *masks)`.
        ends: the names of the nodes that make outputs of the file probabilities.
    """

    advice: str | None = None

    def __init__(self, understood: _Understood) -> None:
        """`understand` makes one."""
        found, types = understood.found, understood.found.types
        self._is = understood
        self.sites: tuple[Site, ...] = tuple(one.site for one in understood.masked)
        self.ends = tuple(node.name for node in understood.ends.values())
        self.evidence = _evidence(understood)
        self.off, self.inputs, self.arrays = understood.off, understood.bound.specs, understood.bound.arrays
        self.sizing = understood.sizing
        self.flow = substituted(found.flow, found.draws, understood.masked, types)
        self._quiet = substituted(found.flow, found.draws, (), types)
        self.eager: Runtime = GraphRuntime(self.flow)
        self.plain: Runtime = GraphRuntime(self._quiet) if any(site.raw for site in self.sites) else self.eager
        self.mixes, self.mixers = False, mixers(self.flow)
        half = any(value.type in _HALVES for value in understood.values.values())
        self.tolerance = HALF_TOLERANCE if half else PROGRAM_TOLERANCE
        self.trials, self._mixed = self._tried()

    def at(self, sizes: Sizes) -> "GraphSubject":
        """The same graph with examples of other sizes; of no use but to be compared with."""
        assert self.sizing is not None
        other = copy.copy(self)
        other.arrays = self.sizing.examples_at(self.arrays, sizes)
        other.sites = self.sizing.sites_at(self.sites, sizes)
        return other

    def _tried(self) -> tuple[tuple[Trial, ...], tuple[Check, ...]]:
        """What the graph answers to variants of the examples, and those of them in which rows influence one another."""
        source, rows = MaskSource(self.sites), len(self.arrays[0])

        def run(inputs: tuple[Array, ...]) -> tuple[Array, ...]:
            masks = source.keep_everything(len(inputs[0])) if self.plain is self.eager else []
            return run_pairs(self.plain, inputs, masks)

        like, number = run(self.arrays), telling_passes(source, rows)[-1]
        variants = [
            each
            for each in varied(
                self.arrays, missing=[spec.missing for spec in self.inputs], compared=compared(self.flow)
            )
            if steady(run, each.inputs, like, self.tolerance)
        ]
        trials, mixed = [], []
        for variant in variants:
            try:
                trial, alike = tried(self.eager, source, variant, number, self.tolerance)
            except Exception:  # whatever ONNX Runtime raises: a request that brings such rows gets an error
                continue
            trials += [trial] if alike.passed else []
            mixed += [] if alike.passed else [alike]
        with suppress(Exception):  # as above
            beside = tried_beside_equal_rows(self.eager, source, self.arrays, self.tolerance)
            mixed += [] if beside.passed else [beside]
        return tuple(trials), tuple(mixed)

    def eval_outputs(self, arrays: tuple[Array, ...] | None = None) -> tuple[Array, ...]:
        """What the file itself answers, where it is in inference mode; else its graph with nothing dropped."""
        arrays = self.arrays if arrays is None else arrays
        if self._is.as_it_is:
            return _run_file(self._is.path, self._is.bound, arrays)
        if self._is.given is None:
            return session_of(self._quiet).run(arrays)
        return _in_batches(session_of(self._is.given).run, self._is.bound, arrays)

    def returned(self) -> Returned:
        answers = session_of(self._quiet).run(self.arrays)
        shapes = {name: x.shape for name, x in zip(self._is.bound.outputs, answers, strict=True)}
        names = self._is.bound.file_outputs
        return Returned("output", tuple((name, shapes.get(name, "left out")) for name in names))

    def own_checks(self) -> list[Check]:
        """Whether the file is the one that was read, and what of it was brought into inference form."""
        still = _digest(self._is.path) == self._is.digest
        detail = ", ".join(self._is.normalized)
        return [
            *self._mixed,
            Check("the file did not change", still, f"SHA-256 {self._is.digest[:12]}"),
            Check(
                "batch normalization is in inference form",
                True,
                f"it was not in the file: {detail}" if detail else "it was in the file, or there is none",
            ),
        ]

    def findings(self) -> tuple[list[Finding], str | None]:
        """What its list of sites shows; further advice comes of a PyTorch network's modules."""
        found = findings_of_sites(self.sites, self.off)
        return found, "the flow of data is looked at in PyTorch networks, not in ONNX models"

    def programs(self, target: Target) -> Iterator[Runnable | Refusal]:
        """As `Subject` says; raises UnsupportedModelError where only PyTorch is to run it."""
        return self._programs(self.flow, self.sites, target)

    def baseline_programs(self, target: Target) -> Iterator[Runnable | Refusal]:
        return self._programs(self._quiet, (), target)

    def _programs(self, flow: Dataflow, sites: Sequence[Site], target: Target) -> Iterator[Runnable | Refusal]:
        if target.device != "cpu" or not target.forms & {Form.GRAPHS, Form.EAGER}:
            raise UnsupportedModelError(
                f'an ONNX model runs on ONNX Runtime, not on the runtime "{target.runtime}" of the device '
                f'"{target.device}"; a provider such as "cuda" makes it run on a GPU'
            )
        values = self._is.values
        cut = partial(split, flow, len(self.inputs), values)
        if Form.GRAPHS in target.forms:
            for strategy, program in _cuts(cut):
                if isinstance(program, CannotSplitError):
                    yield Refusal(f"{strategy} program: {program}")
                    continue
                graphs = cache(partial(_written, program, sites))
                yield Runnable(strategy, program.outline, partial(cost_of, program, values), {Form.GRAPHS: graphs})
        if Form.EAGER in target.forms:
            cost = partial(_cost_of_whole, cut, values)
            yield Runnable("whole", Outline(), cost, {Form.EAGER: lambda: lambda _device: GraphRuntime(flow)})


def _written(program: Cut, sites: Sequence[Site]) -> Graphs:
    return program.halves().write(sites)


def _cost_of_whole(cut: "partial[Cut]", values: Mapping[str, Value]) -> Cost:
    try:
        return cost_of(cut(whole=True), values)
    except CannotSplitError:
        return Cost(0, 0)


def _cuts(cut: "partial[Cut]") -> Iterator[tuple[str, Cut | CannotSplitError]]:
    """The programs that a graph can be cut into, that with the most in its prefix first, or why it cannot."""
    try:
        first = cut()
        yield "split", first
        if any(value.merged for value in first.outline.frontier):
            yield "split", cut(merged=False)
    except CannotSplitError as error:
        yield "split", error
    try:
        yield "whole", cut(whole=True)
    except CannotSplitError as error:
        yield "whole", error


def understand(
    path: Path,
    example_inputs: Inputs,
    *,
    row_axis: int | Sequence[int] | Mapping[str, int] = 0,
    output: Entries = None,
    output_row_axis: int = 0,
    missing: bool = False,
    selection: Selection | None = None,
    reading: Reading | None = None,
    shapes: Shapes | None = None,
    sizes: Bounds | None = None,
) -> GraphSubject:
    """Find out what an ONNX model takes and what in it is random.

    Args:
        path: the file; large tensors may lie in others of its folder.
        example_inputs: rows to try it on: one input, a tuple by position, or a mapping by the graph's names.
        row_axis: the dimension that holds the rows in each input; one for all, or by position or name.
        output: the outputs that count, by name or position; all where not given.
        output_row_axis: the dimension that holds the rows in what comes out.
        missing: whether inputs may hold NaN, for what is missing.
        selection: which sites are on, by patterns of node names, and with which p; all where not given.
        reading: what its outputs are to mean, as far as that is given; where it leaves open whether they are logits,
            what a softmax or sigmoid at the end takes is read instead of what it makes.
        shapes, sizes: which sizes of the inputs differ from row to row, and which are accepted.

    Raises:
        UnsupportedModelError: it cannot be read, nothing in it is random, or what is cannot be replaced by masks.
        InvalidInputError: the examples, the outputs or the selection do not fit it.
    """
    with refusing(f"{path.name} cannot be understood"):  # whatever a graph that contradicts itself leads to
        entries = in_entries(output)[0]
        dimensions = dimensions_of(example_inputs, shapes, sizes)
        return _find_out(
            path,
            example_inputs,
            row_axis,
            entries,
            output_row_axis,
            selection or Selection(),
            reading,
            dimensions,
            missing,
        )


def _find_out(
    path: Path,
    example_inputs: Inputs,
    row_axis: int | Sequence[int] | Mapping[str, int],
    outputs: Sequence[Entry] | None,
    output_row_axis: int,
    selection: Selection,
    reading: Reading | None,
    dimensions: Sequence[tuple[Dimension, ...]] | None,
    missing: bool,
) -> GraphSubject:
    begin("finding what is random in it")
    digest = _digest(path)
    model = read_model(path)
    declared = {value.name: value for value in (*model.graph.input, *model.graph.output)}
    flow = from_model(model)
    check_ratios(flow)
    as_it_is = not _draws(flow)
    axis = as_axis("output_row_axis", output_row_axis)
    bound = bind(modes_apart(flow), declared, example_inputs, row_axis, outputs, axis, dimensions, missing)
    ends = ends_of(bound.flow)
    below = len(ends) == len(bound.flow.outputs) == 1 and all(
        can_be_left_out(node.end) and reads_below(reading, node.end) for node in ends.values()
    )
    flow, normalized = batch_norm_in_inference(without_ends(bound.flow) if below else bound.flow)
    dead = _dead(flow)
    with_rows_open = for_any_rows(pruned(flow), bound.arrays)
    given = flow if bound.batch else with_rows_open
    flow, following = branches_inlined(with_rows_open, bound.arrays, bound.sizing)
    inside = nested(flow, _told_following(following, bound.sizing))
    added = with_added(silenced(flow, within=True), selection.added, bound.arrays)
    found = find_draws(added.flow, bound.arrays, bound.sizing, added.kinds)
    on, off = select(selection, found.draws, drawing={*inside, *dead})
    for name, outer in inside.items():
        if selection.takes(name):
            raise UnsupportedModelError(
                f"{name} (Dropout) is within {outer}, where one mask cannot stand for what it draws; a model exported "
                "without loops and branches around its dropout is accepted, or a selection that excludes it"
            )
    off += [SiteOff(name, 0, ELEMENT, None, _IDLE) for name in dead]
    off += [site_off(draw, _IDLE) for draw in on if draw.node in found.idle]
    on = [draw for draw in on if draw.node not in found.idle]
    if not on:
        raise NoDropoutError(_nothing_to_switch_on(off))
    probe = Probe(substituted(found.flow, found.draws, (), found.types))
    values = measure(probe, bound.arrays)
    sites = tuple(_site(draw, found, values, bound.batch) for draw in on)
    masked = tuple(Masked(site, draw) for site, draw in zip(sites, on, strict=True))
    sizing = bound.sizing
    if sizing is not None:
        known = sizing

        def look(sizes: dict[str, int]) -> Sequence[Site]:
            with refusing(f"the graph does not run at {told(sizes)}", "sizes at which it does are accepted"):
                there = measure(probe, known.examples_at(bound.arrays, sizes))
            return [_site(draw, found, there, bound.batch) for draw in on]

        sizing = replace(sizing, extents=extents_of(sizing, sites, look))
        check_extents(sizing, sites, look)
        for sizes in (sizing.unlike(), *following.values()):
            values = with_varying(values, measure(probe, sizing.examples_at(bound.arrays, sizes)))
        masked = tuple(
            replace(one, varying=tuple(bool(extent.growths) for extent in extents))
            for one, extents in zip(masked, sizing.extents, strict=True)
        )
    given_anew = set(bound.names) & {value.name for value in model.graph.initializer}
    as_it_is = as_it_is and not normalized and not given_anew and not below
    return GraphSubject(
        _Understood(
            bound,
            found,
            masked,
            tuple(off),
            values,
            normalized,
            ends,
            below,
            as_it_is,
            path,
            digest,
            sizing,
            None if any(is_op(node, *DRAWS) for node in every_node(given.nodes)) else silenced(given),
        )
    )


def _told_following(following: Collection[str], sizing: Sizing | None) -> dict[str, str]:
    names = " or ".join(str(x) for x in sizing.dimensions) if sizing else "the number of rows"
    return dict.fromkeys(following, f", which follows {names}")


def _evidence(understood: _Understood) -> Evidence:
    """What the graph says of its one output."""
    outputs = understood.bound.flow.outputs
    if len(outputs) != 1:
        return Evidence()
    if len(understood.ends) != 1:
        return Evidence(linear=is_linear(outputs[0], understood.bound.flow))
    (node,) = understood.ends.values()
    return Evidence(node.end, node.axis, understood.below)


def _draws(flow: Dataflow) -> bool:
    """Whether a graph draws, run as it is, or uses what it says of a draw that is off; where not known, it may."""
    nodes, used = list(every_node(flow.nodes)), {*flow.consumers, *flow.outputs}
    if any(is_op(node, "Dropout") and any(name in used for name in node.output[1:]) for node in nodes):
        return True  # ONNX Runtime says of older versions in inference that nothing is kept
    modes = [node.input[2] for node in nodes if is_op(node, "Dropout") and len(node.input) > 2 and node.input[2]]
    weights = [flow.weights.get(name) for name in modes]
    return any(is_op(node, *DRAWS) for node in nodes) or any(
        weight is None or numpy_helper.to_array(weight).any() for weight in weights
    )


def _dead(flow: Dataflow) -> list[str]:
    """The names of `Dropout` nodes that no output needs."""
    called, needed = paths(flow), {key(node) for node in pruned(flow).nodes}
    return [called[key(node)] for node in flow.nodes if is_op(node, "Dropout") and key(node) not in needed]


def _site(draw: Draw, found: Found, values: Mapping[str, Value], batch: int | None) -> Site:
    layout = values[draw.shaped].layout
    if batch == 1 and layout.axis is None:
        # A file for one row at a time says of a draw for that row what it says of one for all rows.
        for node in found.flow.consumers[draw.shaped]:
            whole = values[key(node)].layout
            axis = whole.axis
            if (
                whole.times == 1
                and axis is not None
                and len(whole.shape) == len(layout.shape)
                and layout.shape[axis] == 1
            ):
                shape = (*layout.shape[:axis], EXAMPLE_ROWS, *layout.shape[axis + 1 :])
                own = replace(draw, kind=ELEMENT) if draw.kind == CHANNEL and shape == whole.shape else draw
                return site_of(own, Layout(shape, axis))
    return site_of(draw, layout)


def _run_file(path: Path, bound: Bound, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """The answers of a file to inputs `[EXAMPLE_ROWS, ...]`."""
    session = session_of_file(Graph(path, bound.names))

    def run(rows: tuple[Array, ...]) -> tuple[Array, ...]:
        fed = (np.moveaxis(x, 0, axis) for x, axis in zip(rows, bound.axes, strict=True))
        given = dict(zip(bound.file_outputs, session.run(tuple(map(np.ascontiguousarray, fed))), strict=True))
        return tuple(np.moveaxis(given[name], bound.output_row_axis, 0) for name in bound.outputs)

    return _in_batches(run, bound, arrays)


def _in_batches(
    run: Callable[[tuple[Array, ...]], tuple[Array, ...]], bound: Bound, arrays: tuple[Array, ...]
) -> tuple[Array, ...]:
    """The answers to inputs `[EXAMPLE_ROWS, ...]`, in batches of as many rows as a file takes."""
    batch = bound.batch or EXAMPLE_ROWS
    answers = [run(tuple(with_rows(x[first:], batch) for x in arrays)) for first in range(0, EXAMPLE_ROWS, batch)]
    return tuple(np.concatenate(parts)[:EXAMPLE_ROWS] for parts in zip(*answers, strict=True))


def _nothing_to_switch_on(off: Sequence[SiteOff]) -> str:
    if not off:
        return _NO_DROPOUT
    seen = "; ".join(f"{site.name}: {site.reason}" for site in off)
    return (
        f"the graph has no dropout to switch on (seen: {seen}); Monte Carlo dropout needs at least one with p above 0 "
        "on the way from input to output"
    )


def _digest(path: Path) -> str:
    if not path.is_file():
        raise UnsupportedModelError(f"{path} is no file; an ONNX model would be accepted")
    return digest_of(path)
