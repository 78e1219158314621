"""PyTorch networks as subjects of preparation."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import nn
from torch.export import ExportedProgram

from mcdropout.engine.arrays import Array
from mcdropout.engine.checks import Check
from mcdropout.engine.errors import InvalidInputError, first_line
from mcdropout.engine.faults import refusing
from mcdropout.engine.findings import Finding, findings_of_sites
from mcdropout.engine.inputs import (
    Entry,
    Inputs,
    InputSpec,
    as_axis,
    as_entries,
    as_examples,
    as_tuple,
    is_bfloat16,
    row_axes,
)
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.pytorch.cut.export import export
from mcdropout.engine.pytorch.cut.forms import programs
from mcdropout.engine.pytorch.eager import EagerRuntime
from mcdropout.engine.pytorch.find.discovery import discover
from mcdropout.engine.pytorch.find.findings import findings_of_graph
from mcdropout.engine.pytorch.network import Network, copy_of
from mcdropout.engine.pytorch.saved.programs import with_its_code
from mcdropout.engine.pytorch.signature import Signature
from mcdropout.engine.runtimes import Refusal, Runnable, Runtime, Target
from mcdropout.engine.runtimes.tensors import to_array
from mcdropout.engine.selection import Selection
from mcdropout.engine.sites import SiteOff
from mcdropout.engine.subject import EXAMPLE_ROWS
from mcdropout.engine.verify import (
    EVAL_TOLERANCE,
    HALF_TOLERANCE,
    PROGRAM_TOLERANCE,
    close,
    each_alone,
    run_pairs,
    telling_masks,
)


class ModuleSubject:
    """A PyTorch network whose randomness is known: a `Subject`.

    Attributes:
        network: the masked copy.
    """

    def __init__(
        self, network: Network, off: tuple[SiteOff, ...], inputs: tuple[InputSpec, ...], arrays: tuple[Array, ...]
    ) -> None:
        """`understand` makes one."""
        self.network = network
        self.sites, self.off, self.inputs, self.arrays = network.sites, off, inputs, arrays
        self.source = MaskSource(network.sites)
        self.eager: Runtime = EagerRuntime(network)
        rows = len(arrays[0])
        kept = self.source.keep_everything(rows)
        has_rows = all(out.ndim and len(out) == rows for out in run_pairs(self.eager, arrays, kept))
        if has_rows and (_scales_by_batch(network) or dropout_mixes_rows(network, self.eager, self.source, arrays)):
            network.alone = True
            run_pairs(self.eager, arrays, kept)  # finds out whether it can be mapped
        self._baseline = network.baseline() if network.has_raw_sites else None
        self.plain: Runtime = self.eager if self._baseline is None else EagerRuntime(self._baseline)
        padded = [path for path, part in network.origin.named_modules() if getattr(part, "use_nested_tensor", False)]
        self.advice = (
            f"{padded[0] or 'the network'} writes 0 at padded places in eval mode; enable_nested_tensor=False mends it"
            if padded
            else None
        )
        self._state = {name: value.clone() for name, value in _state_of(network.origin).items()}
        half = any(value.dtype in (torch.float16, torch.bfloat16) for value in self._state.values())
        self.tolerance = HALF_TOLERANCE if half else PROGRAM_TOLERANCE

    def eval_outputs(self) -> tuple[Array, ...]:
        """`module.eval()(arrays)`."""
        return tuple(map(to_array, self.network.eval_outputs(self._tensors)))

    def own_checks(self) -> list[Check]:
        """Whether its modules are in the modes that they ought to be in, and nothing in it has moved."""
        origin, masked = self.network.origin, _state_of(self.network.module)
        moved = [name for name, value in _state_of(origin).items() if not torch.equal(value, self._state[name])]
        as_copied = copy_of(origin)
        as_copied.eval()
        copied = _state_of(as_copied).items()
        moved += [name for name, value in copied if not torch.equal(value.cpu(), masked[name].cpu())]
        if moved:
            made_anew = self._made_anew()
            moved = [name for name in moved if name not in made_anew]
        still = Check("no parameter and no buffer moved by a bit", not moved, f"moved: {', '.join(moved) or 'none'}")
        return [_stayed_in_eval(self.network), still]

    def _made_anew(self) -> set[str]:
        """The names of tensors that each pass puts in the place of the last one's, whatever those were.

        So do wrappers that drop weights. A counter may be a new tensor each time too, but not the same after
        many passes as after the first.
        """
        network = self._baseline or self.network
        fresh = network.copy()
        kept = [] if self._baseline else self.source.keep_everything(len(self.arrays[0]))
        before = _tensors_of(network.module)
        for one in (network, fresh):
            run_pairs(EagerRuntime(one), self.arrays, kept)
        after, first = _tensors_of(network.module), _tensors_of(fresh.module)
        return {
            name
            for name, value in after.items()
            if name in first and value is not before.get(name) and torch.equal(value, first[name])
        }

    def programs(self, target: Target) -> Iterator[Runnable | Refusal]:
        return programs(self.network, self.source, self._tensors, target)

    def baseline_programs(self, target: Target) -> Iterator[Runnable | Refusal]:
        assert self._baseline is not None
        return programs(self._baseline, MaskSource(()), self._tensors, target)

    def findings(self) -> tuple[list[Finding], str | None]:
        found = findings_of_sites(self.sites, self.off)
        if self.network.alone:
            return found, "its dropout mixes rows"
        try:
            graph = export(self.network, self._tensors, self.source)
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
    outputs: Entry | Sequence[Entry] | None = None,
    output_row_axis: int = 0,
    missing: bool = False,
    selection: Selection | None = None,
) -> ModuleSubject:
    """Find out what a network takes and what in it is random; arguments and errors as for `Engine.from_module`."""
    axes = row_axes(example_inputs, row_axis)
    arrays = as_examples(example_inputs, axes, EXAMPLE_ROWS)
    names = tuple(example_inputs) if isinstance(example_inputs, Mapping) else None
    tensors = [torch.from_numpy(x) for x in arrays]
    halves = frozenset(index for index, x in enumerate(as_tuple(example_inputs)) if is_bfloat16(x))
    entries, output_axis = as_entries(outputs), as_axis("output_row_axis", output_row_axis)
    signature = Signature(names, axes, entries, output_axis, halves=halves)
    network = with_its_code(module, tensors, signature)
    if not isinstance(network, nn.Module):
        raise InvalidInputError(f"the network is a {type(module).__name__}; a torch.nn.Module is accepted")
    found = discover(network, tensors, signature, selection)
    specs = tuple(
        InputSpec(x.shape[1:], x.dtype, names[index] if names else None, axes[index], missing)
        for index, x in enumerate(arrays)
    )
    return ModuleSubject(found.network, found.off, specs, arrays)


def _state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a module's state, which may hold other things too."""
    return {name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}


def _tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name."""
    parameters = module.named_parameters(remove_duplicate=False)
    return {**dict(parameters), **dict(module.named_buffers(remove_duplicate=False))}


def _scales_by_batch(network: Network) -> bool:
    """Whether layers quantize what they are given by its extremes, so that a row changes with those beside it."""
    return any(type(part).__module__.startswith("torch.ao.nn.quantized.dynamic") for part in network.module.modules())


def dropout_mixes_rows(network: Network, eager: Runtime, source: MaskSource, inputs: tuple[Array, ...]) -> bool:
    """Whether a row's outputs change with the rows beside it under masks, but not in eval mode.

    So they do where a dropout is scaled by what it left of the whole batch. Each row then has an answer of its own when
    it is run alone. Where eval mode mixes rows too, none has, and the checks will say so.
    """
    rows = len(inputs[0])
    for masks in telling_masks(source, rows):
        together = run_pairs(eager, inputs, masks)
        if not close("", each_alone(eager, source, inputs, masks), together, PROGRAM_TOLERANCE).passed:
            break
    else:
        return False
    tensors = [torch.from_numpy(x) for x in inputs]
    single = [network.eval_outputs([x[row : row + 1] for x in tensors]) for row in range(rows)]
    alone = tuple(to_array(torch.cat(outputs)) for outputs in zip(*single, strict=True))
    beside = tuple(map(to_array, network.eval_outputs(tensors)))
    return close("", alone, beside, EVAL_TOLERANCE).passed


def _stayed_in_eval(network: Network) -> Check:
    training = {path for path, part in network.module.named_modules() if part.training}
    astray, silent = training - network.awake, network.awake - training
    detail = f"out of eval mode: {_listed(training)}"
    if astray:
        detail = f"out of eval mode without a site: {_listed(astray)}"
    if silent:
        detail = f"in eval mode, where their dropout calls are gone: {_listed(silent)}"
    return Check("modules without a site stay in eval mode", not astray and not silent, detail)


def _listed(paths: Iterable[str]) -> str:
    return ", ".join(sorted(path or "(network)" for path in paths)) or "none"
