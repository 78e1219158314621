"""Drawn: what stands, in one run of a network for several passes, for the numbers that each has drawn for itself.

What is compared, rounded or indexed remains one answer for each pass. Where the network's code wants a single answer,
as `if` does, and the passes differ in it, it gets that of most of them; the others are no longer followed, though the
run goes on to its end with all, so that the network is left as every run leaves it.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

Numbers = Sequence[Tensor]
"""For each site that rows share, what some passes draw there: `[passes, *site.shape]`."""
Question = Callable[[Numbers], Tensor]
"""Finds the answer of each pass, `[passes, ...]`, from what it draws."""

_MOST_ANSWERS = 8  # of passes to one question, unless each is that of two passes or more


class Run:
    """One run of several passes: which of them it is right for.

    Attributes:
        followed: `[passes]`, whether each has decided so far as the run has.
        questions: those in which passes differed.
        undecided: whether more was done with what they draw than to decide by it.
        spoiled: whether the run is right for none, since something that was written to it was lost.
    """

    def __init__(self, passes: int) -> None:
        self.followed = torch.ones(passes, dtype=torch.bool)
        self.questions: list[Question] = []
        self.undecided = self.spoiled = False
        self._handed: list[tuple[Tensor, Tensor]] = []
        self._drawn: list[weakref.ref[Drawn]] = []

    def drawn(self, each: Tensor, question: Question) -> "Drawn":
        """What the passes have drawn, or made of it: `[passes, ...]`, and how that is found for others."""
        drawn = torch.zeros(each.shape[1:], dtype=each.dtype, device=each.device).as_subclass(Drawn)
        drawn.each, drawn.question, drawn.run, drawn.aliased = each, question, self, False
        self._drawn.append(weakref.ref(drawn))
        return drawn

    def answer(self, each: Tensor, question: Question) -> Tensor:
        """A copy of what most passes that are followed have, `[...]`, of `[passes, ...]`; the others are so no more."""
        flat = each.reshape(len(each), -1).cpu()
        places = torch.nonzero(self.followed).flatten()
        answers, which, counts = torch.unique(flat[places], dim=0, return_inverse=True, return_counts=True)
        if len(answers) > 1:
            is_whole = not flat.is_floating_point() or bool((answers == answers.floor()).all())
            if is_whole and len(answers) <= max(_MOST_ANSWERS, len(places) // 2):
                self.questions.append(question)
            else:
                self.undecided = True
            places = places[which == counts.argmax()]
            self.followed = torch.zeros_like(self.followed).index_fill_(0, places, True)
        given = each[int(places[0])]
        copy = given.clone()
        self._handed.append((given, copy))
        return copy

    def end(self) -> None:
        """See whether code has written to what it was handed, and so to nothing else."""
        self.spoiled = self.spoiled or not all(torch.equal(given, copy) for given, copy in self._handed)

    @property
    def kept(self) -> bool:
        """Whether somebody still holds what was drawn."""
        return any(drawn() is not None for drawn in self._drawn)


class Drawn(Tensor):
    """What each of several passes has drawn, or has made of it: for the network's code, a tensor `[...]` of one pass.

    Its own data are zeros that nobody reads.

    Attributes:
        each: `[passes, ...]`.
        question: finds `each` for other passes.
        run: in which it was drawn.
        aliased: whether another may be the same memory, as far as the network's code knows.
    """

    each: Tensor
    question: Question
    run: Run
    aliased: bool

    def write(self, found: "Drawn") -> "Drawn":
        """Take over what a function that works in place found."""
        if self.aliased or found.each.shape != self.each.shape:
            self.run.spoiled = True
        else:
            self.each, self.question = found.each.to(self.each.dtype), found.question
        return self

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _SAME_FOR_ALL:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        first = args[0] if args and isinstance(args[0], Drawn) else None
        if func in _FOR_EACH and _is_small(args, kwargs):
            return _for_each(func, args, kwargs, aliasing=func in _CAST)
        if first is not None:
            if func in _IN_PLACE and _is_small(args, kwargs):
                return first.write(_for_each(_IN_PLACE[func], args, kwargs))
            if func is Tensor.__getitem__ and _is_place(args[1]):
                return _part(first, args[1])
            if func is Tensor.item:
                return first if first.each.ndim == 1 else _for_each(_only, args, {}, aliasing=True)
            if func is Tensor.tolist:
                return [x.tolist() for x in first] if first.each.ndim > 1 else first
            if func in (Tensor.__iter__, Tensor.unbind, torch.unbind) and args[1:] in ((), (0,)) and not kwargs:
                parts = [_part(first, index) for index in range(first.each.shape[1])]
                return iter(parts) if func is Tensor.__iter__ else tuple(parts)
            if func is Tensor.__setitem__ and _is_place(args[1]) and not isinstance(args[2], Tensor):
                first.write(_for_each(partial(_with_part, index=args[1], value=args[2]), (first,), {}))
                return None
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
_CAST = (Tensor.to, Tensor.float, Tensor.double, Tensor.bool, Tensor.int, Tensor.long, Tensor.cpu, Tensor.detach)
_SPELLED = tuple(_functions(f"{_COMPARED} {_LOGICAL} {_COMPUTED} {_OPERATORS}"))
_FOR_EACH = {*(function for function, _ in _SPELLED), *_CAST, Tensor.clone, torch.clone}
_IN_PLACE = {in_place: function for function, in_place in _SPELLED if in_place is not None}
_PROPERTIES: tuple[Any, ...] = (Tensor.shape, Tensor.dtype, Tensor.device, Tensor.ndim, Tensor.layout, Tensor.is_cuda)
_SAME_FOR_ALL = {
    *(each.__get__ for each in (*_PROPERTIES, Tensor.requires_grad, Tensor.is_meta, Tensor.is_nested)),
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.__len__, Tensor.is_complex, Tensor.is_floating_point),
    *(torch.is_complex, torch.is_floating_point, torch.numel, torch.is_tensor),
}


def _agreed(given: Any) -> Any:
    """Arguments, in which what most passes have is in the place of what each has."""
    if isinstance(given, Drawn):
        return given.run.answer(given.each, given.question)
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


def _places(index: Any) -> tuple[Any, ...]:
    return (slice(None), *(index if type(index) is tuple else (index,)))


def _part(drawn: Drawn, index: Any) -> Drawn:
    return _for_each(lambda each: each[_places(index)], (drawn,), {}, aliasing=True)


def _with_part(each: Tensor, index: Any, value: Any) -> Tensor:
    each = each.clone()
    each[_places(index)] = value
    return each


def _only(each: Tensor) -> Tensor:
    """The one number that each pass has."""
    return each.reshape(len(each))


def _for_each(func: Any, args: Sequence[Any], kwargs: dict[str, Any], *, aliasing: bool = False) -> Drawn:
    """What a function that takes entries one by one gives for each pass."""
    most, names = _dimensions(args, kwargs), list(kwargs)
    given = [(x.each, x.question) if isinstance(x, Drawn) else x for x in (*args, *kwargs.values())]  # as they are now
    drawn = [x for x in (*args, *kwargs.values()) if isinstance(x, Drawn)]

    def of(x: Any, numbers: Numbers | None) -> Any:
        if type(x) is not tuple or not (x and isinstance(x[0], Tensor)):
            return x
        each = x[0] if numbers is None else x[1](numbers)
        return each.reshape(len(each), *[1] * (most - each.ndim), *each.shape[1:])

    def question(numbers: Numbers | None) -> Tensor:
        values = [of(x, numbers) for x in given]
        by_name = dict(zip(names, values[len(values) - len(names) :], strict=True))
        found: Tensor = func(*values[: len(values) - len(names)], **by_name)
        return found

    found = drawn[0].run.drawn(question(None), question)
    if aliasing:
        for x in (*drawn, found):
            x.aliased = True
    return found
