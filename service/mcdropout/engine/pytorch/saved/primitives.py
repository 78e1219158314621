"""Primitives: TorchScript's operators on numbers, texts and lists, and those on tensors that `torch.ops` lacks.

Sizes may be symbols while a network is exported, so that nothing here turns one into a number.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# In the order in which TorchScript counts them.
_DTYPES: tuple[torch.dtype, ...] = (
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.float32, torch.float64),
    *(torch.complex32, torch.complex64, torch.complex128),
    *(torch.bool, torch.qint8, torch.quint8, torch.qint32, torch.bfloat16),
)


def to_dtype(value: Any) -> Any:
    """The dtype that TorchScript writes as a number."""
    return _DTYPES[value] if isinstance(value, int) else value


def _dtype(x: Tensor) -> int:
    return _DTYPES.index(x.dtype)


def _same(value: Any, *_: Any) -> Any:
    return value


def _nothing(*_: Any) -> None:
    return None


def _int(value: Any) -> Any:
    return value if isinstance(value, torch.SymInt) else int(value)


def _float(value: Any) -> Any:
    convert: Any = torch.sym_float
    return convert(_number(value))


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


def _raise(message: str, *_: Any) -> None:
    raise RuntimeError(message)


def _divided(a: Any, b: Any, rounding_mode: str | None = None) -> Any:
    if rounding_mode is None:
        return a / b
    if rounding_mode == "floor" or isinstance(a, torch.SymInt):  # a size is never below 0
        return a // b
    return math.trunc(a / b)


def _sort(values: list[Any], reverse: bool = False) -> None:
    values.sort(reverse=reverse)


def _slice(values: Any, start: int | None = None, end: int | None = None, step: int = 1) -> Any:
    return values[start:end:step]


def _tensor(data: Any, dtype: int | None = None, device: Any = None, *_: Any) -> Tensor:
    return torch.tensor(data, dtype=to_dtype(dtype), device=device)


def _to(x: Tensor, *wanted: Any) -> Tensor:
    """`x.to(device, dtype, non_blocking, copy)` with whatever of them is there."""
    flags = [value for value in wanted if isinstance(value, bool)]
    device = next((value for value in wanted if isinstance(value, torch.device | str)), None)
    dtype = next((_DTYPES[value] for value in wanted if isinstance(value, int) and not isinstance(value, bool)), None)
    return x.to(device=device or x.device, dtype=dtype or x.dtype, copy=flags[-1] if flags else False)


VALUES: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "add_": operator.iadd,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "floordiv": operator.floordiv,
    "remainder": operator.mod,
    "fmod": math.fmod,
    "pow": operator.pow,
    "neg": operator.neg,
    "abs": abs,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "__and__": operator.and_,
    "__or__": operator.or_,
    "__xor__": operator.xor,
    "__not__": operator.not_,
    "__is__": operator.is_,
    "__isnot__": operator.is_not,
    "__lshift__": operator.lshift,
    "__rshift__": operator.rshift,
    "Int": _int,
    "Float": _float,
    "Bool": bool,
    "Scalar": _same,
    "ceil": math.ceil,
    "floor": math.floor,
    "round": round,
    "sqrt": math.sqrt,
    "exp": math.exp,
    "log": math.log,
    "sin": math.sin,
    "cos": math.cos,
    "isnan": math.isnan,
    "isinf": math.isinf,
    "len": len,
    "append": list.append,
    "extend": list.extend,
    "insert": list.insert,
    "clear": lambda values: values.clear(),
    "pop": lambda values, *at: values.pop(*at),
    "remove": list.remove,
    "reverse": list.reverse,
    "copy": lambda values: values.copy(),
    "index": list.index,
    "count": lambda values, value: values.count(value),
    "sort": _sort,
    "sorted": sorted,
    "select": operator.getitem,
    "__getitem__": operator.getitem,
    "_set_item": operator.setitem,
    "__contains__": operator.contains,
    "Delete": operator.delitem,
    "slice": _slice,
    "list": list,
    "dict": dict,
    "keys": lambda values: list(values.keys()),
    "values": lambda values: list(values.values()),
    "items": lambda values: list(values.items()),
    "get": lambda values, key, other=None: values.get(key, other),
    "setdefault": dict.setdefault,
    "update": dict.update,
    "any": any,
    "all": all,
    "str": str,
    "format": str.format,
    "percentFormat": lambda text, *values: text % values,
    "join": str.join,
    "split": lambda text, by=None, most=-1: text.split(by, most),
    "strip": str.strip,
    "lower": str.lower,
    "upper": str.upper,
    "startswith": str.startswith,
    "endswith": str.endswith,
    "replace": str.replace,
    "device": torch.device,
    "warn": _nothing,
    "is_autocast_enabled": lambda: False,
    "is_autocast_cpu_enabled": lambda: False,
    # Fused layers are for inference without gradients, and have no dropout.
    "is_grad_enabled": lambda: True,
    "is_scripting": lambda: False,
    "__range_length": lambda start, stop, step: len(range(start, stop, step)),
    "__derive_index": lambda turn, start, step: start + turn * step,
}
"""Operators whose overloads for values that are no tensors are meant, by name."""

OPERATORS: dict[str, Callable[..., Any]] = {
    "prim::ListConstruct": lambda *values: list(values),
    "prim::DictConstruct": lambda *values: dict(zip(values[::2], values[1::2], strict=True)),
    "prim::ListUnpack": _same,
    "prim::TupleUnpack": _same,
    "prim::TupleIndex": operator.getitem,
    "prim::unchecked_cast": _same,
    "prim::unchecked_unwrap_optional": _same,
    "prim::NumToTensor.Scalar": _same,
    "prim::NumToTensor.bool": _same,
    "prim::NumToTensor": _same,
    "prim::Uninitialized": _nothing,
    "prim::RaiseException": _raise,
    "prim::Print": _nothing,
    "prim::Enter": _nothing,
    "prim::Exit": _nothing,
    "prim::dtype": _dtype,
    "prim::device": lambda x: x.device,
    "prim::type": lambda device: device.type,
    "prim::is_cuda": lambda x: x.is_cuda,
    "prim::is_cpu": lambda x: x.is_cpu,
    "prim::is_nested": lambda x: x.is_nested,
    "prim::is_sparse": lambda x: x.is_sparse,
    "prim::is_quantized": lambda x: x.is_quantized,
    "prim::requires_grad": lambda _: True,  # as with `is_grad_enabled`
    "prim::data": lambda x: x.detach(),
    "prim::rangelist": lambda stop: list(range(stop)),
    **{
        f"prim::{name}.{kind}": function
        for name, function in (("max", max), ("min", min), ("abs", abs))
        for kind in (
            "int",
            "float",
            "int_float",
            "float_int",
            "Scalar",
            "int_list",
            "self_int",
            "float_list",
            "self_float",
        )
    },
    "prim::abs.Scalar": abs,
    "aten::dim": lambda x: x.dim(),
    "aten::size": lambda x: list(x.shape),
    "aten::size.int": lambda x, axis: x.shape[axis],
    "aten::len.Tensor": len,
    "aten::numel": lambda x: x.numel(),
    "aten::is_floating_point": lambda x: x.is_floating_point(),
    "aten::is_complex": lambda x: x.is_complex(),
    "aten::is_contiguous": lambda x: x.is_contiguous(),
    "aten::tensor": _tensor,
    "aten::tensor.int": _tensor,
    "aten::tensor.float": _tensor,
    "aten::tensor.bool": _tensor,
    "aten::as_tensor": lambda x, dtype=None, device=None: torch.as_tensor(x, dtype=to_dtype(dtype), device=device),
    "aten::as_tensor.list": _tensor,
    "aten::to.prim_Device": _to,
    "aten::to.prim_dtype": _to,
    "aten::to.prim_other": lambda x, *_: x,
    "aten::cpu": _same,
    # With flags of cuDNN, which other runtimes do not know.
    "aten::_convolution": lambda *values: torch.ops.aten.convolution.default(*values[:9]),
    "aten::_convolution.deprecated": lambda *values: torch.ops.aten.convolution.default(*values[:9]),
}
"""Other operators, by name and overload."""

READS: dict[str, Callable[..., Any]] = {
    "aten::Int.Tensor": _int,
    "aten::IntImplicit": _int,
    "aten::Float.Tensor": _float,
    "aten::FloatImplicit": _float,
    "aten::Bool.Tensor": bool,
    "aten::ScalarImplicit": _number,
    "aten::item": _number,
}
"""Operators that take the number out of a tensor of one, by name and overload."""

_ON_NUMBERS: dict[str, Callable[..., Any]] = {
    "add": lambda a, b, alpha=1: a + b * alpha if alpha != 1 else a + b,
    "sub": lambda a, b, alpha=1: a - b * alpha if alpha != 1 else a - b,
    "rsub": lambda a, b, alpha=1: b - a * alpha if alpha != 1 else b - a,
    "mul": operator.mul,
    "div": _divided,
    "floor_divide": operator.floordiv,
    "remainder": operator.mod,
    "pow": operator.pow,
    "neg": operator.neg,
    **{name: VALUES[name] for name in ("eq", "ne", "lt", "le", "gt", "ge")},
}


def on_numbers(
    name: str,
    operate: Callable[[Sequence[Any]], Any],
    values: Sequence[Any],
    known: Sequence[Any],
    tensors: Sequence[int],
) -> Any:
    """An operator of tensors where traced networks work out sizes with it: sizes are numbers here, and stay so.

    Args:
        name: the operator's.
        operate: the operator.
        values: its arguments.
        known: the same, with numbers for tensors whose value is known.
        tensors: the positions of those that ought to be tensors.
    """
    if name in _ON_NUMBERS and not any(isinstance(value, Tensor) for value in known):
        return _ON_NUMBERS[name](*known)
    if any(isinstance(values[i], Tensor) for i in tensors):
        return operate(values)
    return operate([_as_tensor(x) if i in tensors else x for i, x in enumerate(values)])


def _as_tensor(x: Any) -> Any:
    if not isinstance(x, int | float | torch.SymInt | torch.SymFloat):
        return x
    make: Any = torch.scalar_tensor  # which takes symbols too
    return make(x, dtype=torch.float32 if isinstance(x, float | torch.SymFloat) else torch.int64)
