"""PyTorch networks as subjects of preparation."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from mcdropout.engine.arrays import Array
from mcdropout.engine.checks import Check
from mcdropout.engine.errors import first_line
from mcdropout.engine.findings import Finding, findings_of_sites
from mcdropout.engine.inputs import Entry, Inputs, InputSpec, as_examples, row_axes
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.pytorch.cut.export import export
from mcdropout.engine.pytorch.cut.forms import programs
from mcdropout.engine.pytorch.eager import MOST_REPEATED, EagerRuntime
from mcdropout.engine.pytorch.find.discovery import discover
from mcdropout.engine.pytorch.find.findings import findings_of_graph
from mcdropout.engine.pytorch.network import Network, copy_of
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
        if has_rows and dropout_mixes_rows(network, self.eager, self.source, arrays):
            network.alone = True
            run_pairs(self.eager, arrays, kept)  # finds out whether it can be mapped
            network.repeats = not network.maps and _passes_share_batches(network, self.source, arrays)
        self._baseline = network.baseline() if network.has_raw_sites else None
        self.plain: Runtime = self.eager if self._baseline is None else EagerRuntime(self._baseline)
        padded = [path for path, part in network.origin.named_modules() if getattr(part, "use_nested_tensor", False)]
        self.advice = (
            f"{padded[0] or 'the network'} writes 0 at padded places in eval mode; enable_nested_tensor=False mends it"
            if padded
            else None
        )
        values = network.origin.state_dict().values()
        half = any(value.dtype in (torch.float16, torch.bfloat16) for value in values)
        self.tolerance = HALF_TOLERANCE if half else PROGRAM_TOLERANCE
        self._state = {name: value.clone() for name, value in network.origin.state_dict().items()}

    def eval_outputs(self) -> tuple[Array, ...]:
        """`module.eval()(arrays)`."""
        return tuple(map(to_array, self.network.eval_outputs(self._tensors)))

    def own_checks(self) -> list[Check]:
        """Whether its modules are in the modes that they ought to be in, and nothing in it has moved."""
        origin, masked = self.network.origin, self.network.module.state_dict()
        moved = [name for name, value in origin.state_dict().items() if not torch.equal(value, self._state[name])]
        as_copied = copy_of(origin)
        as_copied.eval()
        copied = as_copied.state_dict().items()
        moved += [name for name, value in copied if not torch.equal(value.cpu(), masked[name].cpu())]
        still = Check("no parameter and no buffer moved by a bit", not moved, f"moved: {', '.join(moved) or 'none'}")
        return [_stayed_in_eval(self.network), still]

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


def understand(
    module: nn.Module,
    example_inputs: Inputs,
    *,
    row_axis: int | Sequence[int] | Mapping[str, int] = 0,
    outputs: Entry | Sequence[Entry] | None = None,
    output_row_axis: int = 0,
    selection: Selection | None = None,
) -> ModuleSubject:
    """Find out what a network takes and what in it is random; arguments and errors as for `Engine.from_module`."""
    axes = row_axes(example_inputs, row_axis)
    arrays = as_examples(example_inputs, axes, EXAMPLE_ROWS)
    names = tuple(example_inputs) if isinstance(example_inputs, Mapping) else None
    entries = (outputs,) if isinstance(outputs, str | int) else None if outputs is None else tuple(outputs)
    signature = Signature(names, axes, entries, output_row_axis)
    found = discover(module, [torch.from_numpy(x) for x in arrays], signature, selection)
    specs = tuple(
        InputSpec(x.shape[1:], x.dtype, names[index] if names else None, axes[index]) for index, x in enumerate(arrays)
    )
    return ModuleSubject(found.network, found.off, specs, arrays)


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


def _passes_share_batches(network: Network, source: MaskSource, inputs: tuple[Array, ...]) -> bool:
    """Whether passes of one row answer in one batch, of whatever size, as each alone.

    So they do where rows are sorted: equal ones stay in their order.
    """
    if not source.shares_rows:
        return False
    for row, x in enumerate(zip(*inputs, strict=True)):
        repeated = [torch.from_numpy(np.stack([value] * MOST_REPEATED)) for value in x]
        masks = [torch.from_numpy(mask) for mask in source.draw([row], [row], 0, MOST_REPEATED)]
        try:
            with torch.no_grad():
                wanted = network.run(repeated, masks)
                for passes in range(2, MOST_REPEATED + 1):
                    found = network.run_as_one([x[:passes] for x in repeated], [mask[:passes] for mask in masks])
                    answers = tuple(map(to_array, found)), tuple(to_array(out[:passes]) for out in wanted)
                    if not close("", *answers, PROGRAM_TOLERANCE).passed:
                        return False
        except Exception:  # whatever the network raises: each is run alone
            return False
    return True


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
