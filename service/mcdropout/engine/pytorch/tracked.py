"""Tracked copies: private copies of a network that know which of their parts is running, and what it draws."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mcdropout.engine.kinds import BERNOULLI, NORMAL, UNIFORM
from mcdropout.engine.pytorch.added import Added, put_behind
from mcdropout.engine.pytorch.calls import RandomCalls
from mcdropout.engine.pytorch.elsewhere import Elsewhere, seeded
from mcdropout.engine.pytorch.private.copies import Copy, private_copy
from mcdropout.engine.pytorch.private.outside import Watch
from mcdropout.engine.pytorch.random_call import Call, Mask, ModuleStack, Order
from mcdropout.engine.pytorch.seeding import Key, Seeding, Set, first_seed
from mcdropout.engine.pytorch.signature import Signature
from mcdropout.engine.pytorch.silent import never_draws


@dataclass(frozen=True)
class Draw:
    """A number drawn by a function that no mask can stand for.

    Attributes:
        path: the module that called it.
        operator: what drew.
        numbers: a checksum of what came out, where the call says which generator to draw from: from one that is made
            and seeded anew for each call comes always the same.
    """

    path: str
    operator: str
    numbers: int | None = None


@dataclass(frozen=True)
class Recording:
    """What was seen of one forward pass in which nothing was dropped.

    Attributes:
        calls: the random calls, in order.
        outputs: the tensors that the network returned.
        draws: what was drawn all the same.
        set: the generators that the network's own code had set for random calls, by the keys of these.
    """

    calls: tuple[Call, ...]
    outputs: tuple[Tensor, ...]
    draws: tuple[Draw, ...]
    set: Mapping[Key, Set]


class _Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operator that takes numbers from PyTorch's generators."""

    supports_higher_order_operators = True

    def __init__(self, path: Callable[[], str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[Draw] = []
        self._path = path

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in getattr(func, "tags", ()) and _draws(func, args):
            named = any(isinstance(each, torch.Generator) for each in (*args, *(kwargs or {}).values()))
            self.seen.append(Draw(self._path(), str(func), _checksum(found) if named else None))
        return found


def _checksum(found: Any) -> int | None:
    return zlib.crc32(found.cpu().contiguous().numpy().tobytes()) if isinstance(found, Tensor) else None


def in_eval_mode(copied: Copy) -> nn.Module:
    """A private copy in eval mode, whatever its own `eval()` does: it may switch dropout on, raise, or do nothing."""
    _call_of_its_own(copied.module.eval)
    for part in copied.parts.values():
        with suppress(Exception):  # a mode that cannot be set
            part.training = False
    return copied.module


def _call_of_its_own(switch: Callable[[], Any]) -> None:
    """Let a network do what it does when its mode is switched (merge weights, for one), if it can."""
    with suppress(Exception):
        switch()


def _draws(operator: Any, args: Sequence[Any]) -> bool:
    """Whether an operator that can draw does so, as it is called."""
    name = str(operator)
    if name.startswith("aten._scaled_dot_product"):  # its dropout is 0: `RandomCalls` sees to that
        return False
    if name.startswith("aten.rrelu_with_noise"):
        return len(args) > 4 and bool(args[4])
    return True


class Tracked:
    """A private copy of a module, in eval mode, that knows which of its parts is running.

    Attributes:
        copied: the copy.
        module: the network in it.
        parts: its modules by their paths, those that are not registered too.
        failed: the path of the innermost module that raised, where the last run ended so.
        stuck: the paths of modules that stay in a mode whatever they are put into.
        order: that of the random calls, where it is known.
        restless: whether modules were found in train mode that were put into eval mode: its own code had done it.
    """

    def __init__(
        self,
        module: nn.Module,
        watch: Watch | None = None,
        gradients: bool = False,
        *,
        added: Mapping[str, Added] | None = None,
        those_that_draw: bool = False,
    ) -> None:
        """
        Args:
            module: what to copy.
            watch: notices what runs outside of the copy while it is recorded.
            gradients: whether parameters keep theirs.
            added: dropout that is put behind modules, by their paths.
            those_that_draw: whether of its parts only those are tracked that may draw, which takes less time; where
                others raise, `failed` is then the module around them.

        Raises:
            UnsupportedModelError: the module cannot be copied.
        """
        copied = private_copy(module)
        self.module, self.parts = in_eval_mode(copied), copied.parts
        for tensor in copied.tensors:
            if tensor.is_leaf:
                tensor.requires_grad_(gradients and tensor.requires_grad)
        self.copied, self._watch = copied, watch
        self.failed: str | None = None
        self.restless = False
        self.order: Order | None = None
        self._paths: list[str] = []  # of the modules that are running, and what each was called with
        self._inputs: list[tuple[Any, ...]] = []
        self._elsewhere: Elsewhere | None = None
        self._drawn_elsewhere: list[Draw] = []
        self._passed: list[tuple[str, list[Tensor]]] | None = None
        self.wake(())
        for path, dropout in (added or {}).items():
            put_behind(self.parts[path], path, dropout)
        for path, part in self.parts.items():
            if those_that_draw and path and never_draws(part) and not isinstance(part, _NormBase):
                continue
            part.register_forward_pre_hook(self._entering(path), prepend=True, with_kwargs=True)
            part.register_forward_hook(self._leaving, always_call=True)

    def _entering(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, named: Any) -> None:
            if module.training and not self._training[path] and path not in self.stuck:
                self.restless, module.training = True, False
            self._look((inputs, named))
            self._paths.append(path)
            self._inputs.append((*inputs, *named.values()) if named else inputs)

        return hook

    def _leaving(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self._look(output)
        path, _ = self._paths.pop(), self._inputs.pop()
        if output is not None:
            self.failed = None
        elif self.failed is None:  # where a module raises, it and those around it leave without an output
            self.failed = path

    def _look(self, handed: Any) -> None:
        """Note what the running module did until it hands tensors to one within it, or to the one around it."""
        if self._elsewhere is not None:
            self._drawn_elsewhere += [Draw(self._path(), name) for name in self._elsewhere.moved()]
        if self._passed is not None:
            tensors = [leaf.detach().clone() for leaf in tree_leaves(handed) if isinstance(leaf, Tensor)]
            self._passed.append((self._path(), tensors))

    def passed(self, signature: Signature, inputs: Sequence[Tensor], seed: int) -> list[tuple[str, list[Tensor]]]:
        """The tensors that modules hand on in one pass with nothing dropped, in order, each with who does."""
        handed: list[tuple[str, list[Tensor]]] = []
        self._passed = handed
        try:
            self.record(signature, inputs, seed=seed, whatever=True)
        finally:
            self._passed = None
        return handed

    def _path(self) -> str:
        return self._paths[-1] if self._paths else ""

    def _stack(self) -> ModuleStack:
        return ModuleStack(tuple(self._paths), self._inputs[-1]) if self._paths else ModuleStack()

    @contextmanager
    def answering(self, answer: Callable[[Call], Mask], *, in_order: bool = True) -> Iterator[None]:
        """While it is entered, `answer` gives the mask of every random call. Modes that a pass changes are put back.

        Calls are numbered as they are where all are made; where they are not `in_order`, as they come.
        """
        self._paths.clear()
        self._inputs.clear()
        self.failed = None
        modes = [(part, part.training) for part in self.parts.values()]
        try:
            with RandomCalls(self._stack, answer, self.order if in_order else None):
                yield
        finally:
            for part, training in modes:
                if part.training is not training:
                    part.training = training

    def train_but_normalization(self, asleep: Iterable[str] = ()) -> Self:
        """Train mode, but for modules that are `asleep`, and for normalization layers, which are no dropout, and which
        a single row would make fail; those with code of their own may drop too."""
        _call_of_its_own(self.module.train)
        norms = {path for path, part in self.parts.items() if isinstance(part, _NormBase)}
        resting = set(asleep) | {path for path in norms if type(self.parts[path]).__module__.startswith("torch.")}
        return self.wake(self.parts.keys() - resting)

    def wake(self, paths: Iterable[str]) -> Self:
        """Eval mode, but for the modules at `paths` (and not for those below them)."""
        awake = set(paths)
        self._training = {path: path in awake for path in self.parts}
        for path, part in self.parts.items():
            with suppress(Exception):  # a mode that cannot be set
                part.training = self._training[path]
        self.stuck = {path for path, part in self.parts.items() if part.training is not self._training[path]}
        return self

    def record(
        self,
        signature: Signature,
        inputs: Sequence[Tensor],
        *,
        variant: int = 0,
        seed: int = 0,
        keep_data: bool = False,
        answer: Callable[[Call], Mask] | None = None,
        gradients: bool = False,
        whatever: bool = False,
    ) -> Recording:
        """Run once, with nothing dropped.

        Args:
            signature: how to call it.
            inputs: `[rows, ...]` each.
            variant: which numbers code that draws its own gets.
            seed: of the generators of PyTorch, Python and NumPy, for draws that no mask can stand for.
            keep_data: whether calls hold a copy of what they drop from.
            answer: the masks, instead.
            gradients: whether what gradients take is recorded.
            whatever: take all tensors that it returns, whatever the signature says: in train mode some return more.
        """
        calls: list[Call] = []

        def kept(call: Call) -> Mask:
            data = call.data.clone() if keep_data and call.data is not None else None
            calls.append(replace(call, data=data, stack=call.stack._replace(inputs=())))
            seeding.met(call)
            if self._watch is not None:
                self._watch.drawn()
            if answer is not None:
                return answer(call)
            return numbers(call, variant) if call.raw else None

        draws = _Draws(self._path)
        with ExitStack() as entered:
            if self._watch is not None:
                entered.enter_context(self._watch.running(self.copied))
            entered.enter_context(torch.random.fork_rng(devices=[]))
            entered.enter_context(torch.set_grad_enabled(gradients))
            torch.manual_seed(first_seed(seed))
            self.copied.seed(first_seed(seed))
            seeding = Seeding(seed, self.copied.generators)
            self._drawn_elsewhere = []
            self._elsewhere = entered.enter_context(seeded(seed, self.copied.generators))
            entered.callback(setattr, self, "_elsewhere", None)
            entered.enter_context(draws)
            entered.enter_context(self.answering(kept))
            copies = [x.clone() for x in inputs]
            if whatever:
                leaves = tree_leaves(signature.returned(self.module, copies))
                outputs = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
            else:
                outputs = signature.call(self.module, copies)
            seeding.ended()
        return Recording(tuple(calls), outputs, (*draws.seen, *self._drawn_elsewhere), seeding.found)


KEEPING, DROPPING = -1, -2
"""The variants of numbers with which most code that draws its own leaves nothing out, and all that it can."""


_ALIKE = {
    KEEPING: {UNIFORM: 0.999, NORMAL: 0.0, BERNOULLI: 1.0},
    DROPPING: {UNIFORM: 0.001, NORMAL: -3.0, BERNOULLI: 0.0},
}


def numbers(call: Call, variant: int) -> Tensor:
    """Some numbers of a raw call's kind, always the same for a call and a variant."""
    if variant in _ALIKE:
        return torch.full(list(call.mask_shape), _ALIKE[variant][call.kind])
    generator = np.random.default_rng([variant, zlib.crc32(call.path.encode()), call.number])
    shape = [int(size) for size in call.mask_shape]
    if call.kind == NORMAL:
        return torch.from_numpy(np.asarray(generator.standard_normal(shape), np.float32))
    drawn = generator.random(shape)
    return torch.from_numpy(np.asarray(drawn if call.p is None else drawn >= call.p, np.float32))
