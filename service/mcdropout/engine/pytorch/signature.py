"""Signatures: how a network takes inputs and gives outputs, so that the engine sees tensors with the rows first."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.nesting import nested
from mcdropout.engine.pytorch.ends import EndCalls, Ending, LinearLayers, ending_of
from mcdropout.engine.reading import Entry
from mcdropout.engine.returned import Kind, Returned


@dataclass(frozen=True)
class Signature:
    """How a network is called.

    Attributes:
        names: the keyword of each input, or the path to it in what the network takes; None where they are given by
            position.
        row_axes: for each input, the dimension that holds the rows; 0 for those beyond the end.
        outputs: which entries of what it returns count: keys, attributes, positions, or paths of these
            further down; None for all its tensors.
        output_row_axis: the dimension of the outputs that holds the rows.
        ending: the function at the end of the network that is left out; None where none is.
        gradients: whether it has to be called while gradients are recorded, because it asks for some.
        halves: the inputs, by position, that the network takes in bfloat16, and that come in float32.
        in_pairs: whether a single row has to be given to it twice, because it takes the dimension of one row for none,
            as `squeeze()` does, or because for one row its random calls cannot be told apart.
    """

    names: tuple[str, ...] | None = None
    row_axes: tuple[int, ...] = ()
    outputs: tuple[Entry, ...] | None = None
    output_row_axis: int = 0
    ending: Ending | None = None
    gradients: bool = False
    in_pairs: bool = False
    halves: frozenset[int] = frozenset()

    def row_axis(self, index: int) -> int:
        """The dimension of input `index` that holds the rows."""
        return self.row_axes[index] if index < len(self.row_axes) else 0

    def call(self, module: nn.Module, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Run `module` on inputs `[rows, ...]` and take its outputs, `[rows, ...]` each.

        Raises:
            UnsupportedModelError: it returns something else than tensors, or lacks an entry that is asked for.
        """
        if self.ending is None:
            taken = self._take(self.returned(module, inputs))
            if len(taken) == 1 or self.outputs is not None:  # else which counts is asked first
                for out in taken:
                    _check_numbers(out)
        else:
            with EndCalls() as calls:
                (output,) = self._take(self.returned(module, inputs))
            taken = (self.ending.below(calls.seen, output),)
        for out in taken:
            if self.output_row_axis >= max(out.dim(), 1):
                raise UnsupportedModelError(
                    f"output_row_axis is {self.output_row_axis}, and the network returns {list(out.shape)}; 0 to "
                    f"{max(out.dim() - 1, 0)} is accepted"
                )
        return tuple(out.movedim(self.output_row_axis, 0) if self.output_row_axis else out for out in taken)

    def find_ending(self, module: nn.Module, inputs: Sequence[Tensor]) -> tuple[Ending | None, bool]:
        """Run `module` on inputs `[rows, ...]`, and see which function makes its one output; None where none does.

        Beside it, whether that output is a linear layer's, and so may be any number.
        """
        with LinearLayers() as linear, EndCalls() as calls:
            outputs = self._take(self.returned(module, inputs))
        if len(outputs) != 1:
            return None, False
        return ending_of(calls.seen, outputs[0]), linear.may_be_any(outputs[0])

    def returned(self, module: nn.Module, inputs: Sequence[Tensor]) -> Any:
        """Run `module` on inputs `[rows, ...]`; whatever it returns."""
        by_position, by_name = self.arguments(inputs)
        with torch.enable_grad() if self.gradients else nullcontext():
            return module(*by_position, **by_name)

    def arguments(self, inputs: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Inputs `[rows, ...]` as the network takes them: by position, and by name."""
        placed = [x.movedim(0, axis) if (axis := self.row_axis(index)) else x for index, x in enumerate(inputs)]
        placed = [x.to(torch.bfloat16) if index in self.halves else x for index, x in enumerate(placed)]
        if self.names is None:
            return tuple(placed), {}
        return nested(self.names, placed)

    def _take(self, returned: Any) -> tuple[Tensor, ...]:
        if self.outputs is None:
            leaves = tree_leaves(returned)
            if others := [type(leaf).__name__ for leaf in leaves if not isinstance(leaf, Tensor)]:
                raise UnsupportedModelError(
                    f"the network returns {', '.join(others)}; a tensor, or two of them, is accepted, or outputs "
                    f"(in model.yaml, output) that names which to take of {described(returned)}"
                )
            return tuple(leaves)
        found = tuple(_entry(returned, entry) for entry in self.outputs)
        for entry, value in zip(self.outputs, found, strict=True):
            if not isinstance(value, Tensor):
                raise UnsupportedModelError(
                    f"outputs names {entry!r}, which is {type(value).__name__}; a tensor is accepted, of "
                    f"{described(returned)}"
                )
        return found


def same_outputs(some: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> bool:
    """Whether outputs are the same to the bit, NaN being NaN."""
    return len(some) == len(others) and all(
        a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())
        for a, b in zip(some, others, strict=True)
    )


def _check_numbers(out: Tensor) -> None:
    """Refuse a tensor that holds no real numbers, or whose rows differ in length."""
    if out.is_nested:
        raise UnsupportedModelError(
            "the network returns a nested tensor, whose rows differ in length; one in which they are padded is accepted"
        )
    if out.is_complex():
        raise UnsupportedModelError(
            f"the network returns numbers of {out.dtype}, {list(out.shape)}; real numbers are accepted, such as "
            "torch.view_as_real(...) or .abs() of these"
        )
    if out.dtype == torch.bool:
        raise UnsupportedModelError(
            f"the network returns truth values ({out.dtype}), {list(out.shape)}; the numbers that they were made of "
            "are accepted: logits, probabilities or values"
        )


def _entry(returned: Any, entry: Entry) -> Any:
    if isinstance(returned, Tensor):  # which has rows by position, and attributes of its own
        raise UnsupportedModelError(
            f"outputs names {entry!r}, and the network returns one tensor, {list(returned.shape)}, of which nothing is "
            "to be chosen; no outputs (in model.yaml, no output) are accepted"
        )
    try:
        return _held(returned, entry)
    except _NOT_THERE:
        found = described(returned)
        verb = "is" if len(found.entries) == 1 else "are"
        raise UnsupportedModelError(
            f"outputs names {entry!r}, which the network does not return; "
            + (f"{found} {verb} accepted" if found.entries else f"it returns {found}; a tensor is accepted")
        ) from None


_NOT_THERE = (KeyError, IndexError, TypeError, AttributeError)


def _held(returned: Any, entry: Entry) -> Any:
    """An entry of what a network returned, or one further down by its path, `boxes.scores` or `0.logits`.

    Raises one of `_NOT_THERE` where there is none.
    """
    try:
        if isinstance(entry, int) or isinstance(returned, Mapping):
            return returned[entry]
        return getattr(returned, entry)
    except _NOT_THERE:
        if isinstance(entry, int):
            raise
    first, parted, rest = entry.partition(".")
    if not parted and not first.isdecimal():
        raise KeyError(entry)
    inner = _held(returned, int(first) if first.isdecimal() else first)
    return _held(inner, rest) if parted else inner


def described(returned: Any, depth: int = 3) -> Returned:
    """What a network returned, and the entries of it that may be named: those further down where it has no tensor."""
    found = _described(returned)
    if not depth or any(isinstance(shape, tuple) for _, shape in found.entries):
        return found
    inside = {
        f"{name}.{inner}": shape
        for name, _ in found.entries
        for inner, shape in described(_held(returned, name), depth - 1).entries
        if isinstance(shape, tuple)
    }
    return replace(found, kind="path", entries=tuple(inside.items())) if inside else found


def _described(returned: Any) -> Returned:
    if isinstance(returned, Mapping):
        return _entries("key", returned)
    if is_dataclass(returned):
        return _entries("attribute", {field.name: getattr(returned, field.name, None) for field in fields(returned)})
    if names := getattr(returned, "_fields", None):
        return _entries("attribute", {name: getattr(returned, name, None) for name in names})
    if isinstance(returned, Sequence) and not isinstance(returned, str | bytes):
        return _entries("position", dict(enumerate(returned)))
    what = type(returned).__name__
    if isinstance(returned, Tensor):
        return Returned(None, what=f"one tensor, {list(returned.shape)}")
    held = {name: value for name, value in _attributes(returned).items() if isinstance(value, Tensor)}
    return _entries("attribute", held) if held else Returned(None, what=f"{what}, which holds no tensor")


def _attributes(returned: Any) -> dict[str, Any]:
    """What an object holds under public names, and what a distribution says of itself."""
    held = {name: value for name, value in getattr(returned, "__dict__", {}).items() if not name.startswith("_")}
    if isinstance(returned, torch.distributions.Distribution) and not any(
        isinstance(value, Tensor) for value in held.values()
    ):
        for name in ("mean", "stddev", "variance"):
            with suppress(Exception):  # whatever it has no such thing for
                held[name] = getattr(returned, name)
    return held


def _entries(kind: Kind, held: Mapping[Any, Any]) -> Returned:
    entries = ((name, _shape(value)) for name, value in held.items())
    return Returned(kind, tuple(entries), what=f"nothing, a {kind} of which could be named")


def _shape(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
