"""Networks: a private copy of a user's module, whose random calls take masks: `f(x, masks)`."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mcdropout.engine.cutting.placement import Move, mask_moves, parts_axis, site_like
from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.pytorch.added import Added
from mcdropout.engine.pytorch.calls import RandomCalls
from mcdropout.engine.pytorch.ends import Ending
from mcdropout.engine.pytorch.fan import Fan, OtherCallsError, fans, repeated
from mcdropout.engine.pytorch.mapping import unwarned
from mcdropout.engine.pytorch.moves import moved
from mcdropout.engine.pytorch.private.copies import Copy, private_copy
from mcdropout.engine.pytorch.random_call import Call, Form, Known, Mask, ModuleStack, Order, begun, fits
from mcdropout.engine.pytorch.signature import Signature, described
from mcdropout.engine.pytorch.tracked import DROPPING, KEEPING, Tracked, in_eval_mode, numbers
from mcdropout.engine.returned import Returned
from mcdropout.engine.sites import Site, site_name
from mcdropout.engine.verify import HALF_TOLERANCE, PROGRAM_TOLERANCE

InEval = Callable[[Sequence[Tensor]], tuple[Tensor, ...]]
"""Runs a network in eval mode: `[rows, ...]` each, all in one batch."""
_VARIANTS = (0, KEEPING, DROPPING, *range(1, 32))  # of numbers that a network draws itself


class Network:
    """A private, frozen copy of a user's module whose sites take masks. `run` evaluates `f(x, masks)`.

    Its modules are in eval mode, but for those whose random calls vanish there. Not thread-safe: one pass at a time.

    Attributes:
        sites: what takes a mask, in the order in which a pass met it (and then what only other passes meet).
        awake: the paths of the modules that are out of eval mode.
        signature: how it is called.
        always_on: whether some of its dropout does not heed eval mode.
        alone: whether each row is run as a batch of its own, because rows would influence one another, or because some
            calls are made `one_by_one`.
        repeats: how many passes of one row may be one batch then: so many equal rows do not influence one another.
        fan: which random calls of such a batch are whose, where a row makes some by itself.
        maps: whether rows that are run alone are mapped over all at once, as far as is known.
    """

    def __init__(
        self,
        module: nn.Module,
        signature: Signature,
        sites: Sequence[Site],
        awake: Iterable[str] = (),
        known: Mapping[tuple[str, int], Known] | None = None,
        known_in_eval: Mapping[tuple[str, int], Known] | None = None,
        added: Mapping[str, Added] | None = None,
    ) -> None:
        """`mcdropout.engine.pytorch.find.discovery.discover` finds out what to hand over here.

        `known` are all random calls that were seen with the modules `awake`, and `known_in_eval` with none. `added` is
        dropout that is put behind modules, by their paths.
        """
        self.sites = tuple(sites)
        self.awake = frozenset(awake)
        self.signature = signature
        self.always_on = False
        self.alone, self.repeats = self.one_by_one, 1
        self.fan: Fan | None = None
        self._origin, self._added = module, dict(added or {})
        self._tracked = Tracked(module, gradients=signature.gradients, added=self._added, those_that_draw=True).wake(
            self.awake
        )
        self._known, self._known_in_eval = dict(known or {}), dict(known_in_eval or {})
        self._tracked.order = Order(self._known)
        self._places = _places_of(self.sites)
        self.maps = True

    @property
    def module(self) -> nn.Module:
        """The copy."""
        return self._tracked.module

    @property
    def training(self) -> frozenset[str]:
        """The paths of its modules that are out of eval mode, but for those that no setting takes there or back."""
        tracked = self._tracked
        return frozenset(path for path, part in tracked.parts.items() if part.training and path not in tracked.stuck)

    @property
    def copied(self) -> Copy:
        """The copy, with what it holds that is not registered in it."""
        return self._tracked.copied

    @property
    def origin(self) -> nn.Module:
        """The module that it is a copy of, as it was handed over."""
        return self._origin

    @property
    def tolerance(self) -> float:
        """How far a program may be from it under the same masks."""
        half = any(value.dtype in (torch.float16, torch.bfloat16) for value in state_of(self.module).values())
        return HALF_TOLERANCE if half else PROGRAM_TOLERANCE

    @property
    def one_by_one(self) -> bool:
        """Whether some of its sites are calls that it makes for each row by itself."""
        return any(site.one_by_one for site in self.sites)

    @property
    def has_raw_sites(self) -> bool:
        """Whether some masks are numbers for the network's own code, so that no masks stand for "nothing dropped"."""
        return any(site.raw for site in self.sites)

    def variant(self, sites: Sequence[Site], awake: Iterable[str]) -> "Network":
        """Another copy of the same network with other sites."""
        known = self._known if awake else self._known_in_eval
        network = Network(self._origin, self.signature, sites, awake, known, self._known_in_eval, self._added)
        network.always_on, network.alone, network.repeats = self.always_on, self.alone, self.repeats
        return network

    @classmethod
    def joined(cls, networks: "Sequence[Network]", sites: Iterable[Site]) -> "Network":
        """One of several of the same module, each of which was seen to draw for other rows; with all their sites."""
        first = networks[0]
        known, in_eval = (
            {key: one for each in every for key, one in each.items()}
            for every in ([network._known for network in networks], [network._known_in_eval for network in networks])
        )
        awake = frozenset().union(*(network.awake for network in networks))
        network = cls(first._origin, first.signature, tuple(sites), awake, known, in_eval, first._added)
        network.always_on = any(each.always_on for each in networks)
        return network

    def copy(self) -> "Network":
        """Another copy."""
        network = self.variant(self.sites, self.awake)
        network.maps, network.fan = self.maps, self.fan
        return network

    def at(self, sites: Sequence[Site]) -> "Network":
        """The same network, with the same copy in it, for inputs of other sizes, where its sites are as given."""
        network = copy.copy(self)
        network.sites, network._places = tuple(sites), _places_of(sites)
        return network

    def sites_like(self, inputs: Sequence[Tensor], fewer: Sequence[Tensor]) -> tuple[Site, ...]:
        """Its sites as they are for inputs of other sizes, of three rows and of two, if it takes more than one.

        Raises:
            UnsupportedModelError: it makes other random calls for them.
        """
        batches = [[x[:1] for x in inputs]] * 2 if self.one_by_one else [inputs, fewer]
        three, two = map(self._calls_for, batches)
        found: list[Site] = []
        for site in self.sites:
            key = (site.path, site.call)
            if key not in two or key not in three or two[key].form != self._form(key):
                raise UnsupportedModelError(
                    f"the network makes other random calls than at the sizes of the examples: {site.name} is not among "
                    "them; the same calls at all sizes are accepted"
                )
            found.append(site_like(site, two[key].mask_shape, three[key].mask_shape))
        if extra := [key for key in two if key not in self._known]:
            raise UnsupportedModelError(
                f"{site_name(*extra[0])} makes a random call that it does not make at the sizes of the examples; the "
                "same calls at all sizes are accepted"
            )
        return tuple(found)

    def _form(self, key: tuple[str, int]) -> Form | None:
        known = self._known.get(key)
        return None if known is None else known.form

    def _calls_for(self, inputs: Sequence[Tensor]) -> dict[tuple[str, int], Call]:
        """The random calls that it makes for some rows, by their keys; for one set of its own numbers or another."""
        found: dict[tuple[str, int], Call] = {}
        for variant in _VARIANTS if self.has_raw_sites else _VARIANTS[:1]:
            calls = self._tracked.record(self.signature, inputs, variant=variant).calls
            found = {call.key: call for call in calls} | found
            if found.keys() >= self._places.keys():
                break
        return found

    def baseline(self) -> "Network":
        """The same network with no site: all in eval mode, nothing dropped."""
        return self.variant((), ())

    def eval_outputs(
        self, inputs: Sequence[Tensor], *, together: bool = False, run: InEval | None = None
    ) -> tuple[Tensor, ...]:
        """`module.eval()(x)` of a copy without hooks of ours: of `run`, as `in_eval` gives it, or of another.

        Dropout that does not heed eval mode is kept from dropping. Each row is a batch of its own where `alone`, unless
        all are wanted `together`.
        """
        run = run or self.in_eval()
        batches: Iterable[Sequence[Tensor]] = [inputs]
        if self.alone and not together:
            batches = [[x[row : row + 1] for x in inputs] for row in range(len(inputs[0]))]
        parts = [run(batch) for batch in batches]
        return tuple(torch.cat(outputs).cpu() for outputs in zip(*parts, strict=True))

    def in_eval(self) -> InEval:
        """A copy without hooks of ours in eval mode, that takes all rows in one batch."""
        module = in_eval_mode(private_copy(self._origin))
        device = next((value.device for value in state_of(module).values()), torch.device("cpu"))

        def run(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
            with torch.no_grad(), self._silenced() if self.always_on else nullcontext():
                return self._call(module, [x.clone().to(device) for x in inputs])

        return run

    @staticmethod
    def _silenced() -> AbstractContextManager[Any]:
        return RandomCalls(ModuleStack, lambda _: None)

    def find_ending(self, inputs: Sequence[Tensor], masks: Sequence[Tensor]) -> tuple[Ending | None, bool]:
        """Which function makes its one output; None where none does. And whether that is a linear layer's.

        Arguments as for `run`.
        """
        inputs, masks = self._taken_together(inputs, masks)
        with torch.no_grad(), self.substitution(masks):
            return self.signature.find_ending(self.module, inputs)

    def returned(self, inputs: Sequence[Tensor], masks: Sequence[Tensor]) -> Returned:
        """What it returns, and what of that may be named. Arguments as for `run`."""
        inputs, masks = self._taken_together(inputs, masks)
        with torch.no_grad(), self.substitution(masks):
            return described(self.signature.returned(self.module, inputs))

    def _taken_together(
        self, inputs: Sequence[Tensor], masks: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """So many first rows as it takes in one call, and their masks as `substitution` takes them."""
        if not self.one_by_one:
            return inputs, masks
        first = [mask[0] if site.one_by_one else mask for mask, site in zip(masks, self.sites, strict=True)]
        return [x[:1] for x in inputs], first

    def substitution(self, masks: Sequence[Tensor]) -> AbstractContextManager[Any]:
        """While it is entered, each site takes its mask, and no other random call draws. Of numbers that are drawn for
        nothing the network's code gets always the same.

        Args:
            masks: one for each of `sites`, `[rows, *site.mask_shape]`, or `[*site.mask_shape]` where its scope is
                "pass", and where it is `one_by_one`, so that there is one row.
        """

        def answer(call: Call) -> Mask:
            key = call.key
            place = self._places.get(key)
            mask = place.of(masks[place.index]) if place else numbers(call, KEEPING) if call.raw else None
            if self.alone:
                mask = begun(mask, call.mask_shape)
            if self._form(key) == call.form and not fits(mask, call.mask_shape):
                held = mask[0] if isinstance(mask, tuple) else mask
                assert held is not None
                raise UnsupportedModelError(
                    f"{site_name(*key)} draws {list(call.mask_shape)} for these rows, where {list(held.shape)} is what "
                    "it drew for the examples; a network that draws as much for each row is accepted, or, where it "
                    "cuts rows to the longest, an example as long as rows can be"
                )
            if self._form(key) != call.form:
                raise UnsupportedModelError(
                    f"{site_name(*key)} makes a random call ({call.kind}) that was not made when sites were "
                    "looked for; a network whose calls depend neither on its inputs' values nor on draws nor on "
                    "earlier passes is accepted"
                )
            return mask

        return self._tracked.answering(answer)

    @torch.no_grad()  # not inference_mode, in which code that finds derivatives in its forward pass cannot
    def run(self, inputs: Sequence[Tensor], masks: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """`f(x, masks)`: the network's outputs, `[rows, ...]` each, with the given mask at each site.

        Args:
            inputs: `[rows, ...]` each.
            masks: one for each of `sites`, `[rows, *site.mask_shape]`, or `[*site.mask_shape]` where its scope is
                "pass".
        """
        return self._run_alone(inputs, masks) if self.alone else self.run_as_one(inputs, masks)

    @torch.no_grad()
    def run_as_one(self, inputs: Sequence[Tensor], masks: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The same with all rows in one batch, even where they influence one another; arguments as for `run`.

        Those of a network that makes some calls for each row by itself must equal one another.
        """
        if not self.one_by_one:
            return self._call(self.module, inputs, masks)
        if self.fan is not None and inputs[0].shape[0] > 1:
            with suppress(Exception):  # it makes other calls for such a row than for the examples, or takes one alone
                return self._run_fanned(self.fan, inputs, masks)
        return self._run_alone(inputs, masks)

    def fans(self, inputs: Sequence[Tensor]) -> Iterator[Fan]:
        """What the random calls of the first of some rows, in one batch as often as one likes, may stand for."""
        if all(site.one_by_one for site in self.sites) and all(call.always for call in self._known.values()):
            seen = [self._tracked.record(self.signature, x, variant=KEEPING) for x in repeated(inputs)]
            yield from fans(*(recording.calls for recording in seen))

    def _run_fanned(self, fan: Fan, inputs: Sequence[Tensor], masks: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Equal rows, each under masks of its own, in one batch.

        Raises:
            OtherCallsError: the network makes other calls than the fan says.
        """
        passes = inputs[0].shape[0]
        left = fan.parts(passes)

        def answer(call: Call) -> Mask:
            part = left.pop(call.key, None)
            if part is None or part.form != call.form:
                raise OtherCallsError
            place = self._places.get(part.call)
            if place is None:
                return numbers(call, KEEPING) if call.raw else None
            mask = part.mask(place.of_each(masks[place.index]), call.mask_shape, passes)
            if not fits(mask, call.mask_shape):
                raise OtherCallsError
            return mask

        with self._tracked.answering(answer, in_order=False):
            outputs = self.signature.call(self.module, inputs)
        if left:
            raise OtherCallsError
        return outputs

    def _call(
        self, module: nn.Module, inputs: Sequence[Tensor], masks: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """Call the copy, or another, with all rows in one batch; one that is not the copy takes no masks."""
        single = self.signature.in_pairs and inputs[0].shape[0] == 1
        if single:
            inputs = [torch.cat([x, x]) for x in inputs]
            pairs = zip(masks or (), self.sites, strict=False)
            masks = masks and [torch.cat([mask, mask]) if site.scope == "row" else mask for mask, site in pairs]
        with nullcontext() if masks is None else self.substitution(masks):
            outputs = self.signature.call(module, inputs)
        return tuple(out[:1] for out in outputs) if single else outputs

    def _run_alone(self, inputs: Sequence[Tensor], masks: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Each row as a batch of its own: mapped over all rows at once, or, where that fails, one after another."""
        per_row = [site.scope == "row" for site in self.sites]
        in_batches = [site.row_axis is not None for site in self.sites]

        def one(x: Sequence[Tensor], drawn: Sequence[Tensor]) -> tuple[Tensor, ...]:
            placed = [mask.unsqueeze(0) if batch else mask for mask, batch in zip(drawn, in_batches, strict=True)]
            outputs = self._call(self.module, [value.unsqueeze(0) for value in x], placed)
            return tuple(out.squeeze(0) for out in outputs)

        if self.maps:
            axes = ([0] * len(inputs), [0 if own else None for own in per_row])
            try:
                with unwarned():
                    mapped: tuple[Tensor, ...] = torch.func.vmap(one, in_dims=axes, randomness="error")(
                        list(inputs), list(masks)
                    )
            except Exception:  # whatever PyTorch cannot map: a branch on a number, an operator without a rule
                self.maps = False
            else:
                return mapped
        rows = [
            one(
                [x[row] for x in inputs], [mask[row] if own else mask for mask, own in zip(masks, per_row, strict=True)]
            )
            for row in range(len(inputs[0]))
        ]
        return tuple(torch.stack(outputs) for outputs in zip(*rows, strict=True))


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a module's state, which may hold other things too."""
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def _places_of(sites: Sequence[Site]) -> "dict[tuple[str, int], _Place]":
    return {
        (site.path, site.call): _Place(index, mask_moves(site), parts_axis(site)) for index, site in enumerate(sites)
    }


@dataclass(frozen=True)
class _Place:
    """Where a site's call takes its mask.

    Attributes:
        index: which of the masks is the site's.
        moves: what brings it from `[rows, *site.mask_shape]` into the dimensions of the call.
        axis: the dimension of its factors and summands; None where it has factors alone.
    """

    index: int
    moves: tuple[Move, ...]
    axis: int | None

    def of(self, mask: Tensor) -> Mask:
        """A mask in the dimensions of the call."""
        if self.axis is None:
            return moved(mask, self.moves) if self.moves else mask
        factor, summand = mask.unbind(self.axis)
        return moved(factor, self.moves), moved(summand, self.moves)

    def of_each(self, masks: Tensor) -> Mask:
        """Several masks, `[masks, ...]`, each in the dimensions of a call that is made for each row by itself."""
        if self.axis is None:
            return masks
        factor, summand = masks.unbind(self.axis + 1)
        return factor, summand
