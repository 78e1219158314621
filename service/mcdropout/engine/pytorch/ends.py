"""Ends: the functions that make probabilities of logits, or the like, at the end of a network, and what they take.

Whether a network ends in one is seen by running it: the last calls of such functions are kept, and one of them made the
output, if the output is what it made, or another shape of that. From then on the output is replaced by what the call
took, each time the network runs, and where it is exported too. Equal values alone would not do: what multiplies them
may be 1 for the example only. Nor would one example: code may return something else where it is sure, or in doubt. So
this is looked at for varied rows, and again whenever the network itself runs.

That a network ends in none is seen as well: its output is then a linear layer's, or sums and parts of that, and may be
any number, whatever those for the examples are. Not so where its weights are all positive, which may be shares of a
mixture, nor where it is added to what was made of it, as in `z - softplus(z)`.
"""

import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.pytorch.mapping import is_mapped
from mcdropout.engine.settling import End

_SOFTMAX: End = "softmax"
_LOG_SOFTMAX: End = "log_softmax"
_SIGMOID: End = "sigmoid"
_LOG_SIGMOID: End = "log_sigmoid"
_TANH: End = "tanh"
_FUNCTIONS: dict[Any, End] = {
    **dict.fromkeys((F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax), _SOFTMAX),
    **dict.fromkeys((F.log_softmax, torch.log_softmax, Tensor.log_softmax, torch.special.log_softmax), _LOG_SOFTMAX),
    **dict.fromkeys(
        (F.sigmoid, torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_, torch.special.expit), _SIGMOID
    ),
    torch.ops.aten.softmax: _SOFTMAX,
    torch.ops.aten._softmax: _SOFTMAX,
    torch.ops.aten.log_softmax: _LOG_SOFTMAX,
    torch.ops.aten._log_softmax: _LOG_SOFTMAX,
    torch.ops.aten.sigmoid: _SIGMOID,
    torch.ops.aten.sigmoid_: _SIGMOID,
    **dict.fromkeys((F.logsigmoid, torch.ops.aten.log_sigmoid), _LOG_SIGMOID),
    **dict.fromkeys((F.tanh, torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_, torch.ops.aten.tanh), _TANH),
}
_EACH_ALONE = (_SIGMOID, _LOG_SIGMOID, _TANH)


def _functions(names: str, *places: Any) -> frozenset[Any]:
    """Those of these names that PyTorch has in these places."""
    return frozenset(getattr(place, name) for place in places for name in names.split() if hasattr(place, name))


_EVERYWHERE = (torch, Tensor, F, torch.ops.aten)
# With weights of its own, what makes numbers of any size.
_LINEAR = _functions(
    "linear bilinear conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d conv_transpose3d matmul mm bmm "
    "addmm baddbmm mv addmv einsum tensordot inner __matmul__ __rmatmul__",
    *_EVERYWHERE,
)
# What keeps such numbers so: their parts, sums, means and shapes, and multiples.
_KEEPING = _functions(
    "add add_ sub sub_ mean sum cat stack reshape view squeeze unsqueeze flatten unflatten transpose permute movedim "
    "swapaxes select slice narrow index_select gather clone contiguous expand dropout dropout_ interpolate to _to_copy "
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d",
    *_EVERYWHERE,
) | _functions(
    "__add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ __getitem__ view_as reshape_as type_as float double half "
    "bfloat16 detach",
    Tensor,
)
_SCALING = _functions("mul mul_ div div_ __mul__ __rmul__ __imul__ __truediv__ __itruediv__", *_EVERYWHERE)
_KEPT = 8  # calls; what comes after the one that makes the output is of other outputs, and few


@dataclass(frozen=True)
class EndCall:
    """A call of a function that makes probabilities of logits.

    Attributes:
        end: which function.
        axis: the dimension that it runs along; None for those that take each number alone.
        taken: what it took.
        made: what it made.
        version: of what it made, which changes when that is written to.
    """

    end: End
    axis: int | None
    taken: Tensor
    made: Tensor
    version: int | None


@dataclass(frozen=True)
class Ending:
    """Which call makes the output of a network.

    Attributes:
        end: which function.
        axis: the dimension of the output that it runs along; None where that is not known, or there is none.
        last: which call it is of all such calls, counted from the last one, 0.
    """

    end: End
    axis: int | None
    last: int

    def below(self, calls: Sequence[EndCall], output: Tensor) -> Tensor:
        """In the shape of an output, what its call took: the logits of a sigmoid; logarithms of a softmax.

        Raises:
            UnsupportedModelError: for these inputs that call did not make the output.
        """
        call = calls[-1 - self.last] if self.last < len(calls) else None
        # What an exporter or a map runs has no branch that depends on values.
        if call is None or (type(output) is Tensor and not is_mapped(output) and not _made(call, output)):
            raise UnsupportedModelError(
                f"the {self.end} that makes the output for the examples is not its end for these inputs; output: "
                "{as: probabilities} reads what it makes, whatever it is"
            )
        taken = call.taken if call.axis is None else F.log_softmax(call.taken, call.axis)
        return taken.reshape(output.shape).to(output.dtype)


class EndCalls(TorchFunctionMode):
    """While it is entered, notes the last calls of functions that make probabilities.

    Attributes:
        seen: those calls, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: deque[EndCall] = deque(maxlen=_KEPT)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        end = _FUNCTIONS.get(func) or _FUNCTIONS.get(getattr(func, "overloadpacket", None))
        if end is None:
            return func(*args, **named)
        x = args[0] if args else named.get("input", named.get("self"))
        if not isinstance(x, Tensor):
            return func(*args, **named)
        in_place = getattr(func, "__name__", "").partition(".")[0].endswith("_")
        taken = x.clone() if in_place else x
        made = func(*args, **named)
        dim = args[1] if len(args) > 1 else named.get("dim")
        if named.get("out") is None and (end in _EACH_ALONE or isinstance(dim, int)):
            axis = dim % x.dim() if isinstance(dim, int) and end not in _EACH_ALONE else None
            self.seen.append(EndCall(end, axis, taken, made, _version(made)))
        return made


class LinearLayers(TorchFunctionMode):
    """While it is entered, follows what linear layers make: numbers that may be any."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, _Made] = {}  # by identity: what linear layers make, and whatever is made of that
        self._last: deque[tuple[weakref.ref[Tensor], Tensor]] = deque(maxlen=_KEPT)

    def may_be_any(self, x: Tensor) -> bool:
        """Whether the numbers of a tensor were seen to be a linear layer's, or sums and parts of that; and still are.

        To be asked of what was made last, of which it is known what was in it: not every write shows.
        """
        return self._is_linear(x) and any(held() is x and torch.equal(x, values) for held, values in self._last)

    def _is_linear(self, x: Tensor) -> bool:
        found = self._known(x)
        return found is not None and found.linear and found.version == _version(x) is not None

    def _known(self, x: Tensor) -> "_Made | None":
        found = self._made.get(id(x))
        return found if found is not None and found.tensor() is x else None

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if torch.compiler.is_compiling():  # what is compiled is not followed: TorchDynamo would have to read this
            return func(*args, **named)
        taken = [x for x in (*args, *named.values()) if isinstance(x, Tensor)]
        if args and isinstance(args[0], list | tuple):
            taken += [x for x in args[0] if isinstance(x, Tensor)]
        kept = self._keeps(func, taken)  # as they are before anything is written to them
        made = func(*args, **named)
        for x in made if isinstance(made, tuple | list) else (made,):
            if isinstance(x, Tensor):
                self._note(x, kept, taken)
        return made

    def _keeps(self, func: Any, taken: Sequence[Tensor]) -> bool:
        """Whether what a function makes may be any number."""
        functions = {func, getattr(func, "overloadpacket", func)}
        weights = [x for x in taken if isinstance(x, nn.Parameter)]
        if weights and not _LINEAR.isdisjoint(functions):
            return _has_negative(max(weights, key=Tensor.numel))
        others = [x for x in taken if not isinstance(x, nn.Parameter) and self._known(x) is not None]
        if not others or not all(map(self._is_linear, others)):
            return False
        if not _SCALING.isdisjoint(functions):
            return len(taken) - len(weights) == 1
        return not _KEEPING.isdisjoint(functions)

    def _note(self, made: Tensor, linear: bool, taken: Sequence[Tensor]) -> None:
        if linear or any(self._known(x) is not None for x in taken):
            self._made[id(made)] = _Made(weakref.ref(made), linear, _version(made))
            if linear and type(made) is Tensor and not made.is_meta:
                self._last.append((weakref.ref(made), made.detach().clone()))
        else:
            self._made.pop(id(made), None)


@dataclass(frozen=True)
class _Made:
    """What a linear layer made, or what was made of that.

    Attributes:
        tensor: it, if it is still there.
        linear: whether it may be any number.
        version: of it, which changes when it is written to.
    """

    tensor: weakref.ref[Tensor]
    linear: bool
    version: int | None


def _has_negative(weight: Tensor) -> bool:
    return bool((weight < 0).any()) if type(weight) in (Tensor, nn.Parameter) and not weight.is_meta else True


def ending_of(calls: Sequence[EndCall], output: Tensor) -> Ending | None:
    """The call that made an output, or another shape of it; None where none of them did."""
    for last, call in enumerate(reversed(calls)):
        if _made(call, output) and (output is call.made or _equal(output, call.made)):
            return Ending(call.end, call.axis if call.made.shape == output.shape else None, last)
    return None


def _made(call: EndCall, output: Tensor) -> bool:
    """Whether an output is what a call made, or as many entries of the same memory, and nobody has written to it."""
    made = call.made
    alike = output is made or (
        output.numel() == made.numel() and output.untyped_storage().data_ptr() == made.untyped_storage().data_ptr()
    )
    return alike and call.version == _version(made) and _is_what_it_makes(call)


def _is_what_it_makes(call: EndCall) -> bool:
    """Whether a call's result is what its function makes of what it took: not every write shows in the version."""
    x = call.taken.detach()
    with torch._C.DisableTorchFunction():
        match call.end:
            case "softmax":
                wanted = torch.softmax(x, call.axis or 0)
            case "log_softmax":
                wanted = torch.log_softmax(x, call.axis or 0)
            case "sigmoid":
                wanted = torch.sigmoid(x)
            case "log_sigmoid":
                wanted = F.logsigmoid(x)
            case _:
                wanted = torch.tanh(x)
        made = call.made.detach()
        wanted = wanted.to(made.dtype)
        tolerance = 1e-5 if made.dtype in (torch.float32, torch.float64) else 1e-2
        return wanted.shape == made.shape and torch.allclose(made, wanted, tolerance, tolerance, equal_nan=True)


def _equal(x: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same entries in the same order, whatever their shapes."""
    return torch.equal(x.reshape(-1), other.reshape(-1))


def _version(x: Tensor) -> int | None:
    return None if x.is_inference() else x._version
