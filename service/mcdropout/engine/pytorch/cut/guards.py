"""Guards: what an exporter took for granted of the sizes of the examples, which need not be so at others.

It follows one way of each branch on a size, and notes as a guard what decided it: `Ne(s, 7)` of `if x.shape[1] == 7`.
It notes as much where PyTorch's own code looks at sizes, mostly to no effect. So a guard that fails refuses nothing
by itself: at each size where one does, the graph has to answer what the network does.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch import fx

from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.faults import described
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.pytorch.network import Network
from mcdropout.engine.runtimes.tensors import to_array
from mcdropout.engine.sites import Site
from mcdropout.engine.sizes import Extent, Named, Sizing, told
from mcdropout.engine.subject import EXAMPLE_ROWS
from mcdropout.engine.verify import close

_LONGEST = 60.0  # seconds in which all sizes in doubt are looked at
_SEED = 20160619
_Axis = Named | Extent


def check_guards(module: fx.GraphModule, network: Network, inputs: Sequence[torch.Tensor], sizing: Sizing) -> None:
    """Raise where a graph is not the network at a size that is accepted.

    Args:
        module: the graph `f(*inputs, *masks)`, as it was exported.
        network: what it was exported from.
        inputs: the examples.
        sizing: which sizes may differ.

    Raises:
        UnsupportedModelError: naming such a size; or those where it might not be are too many to look at.
    """
    finish = time.monotonic() + _LONGEST
    arrays = [x.numpy() for x in inputs]
    in_doubt = doubtful(module, network.sites, sizing)
    for index, sizes in enumerate(in_doubt):
        if time.monotonic() > finish:
            raise UnsupportedModelError(
                f"it follows the network for some sizes alone; of {len(in_doubt)} others {index} were looked at in "
                f"{_LONGEST:g} s"
            )
        sites = sizing.sites_at(network.sites, sizes)
        examples = [torch.from_numpy(x) for x in sizing.examples_at(arrays, sizes)]
        masks = _telling(sites, len(examples[0]))
        wanted = network.at(sites).run(examples, masks)
        try:
            with torch.no_grad():
                found = module.forward(*examples, *masks)  # not a call, which would refuse the sizes
        except Exception as error:  # whatever a graph raises at sizes that it is not made for
            raise UnsupportedModelError(f"it does not run at {told(sizes)}: {described(error)}") from error
        check = close("they agree", tuple(map(to_array, found)), tuple(map(to_array, wanted)), network.tolerance)
        if not check.passed:
            raise UnsupportedModelError(
                f"it follows the network for some sizes alone, {told(sizes)} not among them ({check.detail})"
            )


def _telling(sites: Sequence[Site], rows: int) -> tuple[torch.Tensor, ...]:
    """Masks of one pass that drop half of the units of each site."""
    source = MaskSource([site if site.p is None else replace(site, p=0.5) for site in sites])
    return tuple(map(torch.from_numpy, source.draw([_SEED] * rows, range(rows), 0, 1)))


def doubtful(module: fx.GraphModule, sites: Sequence[Site], sizing: Sizing) -> list[dict[str, int]]:
    """The sizes at which a guard of an exported graph does not hold.

    Guards on the number of rows are taken at that of the examples.
    """
    found: dict[tuple[int, ...], dict[str, int]] = {}
    axes: dict[sympy.Symbol, _Axis] = {}
    for guard in _guards(module, sites, sizing, axes):
        own = {symbol: axes[symbol] for symbol in guard.free_symbols}
        names = {name for axis in own.values() for name in _names(axis)}
        for sizes in sizing.each(names):
            at = {symbol: sympy.Integer(_size(axis, sizes)) for symbol, axis in own.items()}
            if guard.xreplace(at) is not sympy.true:
                found[tuple(sizes.values())] = sizes
    return list(found.values())


def _guards(
    module: fx.GraphModule, sites: Sequence[Site], sizing: Sizing, axes: dict[sympy.Symbol, _Axis]
) -> list[sympy.Basic]:
    """The guards of a graph, each once, that do not hold of themselves; `axes` is filled with what their symbols are.

    Symbols of dimensions that always have one size are one symbol.
    """
    values = [node.meta["val"] for node in module.graph.nodes if node.op == "placeholder"]
    sizes = [size for value in values for size in value.shape if isinstance(size, torch.SymInt)]
    if not sizes:
        return []
    environment: Any = sizes[0].node.shape_env
    symbols: dict[_Axis, sympy.Symbol] = {}
    meant: dict[sympy.Symbol, sympy.Basic] = {}
    for symbol, sources in environment.var_to_sources.items():
        axis = _axis(sources[0].base.index, sources[0].idx, sites, sizing)
        if axis is None:
            meant[symbol] = sympy.Integer(EXAMPLE_ROWS)
            continue
        named = symbols.setdefault(axis, symbol)
        meant[symbol], axes[named] = named, axis
    guards = dict.fromkeys(guard.expr.xreplace(meant) for guard in environment.guards)
    return [guard for guard in guards if guard is not sympy.true]


def _axis(argument: int, axis: int, sites: Sequence[Site], sizing: Sizing) -> _Axis | None:
    """What the size of a dimension of an argument of `f(*inputs, *masks)` is; None where it is the number of rows."""
    inputs = len(sizing.shapes)
    if argument < inputs:
        dimension = sizing.shapes[argument][axis - 1] if axis else None
        assert not isinstance(dimension, int)
        return dimension
    site = sites[argument - inputs]
    first = (site.scope == "row") + site.shifted
    if axis < first:
        return None
    extent = sizing.extents[argument - inputs][axis - first]
    if len(extent.growths) == 1 and extent.told == extent.growths[0].dimension.name:
        return extent.growths[0].dimension
    return extent


def _names(axis: _Axis) -> list[str]:
    return [axis.name] if isinstance(axis, Named) else [growth.dimension.name for growth in axis.growths]


def _size(axis: _Axis, sizes: dict[str, int]) -> int:
    return sizes[axis.name] if isinstance(axis, Named) else axis.at(sizes)
