"""Sites: the places in a forward pass that draw randomness; found by running the module, and substituted by masks.

A site is a call, not a class. The module is run once in train mode and once in eval mode under a
`TorchFunctionMode`, which sees every dropout call whether an `nn.Dropout` made it or a plain `F.dropout` in a
`forward`. Calls that drop in train mode are the sites. The module that serves stays in eval mode, where the same calls
are still made: the mode puts `x * mask` in their place. Only where a call is gone in eval mode (`if self.training:`)
does the one module that made it leave eval mode, and nothing below it.
"""

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from service.engine.errors import UnsupportedModelError

# Self-normalizing networks: the value that a dropped unit takes (Klambauer et al. 2017), as PyTorch has it.
_SELU_SATURATION = -1.7580993408473766

_ELEMENT, _CHANNEL, _ALPHA, _FEATURE_ALPHA = "element", "channel", "alpha", "feature_alpha"

# Each function that drops units: the kind of dropout, and the position and name of the argument that switches it on.
_DROPOUT_FUNCTIONS: dict[Callable[..., Any], tuple[str, str]] = {
    F.dropout: (_ELEMENT, "training"),
    F.dropout1d: (_CHANNEL, "training"),
    F.dropout2d: (_CHANNEL, "training"),
    F.dropout3d: (_CHANNEL, "training"),
    F.alpha_dropout: (_ALPHA, "training"),
    F.feature_alpha_dropout: (_FEATURE_ALPHA, "training"),
    torch.dropout: (_ELEMENT, "train"),
    torch.dropout_: (_ELEMENT, "train"),
    torch.feature_dropout: (_CHANNEL, "train"),
    torch.feature_dropout_: (_CHANNEL, "train"),
    torch.alpha_dropout: (_ALPHA, "train"),
    torch.alpha_dropout_: (_ALPHA, "train"),
    torch.feature_alpha_dropout: (_FEATURE_ALPHA, "train"),
    torch.feature_alpha_dropout_: (_FEATURE_ALPHA, "train"),
}
_INPLACE_FUNCTIONS = {
    torch.dropout_,
    torch.feature_dropout_,
    torch.alpha_dropout_,
    torch.feature_alpha_dropout_,
}
# The dropout of these functions takes an input without a row dimension where it has this many dimensions.
_UNBATCHED_DIMENSIONS = {F.dropout1d: 2, F.dropout3d: 4}


@dataclass(frozen=True)
class Site:
    """One place in the forward pass that draws randomness.

    Attributes:
        path: the module that makes the call, as in `named_modules()`; empty for the network itself.
        call: which of that module's dropout calls in one forward pass, from 0.
        kind: "element", "channel", "alpha" or "feature_alpha".
        p: the probability that a unit is dropped.
        scope: "row" where every row draws its own mask, "pass" where one mask serves all rows of a request.
        shape: the mask's shape for one row (or one pass), without the row dimension.
        row_axis: the dimension of the call's input that holds the rows; None where the scope is "pass".
        rows_per_row: how many consecutive entries along `row_axis` belong to one row of the network's input.
        in_eval: whether the call is made in eval mode too, so that its module stays there.
    """

    path: str
    call: int
    kind: str
    p: float
    scope: str
    shape: tuple[int, ...]
    row_axis: int | None
    rows_per_row: int = 1
    in_eval: bool = True

    @property
    def name(self) -> str:
        """The module path, with the call's number where the module makes more than one: `head.3`, `block#1`."""
        path = self.path or "(network)"
        return f"{path}#{self.call}" if self.call else path

    @property
    def units(self) -> int:
        """How many units one pass of one row draws."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def shifted(self) -> bool:
        """Whether a dropped unit takes a value other than 0, so that the mask holds a factor and a summand a unit."""
        return self.kind in (_ALPHA, _FEATURE_ALPHA)

    @property
    def mask_shape(self) -> tuple[int, ...]:
        """The shape of the mask that a program takes for one row (or one pass)."""
        return (2, *self.shape) if self.shifted else self.shape

    @property
    def kept(self) -> tuple[float, float]:
        """The factor and the summand of a unit that is kept."""
        if self.p >= 1.0:
            return 0.0, 0.0
        if not self.shifted:
            return 1.0 / (1.0 - self.p), 0.0
        scale = ((_SELU_SATURATION**2 * self.p + 1.0) * (1.0 - self.p)) ** -0.5
        return scale, -_SELU_SATURATION * scale * self.p

    @property
    def dropped(self) -> tuple[float, float]:
        """The factor and the summand of a unit that is dropped."""
        if self.p >= 1.0 or not self.shifted:
            return 0.0, 0.0
        scale, shift = self.kept
        return 0.0, shift + _SELU_SATURATION * scale


@dataclass(frozen=True)
class _Call:
    """A dropout call seen while a module ran."""

    path: str
    number: int
    kind: str
    p: float
    active: bool
    mask_shape: tuple[int, ...]

    @property
    def key(self) -> tuple[str, int]:
        return self.path, self.number


class _DropoutCalls(TorchFunctionMode):
    """Hands each dropout call to `answer` instead of running it; `path()` tells which module is running."""

    def __init__(self, path: Callable[[], str], answer: Callable[[_Call, Tensor], Tensor]) -> None:
        super().__init__()
        self._path = path
        self._answer = answer
        self._numbers: Counter[str] = Counter()

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _DROPOUT_FUNCTIONS:
            return func(*args, **kwargs)
        kind, switch = _DROPOUT_FUNCTIONS[func]
        x: Tensor = args[0] if args else kwargs["input"]
        p = float(args[1] if len(args) > 1 else kwargs.get("p", 0.5))
        default = func is not F.alpha_dropout and func is not F.feature_alpha_dropout
        active = bool(args[2] if len(args) > 2 else kwargs.get(switch, default))
        path = self._path()
        mask_shape = tuple(x.shape)
        if kind in (_CHANNEL, _FEATURE_ALPHA):
            leading = 1 if x.dim() == _UNBATCHED_DIMENSIONS.get(func) else 2
            mask_shape = (*x.shape[:leading], *[1] * (x.dim() - leading))
        call = _Call(path, self._numbers[path], kind, p, active and p > 0.0, mask_shape)
        self._numbers[path] += 1
        result = self._answer(call, x)
        inplace = func in _INPLACE_FUNCTIONS or (len(args) > 3 and args[3]) or kwargs.get("inplace", False)
        return x.copy_(result) if inplace and result is not x else result


class _Tracked:
    """A private copy of a module, in eval mode, that knows which of its parts is running."""

    def __init__(self, module: nn.Module) -> None:
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self._running: list[str] = []
        for path, part in self.module.named_modules():
            part.register_forward_pre_hook(self._entering(path))
            part.register_forward_hook(self._leaving, always_call=True)

    def _entering(self, path: str) -> Callable[[nn.Module, Any], None]:
        def hook(_module: nn.Module, _inputs: Any) -> None:
            self._running.append(path)

        return hook

    def _leaving(self, _module: nn.Module, _inputs: Any, _output: Any) -> None:
        self._running.pop()

    def answering(self, answer: Callable[[_Call, Tensor], Tensor]) -> AbstractContextManager[Any]:
        """While it is entered, `answer` computes the output of every dropout call."""
        self._running.clear()
        return _DropoutCalls(lambda: self._running[-1] if self._running else "", answer)

    def train_but_normalization(self) -> Self:
        """Train mode, but for normalization layers: theirs is no dropout, and a single row would make them fail."""
        self.module.train()
        for part in self.module.modules():
            if isinstance(part, _NormBase):
                part.eval()
        return self

    def record(self, inputs: tuple[Tensor, ...], seed: int = 0) -> tuple[list[_Call], list[Any]]:
        """The dropout calls of one pass in which none of them drops, and the leaves of its output."""
        calls: list[_Call] = []

        def answer(call: _Call, x: Tensor) -> Tensor:
            calls.append(call)
            return x

        with torch.no_grad(), torch.random.fork_rng(devices=[]), self.answering(answer):
            torch.manual_seed(seed)
            output = self.module(*(x.clone() for x in inputs))
        return calls, tree_leaves(output)


class Network:
    """A private, frozen copy of a user's module, in eval mode, whose sites take masks.

    `sites` lists what is random. `run` evaluates `f(x, masks)`. Not thread-safe: one pass at a time.
    """

    def __init__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Find the sites of `module`.

        Args:
            module: the trained network; left as it is.
            inputs: example inputs, each `[rows, ...]`.

        Raises:
            UnsupportedModelError: the module has no site, has randomness that is no dropout call, or cannot be
                copied or run.
        """
        try:
            self._tracked = _Tracked(module)
        except Exception as error:
            raise UnsupportedModelError(
                f"{type(module).__name__} cannot be copied ({error}); the engine works on a copy of its own, so "
                "copy.deepcopy(module) has to work"
            ) from error
        self.sites = _find_sites(module, inputs)
        self._by_key = {(site.path, site.call): index for index, site in enumerate(self.sites)}
        owners = {site.path for site in self.sites if not site.in_eval}
        for path, part in self.module.named_modules():
            part.training = path in owners

    @property
    def module(self) -> nn.Module:
        """The copy. Its modules are in eval mode, but for those whose dropout calls vanish there."""
        return self._tracked.module

    def substitution(self, masks: Sequence[Tensor]) -> AbstractContextManager[Any]:
        """While it is entered, each site multiplies its input by its mask, and no other dropout call drops.

        Args:
            masks: one for each of `sites`, `[rows, *site.mask_shape]`, or `[*site.mask_shape]` where its scope is
                "pass".
        """

        def answer(call: _Call, x: Tensor) -> Tensor:
            index = self._by_key.get(call.key)
            return x if index is None else _apply(self.sites[index], x, masks[index])

        return self._tracked.answering(answer)

    def silenced(self) -> AbstractContextManager[Any]:
        """While it is entered, no dropout call of any module drops: not even one that ignores eval mode."""
        return _DropoutCalls(lambda: "", lambda _call, x: x)

    def run(self, inputs: tuple[Tensor, ...], masks: Sequence[Tensor]) -> Any:
        """`f(x, masks)`: the network's output with the given mask at each site."""
        with self.substitution(masks):
            return self.module(*inputs)


def _find_sites(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[Site]:
    two, three = (tuple(with_rows(x, rows) for x in inputs) for rows in (2, 3))
    try:
        small, output = _Tracked(module).train_but_normalization().record(two)
        _, output_of_another_seed = _Tracked(module).train_but_normalization().record(two, seed=1)
        large, _ = _Tracked(module).train_but_normalization().record(three)
        in_eval = {call.key: call for call in _Tracked(module).record(two)[0]}
    except Exception as error:
        raise UnsupportedModelError(
            f"the network does not run on the example input of shape {[list(x.shape) for x in two]}: {error}"
        ) from error
    if others := [type(leaf).__name__ for leaf in output if not isinstance(leaf, Tensor)]:
        raise UnsupportedModelError(f"the network returns {', '.join(others)}; a tensor, or two of them, is accepted")
    if not all(map(_same, output, output_of_another_seed)):
        raise UnsupportedModelError(
            "the network draws randomness in train mode outside nn.Dropout*, nn.AlphaDropout and F.dropout* (as "
            "attention and recurrent layers with a dropout of their own do), which would stay off; only those calls "
            "can be served"
        )
    active = [call for call in small if call.active]
    if not active:
        seen = ", ".join(f"{call.path or '(network)'} p={call.p:g}" for call in small) or "none"
        raise UnsupportedModelError(
            f"the network has no dropout to switch on (dropout calls seen: {seen}); Monte Carlo dropout needs at "
            "least one with p above 0 on the way from input to output"
        )
    if [call.key for call in small] != [call.key for call in large]:
        raise UnsupportedModelError(
            "the network makes other dropout calls with 3 rows than with 2; its calls must not depend on the rows"
        )
    shapes = {call.key: call.mask_shape for call in large}
    gone_in_eval = {
        call.path
        for call in active
        if (twin := in_eval.get(call.key)) is None or (twin.kind, twin.p) != (call.kind, call.p)
    }
    return [_site(call, shapes[call.key], call.path not in gone_in_eval) for call in active]


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def with_rows(x: Tensor, rows: int) -> Tensor:
    """`x` cut, or repeated in turn, to `rows` rows."""
    return x[torch.arange(rows, device=x.device) % x.shape[0]]


def _site(call: _Call, shape_of_three: tuple[int, ...], in_eval: bool) -> Site:
    """Describe a call from the shapes of its mask with two rows and with three."""
    where = f"the dropout of {call.path or '(network)'}"
    two = call.mask_shape
    axes = [axis for axis, (a, b) in enumerate(zip(two, shape_of_three, strict=False)) if a != b]
    if len(two) != len(shape_of_three) or len(axes) > 1:
        raise UnsupportedModelError(
            f"{where} has the shape {list(two)} with 2 rows and {list(shape_of_three)} with 3; exactly one dimension "
            "may follow the rows"
        )
    if not axes:
        return Site(call.path, call.number, call.kind, call.p, "pass", two, None, in_eval=in_eval)
    (axis,) = axes
    times, remainder = divmod(two[axis], 2)
    if remainder or shape_of_three[axis] != 3 * times:
        raise UnsupportedModelError(
            f"{where} has {two[axis]} entries for 2 rows and {shape_of_three[axis]} for 3; it must have the same "
            "number for each row"
        )
    unit_shape = (*two[:axis], *two[axis + 1 :])
    shape = unit_shape if times == 1 else (times, *unit_shape)
    return Site(call.path, call.number, call.kind, call.p, "row", shape, axis, times, in_eval)


def _apply(site: Site, x: Tensor, mask: Tensor) -> Tensor:
    """The output of `site` for its input `x`: a factor for each unit and, for the alpha kinds, a summand."""
    mask = mask.to(x.dtype)
    if not site.shifted:
        return x * _place(site, mask)
    factor, summand = mask.unbind(0 if site.scope == "pass" else 1)
    return x * _place(site, factor) + _place(site, summand)


def _place(site: Site, mask: Tensor) -> Tensor:
    """Bring `[rows, *site.shape]` into the dimensions of the site's input."""
    if site.row_axis is None:
        return mask
    if site.rows_per_row > 1:
        mask = mask.flatten(0, 1)
    return mask.movedim(0, site.row_axis) if site.row_axis else mask
