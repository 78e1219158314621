"""PyTorch networks as subjects of preparation."""

import copy
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram

from mcdropout.engine.arrays import Array, with_rows
from mcdropout.engine.checks import Check
from mcdropout.engine.errors import InvalidInputError, UnevenRowsError, UnsupportedModelError, first_line
from mcdropout.engine.faults import refusing
from mcdropout.engine.findings import Finding, findings_of_sites
from mcdropout.engine.inputs import (
    Bounds,
    Inputs,
    InputSpec,
    Shapes,
    as_axis,
    as_examples,
    as_tuple,
    check_finite,
    dimensions_of,
    is_bfloat16,
    row_axes,
)
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.nesting import flattened
from mcdropout.engine.pytorch.blame import mixers, movers
from mcdropout.engine.pytorch.cut.export import export
from mcdropout.engine.pytorch.cut.forms import programs
from mcdropout.engine.pytorch.eager import EagerRuntime
from mcdropout.engine.pytorch.ends import Ending
from mcdropout.engine.pytorch.find.apart import discover_apart, padding_of
from mcdropout.engine.pytorch.find.findings import findings_of_graph
from mcdropout.engine.pytorch.find.unpadding import discover_in_examples
from mcdropout.engine.pytorch.mixing import alike_do_not_mix, batch_passes, look, rows_mix, scales_by_batch
from mcdropout.engine.pytorch.network import InEval, Network, state_of
from mcdropout.engine.pytorch.private.copies import private_copy
from mcdropout.engine.pytorch.saved.programs import with_its_code
from mcdropout.engine.pytorch.signature import Signature
from mcdropout.engine.pytorch.tracked import in_eval_mode
from mcdropout.engine.reading import Entries, Reading, in_entries
from mcdropout.engine.returned import Returned
from mcdropout.engine.runtimes import Refusal, Runnable, Runtime, Target
from mcdropout.engine.runtimes.protocol import runtime_at
from mcdropout.engine.runtimes.tensors import to_array
from mcdropout.engine.selection import Selection
from mcdropout.engine.settling import Evidence, reads_below
from mcdropout.engine.sites import Site, SiteOff
from mcdropout.engine.sizes import Extent, Sizes, Sizing, check_extents, extents_of, sizing_of, told
from mcdropout.engine.stages import begin
from mcdropout.engine.subject import EXAMPLE_ROWS
from mcdropout.engine.trials import Trial, Variant, steady, varied
from mcdropout.engine.verify import (
    check_network,
    close,
    dropping_often,
    run_pairs,
    telling_masks,
    telling_passes,
    tried,
    tried_beside_equal_rows,
)

_MANY_PASSES, _MOST_SECONDS = 256, 1.0  # run of a network that draws numbers itself
_SEED = 20160619


class ModuleSubject:
    """A PyTorch network whose randomness is known: a `Subject`.

    Attributes:
        network: the masked copy.
    """

    def __init__(
        self,
        network: Network,
        off: tuple[SiteOff, ...],
        inputs: tuple[InputSpec, ...],
        arrays: tuple[Array, ...],
        reading: Reading | None,
        sizing: Sizing | None = None,
        given: tuple[Array, ...] | None = None,
        uneven: UnevenRowsError | None = None,
    ) -> None:
        """`understand` makes one.

        Args:
            given: the examples that were given, where others stand for them in `arrays`.
            uneven: why they do; raised where rows that the network takes are not answered all the same.
        """
        self.network, self.sizing = network, sizing
        self.evidence = _leave_out_the_ending(network, arrays, reading)
        self.sites, self.off, self.inputs, self.arrays = network.sites, off, inputs, arrays
        self.source = MaskSource(network.sites)
        self.eager: Runtime = EagerRuntime(network)
        self._baseline = network.baseline() if network.has_raw_sites else None
        self.plain: Runtime = self.eager if self._baseline is None else EagerRuntime(self._baseline)
        self._state = {name: value.clone() for name, value in state_of(network.origin).items()}
        self.tolerance = network.tolerance
        self.mixes = False
        self._unlike_eval_mode: Check | None = None
        self.trials = self._tried(given, uneven)
        self._draw_often()
        self.mixers = mixers(network.origin)
        padded = [path for path, part in network.origin.named_modules() if getattr(part, "use_nested_tensor", False)]
        self.advice = (
            f"{padded[0] or 'the network'} writes 0 at padded places in eval mode; enable_nested_tensor=False mends it"
            if padded
            else None
        )

    def at(self, sizes: Sizes) -> "ModuleSubject":
        """The same network with examples of other sizes; of no use but to be compared with."""
        assert self.sizing is not None
        other = copy.copy(self)
        other.arrays = self.sizing.examples_at(self.arrays, sizes)
        other.sites = self.sizing.sites_at(self.sites, sizes)
        other.source = MaskSource(other.sites)
        other.network = self.network.at(other.sites)
        other.eager = runtime_at(self.eager, other.sites)
        if self.plain is self.eager:
            other.plain = other.eager
        return other

    def _tried(self, given: tuple[Array, ...] | None, uneven: UnevenRowsError | None) -> tuple[Trial, ...]:
        """What it answers to variants of the examples, and to those that were given.

        From then on every row is run by itself, where rows mix in some, or can be given masks only so.
        """
        begin("trying rows unlike the examples")
        rows = len(self.arrays[0])
        kept = self.source.keep_everything(rows)
        like = run_pairs(self.eager, self.arrays, kept)
        if not all(out.ndim and len(out) == rows for out in like):
            return ()
        if scales_by_batch(self.network):
            self._run_alone(True)
            return ()
        mixes = rows_mix(self.network, self.eager, self.source, self.arrays)
        looks = look(self.network, self.arrays, kept)
        goes_by_rows = looks.taken or looks.packed or looks.compared
        if mixes == "always" and not (goes_by_rows and alike_do_not_mix(self.network, self.arrays, looks.compared)):
            self.mixes = True
            return ()
        missing = [spec.missing for spec in self.inputs]
        possible = varied(self.arrays, padding_of(self.network.origin), missing, looks.compared)
        variants = [each for each in possible if self._takes(each, like)]
        if given is not None:
            variants.insert(0, Variant("the examples that were given", given, ordinary=True))
        number = telling_passes(self.source, rows)[-1]
        found = [self._try(each, number) for each in variants]
        mix = mixes is not None or looks.taken or any(not alike.passed for _, alike in filter(None, found))
        mix = mix or self._equal_rows_mix()
        if mix or None in found:
            self._run_alone(True)
            by_itself = [self._try(each, number) for each in variants]
            if mix or by_itself.count(None) < found.count(None):
                found = by_itself
            else:  # no row is answered that was not before
                self._run_alone(False)
        if uneven is not None and None in found:
            raise uneven
        for variant, trial in zip(variants, found, strict=True):
            if variant.ordinary and trial is None:  # raises what every second request would meet
                tried(self.eager, self.source, variant, number, self.tolerance)
        trials = tuple(trial for trial, _ in filter(None, found))
        in_eval = self.network.in_eval() if trials else None
        checks = filter(None, (self._check_in_eval_mode(trial, in_eval) for trial in trials))
        self._unlike_eval_mode = next((check for check in checks if not check.passed), None)
        return trials

    def _equal_rows_mix(self) -> bool:
        """Whether passes of one row would influence one another in a batch; those that fail in one count as such."""
        if self.network.alone:
            return False
        try:
            return not tried_beside_equal_rows(self.eager, self.source, self.arrays, self.tolerance).passed
        except Exception:  # whatever the network's code raises of equal rows
            return True

    def _check_in_eval_mode(self, trial: Trial, in_eval: InEval | None) -> Check | None:
        """Whether nothing but dropout tells the network from its eval mode for some rows too.

        A path that it takes in eval mode alone may do otherwise for what the examples do not hold, such as padding.
        None where eval mode has no answer.
        """
        kept = self.source.baseline(len(trial.inputs[0]))
        try:
            rows = tuple(map(torch.from_numpy, trial.inputs))
            wanted = tuple(map(to_array, self.network.eval_outputs(rows, run=in_eval)))
            if not all(np.isfinite(out).all() for out in wanted):
                return None
            check = check_network(self.plain, kept, trial.inputs, wanted, self.tolerance)
        except Exception:  # whatever the network's code raises in eval mode
            return None
        return replace(check, detail=f"with {trial.name}: {check.detail}")

    def _draw_often(self) -> None:
        """Run many passes of a network that draws numbers itself, since those may decide how often it draws.

        So they do where what is out of bounds is drawn again. Such a network may seem to draw always as often.

        Raises:
            UnsupportedModelError: a pass makes a random call that the first ones did not.
        """
        if not any(site.raw for site in self.sites):
            return
        began, rows = time.perf_counter(), len(self.arrays[0])
        for masks in self.source.draw_each([_SEED] * rows, range(rows), 0, _MANY_PASSES):
            run_pairs(self.eager, self.arrays, masks)
            if time.perf_counter() - began > _MOST_SECONDS:
                break

    def _run_alone(self, alone: bool) -> None:
        """Run each row as a batch of its own from now on, or all together."""
        alone = alone or self.network.one_by_one
        for network in filter(None, (self.network, self._baseline)):
            network.alone = alone
        self.network.repeats, self.network.fan = 1, None
        if alone:
            self._map_if_possible()
            if not self.network.maps and self.source.shares_rows:
                batch_passes(self.network, self.source, self.arrays)

    def _map_if_possible(self) -> None:
        """Map over all rows that are run alone, where that can be done and answers as one after another."""
        self.network.maps = True
        rows = len(self.arrays[0])
        for source in (self.source, dropping_often(self.source)):
            for masks in telling_masks(source, rows):
                mapped = run_pairs(self.eager, self.arrays, masks)
                if not self.network.maps:  # it failed, and was not
                    return
                self.network.maps = False
                one_by_one = run_pairs(self.eager, self.arrays, masks)
                if not close("", mapped, one_by_one, self.tolerance).passed:
                    return
                self.network.maps = True

    def _takes(self, variant: Variant, like: tuple[Array, ...]) -> bool:
        """Whether the network itself answers some rows, with nothing dropped."""

        def run(inputs: tuple[Array, ...]) -> tuple[Array, ...]:
            masks = self.source.baseline(len(inputs[0]))
            try:
                return run_pairs(self.plain, inputs, masks)
            except UnsupportedModelError:  # it is the masks that do not fit
                return tuple(map(to_array, self.network.eval_outputs(tuple(map(torch.from_numpy, inputs)))))

        return steady(run, variant.inputs, like, self.tolerance)

    def _try(self, variant: Variant, number: int) -> tuple[Trial, Check] | None:
        """What the network answers to some rows, and whether it does so to each alone; None where it does not.

        A request that brings such rows then gets an error: the network's code does not take them one by one, or makes
        random calls for them that the examples did not show.
        """
        try:
            return tried(self.eager, self.source, variant, number, self.tolerance)
        except Exception:  # whatever the network's code raises of what its dropout left
            return None

    def eval_outputs(self, arrays: tuple[Array, ...] | None = None) -> tuple[Array, ...]:
        """`module.eval()(arrays)`."""
        if arrays is None:
            return tuple(map(to_array, self.network.eval_outputs(self._tensors)))
        return tuple(map(to_array, self.network.eval_outputs(tuple(map(torch.from_numpy, arrays)), run=self._in_eval)))

    @cached_property
    def _in_eval(self) -> InEval:
        """For rows that it may not take, which leave a copy in whatever state they do."""
        return self.network.in_eval()

    def returned(self) -> Returned:
        masks = self.source.keep_everything(len(self.arrays[0]))
        return self.network.returned(self._tensors, [torch.from_numpy(mask) for mask in masks])

    def own_checks(self) -> list[Check]:
        """Whether its modules are in the modes that they ought to be in, and nothing in it has moved.

        The first of the trials in which it is not what it is in eval mode is among them.
        """
        origin, masked = self.network.origin, self.network.copied.state()
        moved = [name for name, value in state_of(origin).items() if not torch.equal(value, self._state[name])]
        as_copied = private_copy(origin)
        in_eval_mode(as_copied)
        moved += [name for name, value in as_copied.state().items() if not torch.equal(value.cpu(), masked[name].cpu())]
        if moved:
            made_anew = self._made_anew()
            moved = [name for name in moved if name not in made_anew]
            moved = sorted(set(moved) - self._overwritten(moved))
        detail = "; ".join([f"moved: {', '.join(moved) or 'none'}", *movers(origin, moved)])
        still = Check("no parameter and no buffer moved by a bit", not moved, detail)
        unlike = self._unlike_eval_mode
        if unlike and self.advice:
            unlike = replace(unlike, detail=f"{unlike.detail}; {self.advice}")
        return [*filter(None, [unlike]), _stayed_in_eval(self.network), still]

    def _made_anew(self) -> set[str]:
        """The names of tensors that each pass puts in the place of the last one's, whatever those were.

        So do wrappers that drop weights. A counter may be a new tensor each time too, but not the same after
        many passes as after the first.
        """
        network = self._baseline or self.network
        fresh = network.copy()
        kept = self.source.baseline(len(self.arrays[0]))
        before = _tensors_of(network.module)
        for one in (network, fresh):
            run_pairs(EagerRuntime(one), self.arrays, kept)
        after, first = _tensors_of(network.module), _tensors_of(fresh.module)
        return {
            name
            for name, value in after.items()
            if name in first and value is not before.get(name) and torch.equal(value, first[name])
        }

    def _overwritten(self, names: Sequence[str]) -> set[str]:
        """Those of some tensors that each pass writes before it reads them, such as noise that is kept in a buffer.

        Whatever is in them beforehand, a pass then answers the same, and leaves the same in them.
        """
        found = set(names)
        for masks in telling_masks(self.source, len(self.arrays[0])) if found else ():
            networks = self.network.copy(), self.network.copy()
            with torch.no_grad():
                for name, value in _tensors_of(networks[1].module).items():
                    if name in found:
                        value.copy_(value.logical_not() if value.dtype == torch.bool else value + 1)
            answers = [run_pairs(EagerRuntime(network), self.arrays, masks) for network in networks]
            if not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(*answers, strict=True)):
                return set()
            one, other = (_tensors_of(network.module) for network in networks)
            found = {name for name in found if name in one and name in other and torch.equal(one[name], other[name])}
        return found

    def programs(self, target: Target) -> Iterator[Runnable | Refusal]:
        return programs(self.network, self.source, self._tensors, target, self.sizing)

    def baseline_programs(self, target: Target) -> Iterator[Runnable | Refusal]:
        assert self._baseline is not None
        sizing = self.sizing and replace(self.sizing, extents=())
        return programs(self._baseline, MaskSource(()), self._tensors, target, sizing)

    def findings(self) -> tuple[list[Finding], str | None]:
        found = findings_of_sites(self.sites, self.off)
        if self.network.one_by_one:
            return found, "it drops for each row by itself"
        if self.network.alone:
            return found, "its dropout mixes rows"
        try:
            graph = export(self.network, self._tensors, self.source, self.sizing)
        except Exception as error:  # whatever the exporter raises
            return found, f"torch.export cannot follow the network: {first_line(error)}"
        return found + findings_of_graph(graph, len(self.arrays), self.sites), None

    @property
    def _tensors(self) -> tuple[torch.Tensor, ...]:
        return tuple(map(torch.from_numpy, self.arrays))


@refusing("the network fails while what is random in it is looked for")
def understand(
    module: nn.Module | ExportedProgram,
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
    halves: Collection[int] = (),
) -> ModuleSubject:
    """Find out what a network takes and what in it is random; arguments and errors as for `Engine.from_module`.

    `halves` are the inputs, by position, that the network takes in bfloat16, beside those whose examples are of it.
    Where `reading` leaves open whether its outputs are logits, what a softmax or sigmoid at the end takes is read
    instead of what it makes.
    """
    example_inputs = flattened(example_inputs)
    axes = row_axes(example_inputs, row_axis)
    arrays = as_examples(example_inputs, axes, EXAMPLE_ROWS)
    check_finite(example_inputs, arrays, missing)
    dimensions = dimensions_of(example_inputs, shapes, sizes)
    sizing = None if dimensions is None else sizing_of(arrays, dimensions)
    if sizing is not None:
        arrays = sizing.examples_at(arrays, sizing.base)
    names = tuple(example_inputs) if isinstance(example_inputs, Mapping) else None
    tensors = [torch.from_numpy(x) for x in arrays]
    of_bfloat16 = {index for index, x in enumerate(as_tuple(example_inputs)) if is_bfloat16(x)}
    entries, output_axis = in_entries(output)[0], as_axis("output_row_axis", output_row_axis)
    signature = Signature(names, axes, entries, output_axis, halves=frozenset(of_bfloat16.union(halves)))
    network = with_its_code(module, tensors, signature, bare=bool(selection and selection.add))
    if not isinstance(network, nn.Module):
        raise InvalidInputError(f"the network is a {type(module).__name__}; a torch.nn.Module is accepted")
    told_shapes = [list(getattr(x, "shape", ())) or list(np.shape(x)) for x in as_tuple(example_inputs)]
    begin("finding what is random in it")
    found, rows, uneven = discover_in_examples(network, arrays, signature, selection, told_shapes)
    given = None if rows is arrays else arrays
    if sizing is not None:
        sizing = replace(sizing, extents=_extents(found.network, sizing, rows))
    specs = tuple(
        InputSpec(
            x.shape[1:] if sizing is None else sizing.shapes[index],
            x.dtype,
            names[index] if names else None,
            axes[index],
            missing,
        )
        for index, x in enumerate(arrays)
    )
    try:
        return ModuleSubject(found.network, found.off, specs, rows, reading, sizing, given, uneven)
    except UnsupportedModelError as error:
        if sizing is not None:
            raise
        try:
            apart, rows = discover_apart(network, arrays, signature, selection)
            return ModuleSubject(apart.network, apart.off, specs, rows, reading, None, arrays, uneven)
        except UnsupportedModelError:
            raise error from None


def _extents(network: Network, sizing: Sizing, arrays: tuple[Array, ...]) -> tuple[tuple[Extent, ...], ...]:
    """How the shapes of masks follow the sizes of the inputs, found by running the network at many of them."""

    def look(sizes: dict[str, int]) -> Sequence[Site]:
        tensors = [torch.from_numpy(x) for x in sizing.examples_at(arrays, sizes)]
        three, two = ([with_rows(x, rows) for x in tensors] for rows in (3, 2))
        with refusing(f"the network does not run at {told(sizes)}", "sizes at which it does are accepted"):
            return network.sites_like(three, two)

    begin("running it at the sizes that it is to take")
    extents = extents_of(sizing, network.sites, look)
    check_extents(replace(sizing, extents=extents), network.sites, look)
    return extents


def _leave_out_the_ending(network: Network, arrays: tuple[Array, ...], reading: Reading | None) -> Evidence:
    """See what makes a network's output, and have what that takes read instead, where that is right."""
    masks = MaskSource(network.sites).keep_everything(len(arrays[0]))
    tensors = [[torch.from_numpy(value) for value in values] for values in (arrays, masks)]
    ending, linear = network.find_ending(*tensors)
    names = network.returned(*tensors).names if network.signature.outputs is None else ()
    classes = _configured_classes(network.origin)
    if ending is None:
        return Evidence(linear=linear, classes=classes, names=names)
    below = reads_below(reading, ending.end) and _always_ends_so(network, ending, arrays)
    if below:
        network.signature = replace(network.signature, ending=ending)
    axis = None if network.signature.output_row_axis else ending.axis
    return Evidence(ending.end, axis, below, False, classes, names)


def _always_ends_so(network: Network, ending: Ending, arrays: tuple[Array, ...]) -> bool:
    """Whether varied rows, as far as the network takes them, come out of the same end."""
    for variant in varied(arrays, padding_of(network.origin)):
        masks = MaskSource(network.sites).keep_everything(len(variant.inputs[0]))
        tensors = [[torch.from_numpy(value) for value in values] for values in (variant.inputs, masks)]
        try:
            found, _ = network.find_ending(*tensors)
        except Exception:  # whatever it raises for rows that it does not take
            continue
        if found != ending:
            return False
    return True


def _tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name."""
    parameters = module.named_parameters(remove_duplicate=False)
    return {**dict(parameters), **dict(module.named_buffers(remove_duplicate=False))}


_UNSET_LABELS = 2  # what configurations of transformers say where nobody has said how many labels there are


def _configured_classes(module: nn.Module) -> tuple[int, ...]:
    """How many classes a network says that it has, or its configuration, as those of libraries do."""
    places = (module, getattr(module, "config", None))
    said = [getattr(place, "num_classes", None) for place in places]
    said += [count for place in places if (count := getattr(place, "num_labels", None)) != _UNSET_LABELS]
    return tuple(dict.fromkeys(count for count in said if type(count) is int))


def _stayed_in_eval(network: Network) -> Check:
    training = network.training
    astray, silent = training - network.awake, network.awake - training
    detail = f"out of eval mode: {_listed(training)}"
    if astray:
        detail = f"out of eval mode without a site: {_listed(astray)}"
    if silent:
        detail = f"in eval mode, where their dropout calls are gone: {_listed(silent)}"
    return Check("modules without a site stay in eval mode", not astray and not silent, detail)


def _listed(paths: Iterable[str]) -> str:
    return ", ".join(sorted(path or "(network)" for path in paths)) or "none"
