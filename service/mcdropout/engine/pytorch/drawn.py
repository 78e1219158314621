"""Drawn: what stands, in one run of a network for several passes, for the numbers that each has drawn for itself.

What is compared, rounded or indexed remains one answer for each pass. Where the network's code wants a single answer,
as `if` does, and the passes differ in it, the run ends with `PartedError`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

Numbers = Sequence[Tensor]
"""For each site that rows share, what some passes draw there: `[passes, *site.shape]`."""
Question = Callable[[Numbers], Tensor]
"""Finds the answer of each pass, `[passes, ...]`, from what it draws."""
_MOST_ANSWERS = 8  # of passes to one question, unless each is that of two passes or more


class PartedError(BaseException):
    """Passes in one batch differ in what they decide. Code that catches every `Exception` is not to see it."""

    def __init__(self, question: Question, answers: Tensor) -> None:
        """`answers` are those to `question`, `[passes, ...]`."""
        super().__init__("passes in one batch differ in what they decide")
        self.question, self.answers = question, answers


class UndecidedError(BaseException):
    """A network does more with what it draws once a pass than decide by it. As `PartedError`, for nobody else."""


class Drawn(Tensor):
    """What each of several passes has drawn, or has made of it: for the network's code, a tensor `[...]` of one pass.

    Its own data are zeros that nobody reads.

    Attributes:
        each: `[passes, ...]`.
        question: finds `each` for other passes.
    """

    each: Tensor
    question: Question

    @classmethod
    def of(cls, each: Tensor, question: Question) -> "Drawn":
        """What some passes have drawn, `[passes, ...]`."""
        drawn = torch.zeros(each.shape[1:], dtype=each.dtype, device=each.device).as_subclass(cls)
        drawn.each, drawn.question = each, question
        return drawn

    def agreed(self) -> Tensor:
        """What all passes have alike, `[...]`.

        Raises:
            PartedError: they differ.
            UndecidedError: in so many ways that hardly two of them are alike.
        """
        flat = self.each.reshape(len(self.each), -1)
        if bool((flat == flat[0]).all()):
            return self.each[0].clone()
        whole = not flat.is_floating_point() or bool((flat == flat.floor()).all())
        if not whole or len(torch.unique(flat, dim=0)) > max(_MOST_ANSWERS, len(flat) // 2):
            raise UndecidedError
        raise PartedError(self.question, self.each)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _SAME_FOR_ALL:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if func in _FOR_EACH and _is_small(args, kwargs):
            return _for_each(func, args, kwargs)
        if func in _IN_PLACE and isinstance(args[0], Drawn) and _is_small(args, kwargs):
            found = _for_each(_IN_PLACE[func], args, kwargs)
            if found.each.shape == args[0].each.shape:
                args[0].each, args[0].question = found.each.to(args[0].each.dtype), found.question
                return args[0]
        if func is Tensor.__getitem__ and isinstance(args[0], Drawn) and _is_place(args[1]):
            return _part(args[0], args[1])
        if func is Tensor.item:
            return args[0] if args[0].each.ndim == 1 else _for_each(_only, args, {})
        if func is Tensor.tolist:
            return [x.tolist() for x in args[0]] if args[0].each.ndim > 1 else args[0]
        if func in (Tensor.__iter__, Tensor.unbind, torch.unbind) and args[1:] in ((), (0,)) and not kwargs:
            parts = [_part(args[0], index) for index in range(args[0].each.shape[1])]
            return iter(parts) if func is Tensor.__iter__ else tuple(parts)
        return func(*_agreed(args), **_agreed(kwargs))


def _functions(names: str) -> Iterator[tuple[Any, Any]]:
    """All spellings of some functions, and of what each does in place, where it does."""
    for name in names.split():
        for home in (torch, Tensor):
            function = getattr(home, name, None)
            if callable(function):
                yield function, getattr(home, f"{name}_", None)


_COMPARED = "lt le gt ge eq ne less less_equal greater greater_equal not_equal"
_LOGICAL = "logical_not logical_and logical_or logical_xor"
_COMPUTED = (
    "add sub subtract rsub mul multiply div divide true_divide floor_divide remainder neg floor ceil round trunc abs "
    "clamp"
)
_OPERATORS = (
    "__lt__ __le__ __gt__ __ge__ __eq__ __ne__ __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ "
    "__rtruediv__ __floordiv__ __mod__ __neg__ __invert__ __and__ __or__ __xor__"
)
_CAST = (Tensor.to, Tensor.float, Tensor.double, Tensor.bool, Tensor.int, Tensor.long, Tensor.cpu, Tensor.clone)
_SPELLED = tuple(_functions(f"{_COMPARED} {_LOGICAL} {_COMPUTED} {_OPERATORS}"))
_FOR_EACH = {*(function for function, _ in _SPELLED), *_CAST, Tensor.detach, torch.clone}
_IN_PLACE = {in_place: function for function, in_place in _SPELLED if in_place is not None}
_PROPERTIES: tuple[Any, ...] = (Tensor.shape, Tensor.dtype, Tensor.device, Tensor.ndim, Tensor.layout, Tensor.is_cuda)
_SAME_FOR_ALL = {
    *(each.__get__ for each in (*_PROPERTIES, Tensor.requires_grad, Tensor.is_meta, Tensor.is_nested)),
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.__len__, Tensor.is_complex, Tensor.is_floating_point),
    *(torch.is_complex, torch.is_floating_point, torch.numel, torch.is_tensor),
}


def _agreed(given: Any) -> Any:
    """Arguments, in which what all passes have alike is in the place of what each has."""
    if isinstance(given, Drawn):
        return given.agreed()
    if isinstance(given, dict):
        return {name: _agreed(value) for name, value in given.items()}
    return type(given)(map(_agreed, given)) if type(given) in (tuple, list) else given


def _dimensions(args: Sequence[Any], kwargs: dict[str, Any]) -> int:
    """The most that `each` has of what a function is given."""
    return max(x.each.ndim for x in (*args, *kwargs.values()) if isinstance(x, Drawn))


def _is_small(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether a function is given tensors of no more dimensions than what was drawn has for a pass."""
    given = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and not isinstance(x, Drawn)]
    return not given or max(x.ndim for x in given) < _dimensions(args, kwargs)


def _is_place(index: Any) -> bool:
    return all(type(each) in (int, slice) or each is ... for each in (index if type(index) is tuple else (index,)))


def _part(drawn: Drawn, index: Any) -> Drawn:
    places = index if type(index) is tuple else (index,)
    return _for_each(lambda each: each[(slice(None), *places)], (drawn,), {})


def _only(each: Tensor) -> Tensor:
    """The one number that each pass has."""
    return each.reshape(len(each))


def _for_each(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Drawn:
    """What a function that takes entries one by one gives for each pass."""
    most = _dimensions(args, kwargs)
    known = {id(x): (x.each, x.question) for x in (*args, *kwargs.values()) if isinstance(x, Drawn)}  # as they are now

    def of(x: Any, numbers: Numbers | None) -> Any:
        if not isinstance(x, Drawn):
            return x
        each, asked = known[id(x)]
        if numbers is not None:
            each = asked(numbers)
        return each.reshape(len(each), *[1] * (most - each.ndim), *each.shape[1:])

    def question(numbers: Numbers | None) -> Tensor:
        given = {name: of(x, numbers) for name, x in kwargs.items()}
        found: Tensor = func(*[of(x, numbers) for x in args], **given)
        return found

    return Drawn.of(question(None), question)
