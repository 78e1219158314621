"""Fourier: discrete Fourier transforms as products with matrices of cosines and sines.

ONNX Runtime's own transform takes longer: a step of 400 passes of a small FNet (8 steps of 16 numbers) took 1.02 times
one batch of PyTorch with it, and 0.81 with products. Longer transforms were not measured.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import fx

_aten = torch.ops.aten
_LONGEST = 1024  # of points: the work of a product grows with their square


class _Complex(NamedTuple):
    """Real and imaginary parts, of which a real number has none."""

    real: fx.Node
    imaginary: fx.Node | None

    def changed(self, change: Callable[[fx.Node], fx.Node]) -> "_Complex":
        """The same with both parts changed."""
        return _Complex(change(self.real), None if self.imaginary is None else change(self.imaginary))


class _Writer:
    """Writes operations into a graph."""

    def __init__(self, written: fx.Graph, dtype: torch.dtype) -> None:
        self.call: Callable[..., fx.Node] = lambda target, *args: written.call_function(target, args)
        self._dtype = dtype

    def transformed(
        self, x: _Complex, axis: int, length: int, forward: bool, *, most: int | None = None, halved: bool = False
    ) -> _Complex:
        """The transform of `length` points along a dimension, or its first `most`.

        `halved`: `x` has half of the points, and the others are their conjugates, so that the transform is real.
        """
        call = self.call
        x = x.changed(lambda part: call(_aten.transpose.int, part, axis, -1))
        points, terms = length // 2 + 1 if halved else length, most or length
        cosines, sines = self._matrices(points, terms, length, forward, halved)
        real, imaginary = call(_aten.matmul.default, x.real, cosines), call(_aten.matmul.default, x.real, sines)
        if x.imaginary is not None:
            real = call(_aten.sub.Tensor, real, call(_aten.matmul.default, x.imaginary, sines))
            imaginary = call(_aten.add.Tensor, imaginary, call(_aten.matmul.default, x.imaginary, cosines))
        found = _Complex(real, None if halved else imaginary)
        return found.changed(lambda part: call(_aten.transpose.int, part, axis, -1))

    def scaled(self, x: _Complex, normalization: int, lengths: Sequence[int]) -> _Complex:
        """A transform as it is normalized: not, by the root of the number of points (1), or by that (2)."""
        if not normalization:
            return x
        factor = 1.0 / (math.sqrt(math.prod(lengths)) if normalization == 1 else math.prod(lengths))
        return x.changed(lambda part: self.call(_aten.mul.Tensor, part, factor))

    def _matrices(self, points: int, terms: int, length: int, forward: bool, halved: bool) -> tuple[fx.Node, fx.Node]:
        """Cosines and sines, `[points, terms]`, of angles that are reduced while they are whole numbers."""
        call = self.call
        point = call(_aten.unsqueeze.default, call(_aten.arange.default, points), 1)
        turns = call(_aten.remainder.Scalar, call(_aten.mul.Tensor, point, call(_aten.arange.default, terms)), length)
        step = (-2.0 if forward else 2.0) * math.pi / length
        angle = call(_aten.mul.Tensor, call(torch.ops.prims.convert_element_type.default, turns, self._dtype), step)
        matrices = call(_aten.cos.default, angle), call(_aten.sin.default, angle)
        if not halved:
            return matrices
        # All points stand for their conjugates too, but for the first, and for the one in the middle.
        alone = call(_aten.eq.Scalar, call(_aten.remainder.Scalar, call(_aten.mul.Tensor, point, 2), length), 0)
        weight = call(_aten.masked_fill.Scalar, call(_aten.full_like.default, angle, 2.0), alone, 1.0)
        cosines, sines = (call(_aten.mul.Tensor, matrix, weight) for matrix in matrices)
        return cosines, sines


def _parts(writer: _Writer, x: fx.Node) -> _Complex:
    pairs = writer.call(_aten.view_as_real.default, x)
    return _Complex(writer.call(_aten.select.int, pairs, -1, 0), writer.call(_aten.select.int, pairs, -1, 1))


def _lengths(node: fx.Node, axes: Sequence[int]) -> list[int] | None:
    """The sizes of an operation's input along some dimensions; None where one is not known, or too large."""
    x: Any = node.args[0]
    sizes: list[Any] = [x.meta["val"].shape[axis] for axis in axes]
    return sizes if all(isinstance(size, int) and size <= _LONGEST for size in sizes) else None


def _real_type(node: fx.Node) -> torch.dtype:
    x: Any = node.args[0]
    dtype = x.meta["val"].dtype
    return torch.float64 if dtype in (torch.complex128, torch.float64) else torch.float32


def _complex_to_complex(written: fx.Graph, copied: fx.Node, node: fx.Node) -> fx.Node:
    given: Any = copied.args
    x, axes, normalization, forward = given
    lengths = _lengths(node, axes)
    if lengths is None:
        return copied
    writer = _Writer(written, _real_type(node))
    found = _parts(writer, x)
    for axis, length in zip(axes, lengths, strict=True):
        found = writer.transformed(found, axis, length, forward)
    return writer.call(_aten.complex.default, *writer.scaled(found, normalization, lengths))


def _real_to_complex(written: fx.Graph, copied: fx.Node, node: fx.Node) -> fx.Node:
    given: Any = copied.args
    x, axes, normalization, onesided = given
    lengths = _lengths(node, axes)
    if lengths is None:
        return copied
    writer, found = _Writer(written, _real_type(node)), _Complex(x, None)
    *others, (last, length) = zip(axes, lengths, strict=True)
    found = writer.transformed(found, last, length, True, most=length // 2 + 1 if onesided else None)
    for axis, points in others:
        found = writer.transformed(found, axis, points, True)
    return writer.call(_aten.complex.default, *writer.scaled(found, normalization, lengths))


def _complex_to_real(written: fx.Graph, copied: fx.Node, node: fx.Node) -> fx.Node:
    given: Any = copied.args
    x, axes, normalization, length = given
    lengths = _lengths(node, axes[:-1])
    if lengths is None or not isinstance(length, int) or length > _LONGEST:
        return copied
    writer = _Writer(written, _real_type(node))
    found = _parts(writer, x)
    for axis, points in zip(axes[:-1], lengths, strict=True):
        found = writer.transformed(found, axis, points, False)
    found = writer.transformed(found, axes[-1], length, False, halved=True)
    return writer.scaled(found, normalization, [*lengths, length]).real


FOURIER: Mapping[Any, Callable[[fx.Graph, fx.Node, fx.Node], fx.Node]] = {
    _aten._fft_c2c.default: _complex_to_complex,
    _aten._fft_r2c.default: _real_to_complex,
    _aten._fft_c2r.default: _complex_to_real,
}


def parts_of(graph: fx.Graph) -> dict[Any, Callable[..., Any]]:
    """A table of decompositions that brings the transforms of an exported graph down to those of `FOURIER`."""
    called = {node.target for node in graph.nodes if str(node.target).startswith("aten.fft_")}
    table = torch.export.default_decompositions() if called else {}
    return {operator: table[operator] for operator in called if operator in table}
