"""Discovery: what in a network is random, found by running copies of it in train mode and in eval mode.

What would draw in train mode is a candidate. A candidate that eval mode still calls (`F.dropout(x, p, self.training)`)
is on as soon as it has a mask. For one that eval mode leaves out (`if self.training:`), the module that makes the call
has to leave eval mode, or, where that module itself is no longer called, the one around it; no other module does.
"""

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from mcdropout.engine.arrays import with_rows
from mcdropout.engine.cutting.layout import ROWS, is_interleaved
from mcdropout.engine.errors import NoDropoutError, OneRowError, UnevenRowsError, UnsupportedModelError
from mcdropout.engine.faults import described, refusing
from mcdropout.engine.kinds import UNIFORM
from mcdropout.engine.pytorch.added import Added, added_to, not_called
from mcdropout.engine.pytorch.blame import renormalized
from mcdropout.engine.pytorch.find.draws import (
    ACCEPTED,
    blamed_draws,
    certain_draws,
    check_seeding,
    is_pytorchs,
    seeded_anew,
    taken_from_python,
)
from mcdropout.engine.pytorch.find.reach import reached
from mcdropout.engine.pytorch.find.seen import site_of, site_of_one
from mcdropout.engine.pytorch.network import Network
from mcdropout.engine.pytorch.private.copies import Copy, private_copy
from mcdropout.engine.pytorch.private.outside import Watch
from mcdropout.engine.pytorch.private.untouched import while_copied
from mcdropout.engine.pytorch.random_call import Call, EndlessCallsError, Form, Known, Order, joined
from mcdropout.engine.pytorch.seeding import Key
from mcdropout.engine.pytorch.signature import Signature, same_outputs
from mcdropout.engine.pytorch.tracked import DROPPING, KEEPING, Draw, Recording, Tracked
from mcdropout.engine.selection import Selection, select, site_off
from mcdropout.engine.sites import SiteOff, site_name

# Code that draws its own numbers may call other sites for other numbers (layers dropped as a whole): some are tried,
# and more as long as they show something new.
_OTHER_VARIANTS = (KEEPING, DROPPING, 1, 2)
_MOST_VARIANTS, _WITHOUT_NEWS, _VARIANT_SECONDS = 64, 16, 2.0
# Noise of an activation in train mode, which is not dropout, and stays off with the rest of train mode.
_NOT_DROPOUT = "aten.rrelu_with_noise"
_NOISE = "the slope of an activation is random in train mode, which is no dropout"
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Discovery:
    """What was found.

    Attributes:
        network: takes a mask for every site that is on.
        off: the sites that are off, with the reasons.
    """

    network: Network
    off: tuple[SiteOff, ...]


def discover(
    module: nn.Module,
    inputs: Sequence[Tensor],
    signature: Signature | None = None,
    selection: Selection | None = None,
    given: Sequence[list[int]] | None = None,
    *,
    one_by_one: bool = False,
) -> Discovery:
    """Find the sites of a network and switch on those that are selected.

    Args:
        module: the trained network; left as it is.
        inputs: example inputs, each `[rows, ...]`.
        signature: how it is called; by position, all its tensors counting, where not given.
        selection: which sites to switch on; all, where not given.
        given: the shapes of the examples as their owner knows them, where `inputs` were made of these.
        one_by_one: whether to look at the first row alone, in a network that is to be run for one row at a time; the
            others show then whether it draws for each by itself.

    Raises:
        UnevenRowsError: its rows cannot be looked at together, or, where `one_by_one`, not apart.
        OneRowError: it takes one row at a time.
        UnsupportedModelError: nothing is random, what is cannot be replaced by masks, or the network cannot be copied
            or run.
        InvalidInputError: the selection names what does not exist.
    """
    selection = selection or Selection()
    watch = Watch(module)
    with watch.enforced():
        with while_copied(module):
            copied = private_copy(module)
        _check_hidden(copied)
        added = added_to(copied, selection.added)
        explorer = _Explorer(copied.module, signature or Signature(), inputs, watch, added, given, one_by_one)
        return explorer.explore(selection)


def _check_hidden(copied: Copy) -> None:
    """Normalization that `eval()` does not reach is in service what nobody wants: there the rows of a batch matter."""
    for path, part in copied.hidden.items():
        if isinstance(part, _NormBase) and part.training and part.running_mean is not None:
            raise UnsupportedModelError(
                f"{path} ({type(part).__name__}) is in train mode, from which no eval() takes it, because it is not "
                "registered; one that lies in an attribute, in nn.ModuleList or in nn.ModuleDict is accepted"
            )


class _Explorer:
    """Runs copies of a network, in train mode, in eval mode, and in what lies between."""

    def __init__(
        self,
        module: nn.Module,
        signature: Signature,
        inputs: Sequence[Tensor],
        watch: Watch,
        added: Mapping[str, Added],
        given: Sequence[list[int]] | None,
        one_by_one: bool,
    ) -> None:
        self._module, self._one_by_one = module, one_by_one
        self._shapes = [list(x.shape) for x in inputs] if given is None else list(given)
        self._added = added
        self._signature = signature
        self._watch = watch
        self._inputs = inputs
        self._two, self._three = ([with_rows(x, rows) for x in inputs] for rows in ((1, 1) if one_by_one else ROWS))
        self._tracked = Tracked(module, watch, added=added)
        self._asleep: set[str] = set()
        self._drawing: set[str] = set()
        self._noisy: set[str] = set()  # modules with noise that is no dropout
        self._of_no_effect: set[Draw] = set()  # numbers of Python's or NumPy's that eval mode draws too, for nothing
        self._repeating: set[Draw] = set()  # of generators that are seeded anew in each pass
        self._failure: Exception | None = None
        self._variants: list[int] = []

    def explore(self, selection: Selection) -> Discovery:
        quiet = self._eval_mode()
        # What its code draws is for nothing there, or the network is refused.
        always_on = self._tracked.restless or any(
            call.active and not call.injected and not call.raw for call in quiet.calls
        )
        self._signature = replace(self._signature, in_pairs=not self._one_by_one and not self._takes_one_row(quiet))
        small, large = self._train_mode(self._two, selection), self._train_mode(self._three, selection)
        self._check_probabilities_stay()
        if small.keys() != large.keys():
            raise UnevenRowsError(
                "the network makes other dropout calls with 3 rows than with 2; calls that do not depend on the rows "
                "are accepted, or that are made for each row by itself"
            )
        shared = self._drawn_once() if self._one_by_one else set()
        made = {key: call.known.of_rows(call.mask_shape, large[key].mask_shape) for key, call in small.items()}
        on, off = self._select(selection, small)
        off += [SiteOff(path, 0, UNIFORM, None, _NOISE) for path in sorted(self._noisy - {call.path for call in on})]
        self._tracked.order = order = Order(made)
        if order.are_alike_for_one_row and not self._one_by_one:
            self._signature = replace(self._signature, in_pairs=True)
        quiet = replace(quiet, calls=order.numbered(quiet.calls))
        still = {call.key: call for call in quiet.calls if not call.raw}
        gone = {call.key for call in on if not _same_call(call, still.get(call.key))}
        needs = self._needs(on, gone, quiet)
        on, asleep = _parted(on, needs)
        off += [site_off(call, "its module does not run in eval mode") for call in asleep]
        tracked = self._tracked.wake(frozenset().union(*(needs[call.key] for call in on)))
        on, idle = _parted(on, reached(tracked, self._signature, self._two, on))
        off += [site_off(call, "it does not reach the output") for call in idle]
        if not on:
            raise NoDropoutError(_nothing_to_switch_on(off, self._failure)) from self._failure
        awake = frozenset().union(*(needs[call.key] for call in on))
        known = self._known(awake, [*on, *idle], made)
        self._check_awake_modules(on, needs, quiet)
        if self._one_by_one:
            sites = [site_of_one(call, call.path in shared, call.key not in gone) for call in on]
        else:
            apart = self._interleaved(awake, on)
            sites = [site_of(call, large[call.key].mask_shape, call.key not in gone, call.key in apart) for call in on]
        known_in_eval = {call.key: call.known for call in quiet.calls}
        network = Network(self._module, self._signature, sites, awake, known, known_in_eval, self._added)
        network.always_on = always_on
        return Discovery(network, tuple(off))

    def _select(self, selection: Selection, calls: Mapping[Key, Call]) -> tuple[list[Call], list[SiteOff]]:
        """The network's own calls that are wanted and those that are added, in order, and what stays off."""
        on, off = select(selection, list(calls.values()), asleep=self._asleep, drawing=self._drawing)
        return on, off + not_called(self._added, [call.path for call in on if call.injected])

    def _eval_mode(self) -> Recording:
        """One pass in eval mode; a second must give the same."""
        what = f"the network does not run on the example input of shape {self._shapes}"
        with refusing(what, self._accepted_dtype()):
            try:
                quiet = self._first()
            except (UnsupportedModelError, MemoryError):
                raise
            except Exception as error:
                self._refuse_fixed_rows(error)
                raise
        accepted = "one that keeps nothing from call to call is accepted"
        with refusing("the network fails when it is run a second time", accepted):
            again = self._tracked.record(self._signature, self._two, seed=1)
        check_seeding(quiet, again)
        if raw := [call for call in quiet.calls if call.raw]:
            own = {name for name, _ in self._module.named_parameters()}
            if made := [name for name, _ in self._tracked.module.named_parameters() if name not in own]:
                raise UnsupportedModelError(
                    f"the network makes {made[0]} in its first pass, of random numbers; one is accepted that has had "
                    "its first pass, as module(example), and after that its trained weights"
                )
            if not self._are_for_nothing(quiet):
                raise UnsupportedModelError(
                    f"{_name(raw[0])} draws {raw[0].kind} numbers in eval mode too, so that there is no deterministic "
                    "baseline; a draw that depends on `self.training` is accepted"
                )
        draws = certain_draws(quiet, again)
        self._repeating |= seeded_anew(quiet) - set(draws)
        if same_outputs(quiet.outputs, again.outputs):
            self._of_no_effect = {draw for draw in draws if not is_pytorchs(draw)}
            draws = [draw for draw in draws if is_pytorchs(draw)]
        if draws or not same_outputs(quiet.outputs, again.outputs):
            blamed = blamed_draws(draws) or self._own_state([self._tracked] * 2, self._two)[1]
            known = filter(None, (renormalized(path, part) for path, part in self._module.named_modules()))
            accepted = (
                "one that keeps nothing from call to call, and draws nothing in eval mode but dropout, is accepted"
            )
            raise UnsupportedModelError(
                f"the network does not repeat itself in eval mode: {'; '.join([blamed, accepted, *known])}"
            )
        if not self._forgets(quiet):
            raise UnsupportedModelError(
                "the network answers otherwise where its first pass was of other rows, of which it keeps something; "
                "one that keeps nothing from call to call is accepted, or that has had its first pass already"
            )
        return quiet

    def _are_for_nothing(self, quiet: Recording) -> bool:
        """Whether eval mode answers the same whatever numbers its code draws, which then does so for train mode."""
        return all(
            same_outputs(self._tracked.record(self._signature, self._two, variant=variant).outputs, quiet.outputs)
            for variant in _OTHER_VARIANTS
        )

    def _forgets(self, quiet: Recording) -> bool:
        """Whether a copy that has seen other rows answers the examples as one that has not."""
        tracked = Tracked(self._module, self._watch, self._signature.gradients, added=self._added)
        others = [x[-1:] if self._one_by_one else torch.cat([x[:1], x[:1]]) for x in self._inputs]
        try:
            tracked.record(self._signature, others)
            outputs = tracked.record(self._signature, self._two).outputs
        except MemoryError:
            raise
        except Exception:  # it may not take rows that are alike
            return True
        return self._like(outputs, quiet.outputs, ())

    def _first(self) -> Recording:
        """The first pass, in eval mode; with gradients recorded where it fails without them."""
        try:
            return self._tracked.record(self._signature, self._two)
        except (UnsupportedModelError, MemoryError):
            raise
        except Exception as error:
            signature, tracked = (
                replace(self._signature, gradients=True),
                Tracked(self._module, self._watch, gradients=True, added=self._added),
            )
            try:
                quiet = tracked.record(signature, self._two)
            except Exception:
                raise error from None
            self._signature, self._tracked = signature, tracked
            return quiet

    def _refuse_fixed_rows(self, error: Exception) -> None:
        """Raise UnsupportedModelError where the network, which fails on two rows, runs on as many as the examples."""
        for rows in (self._shapes[0][0], len(self._inputs[0]), 1):
            tracked = Tracked(self._module, self._watch, self._signature.gradients, added=self._added)
            try:
                tracked.record(self._signature, [with_rows(x, rows) for x in self._inputs])
            except MemoryError:
                raise
            except Exception:  # what it fails at is something else
                continue
            raise (OneRowError if rows == 1 else UnsupportedModelError)(
                f"the network runs on {rows} row{'' if rows == 1 else 's'} and not on {len(self._two[0])}: "
                f"{described(error)}; one that takes any number of rows, or one, is accepted"
            ) from error

    def _accepted_dtype(self) -> str:
        """Of which floats examples are accepted, where they are of others than all weights; else nothing."""
        own = {x.dtype for x in self._module.parameters() if x.is_floating_point()}
        others = [x.dtype for x in self._two if x.is_floating_point() and x.dtype not in own]
        if len(own) != 1 or not others:
            return ""
        wanted, given = (str(dtype).removeprefix("torch.") for dtype in (*own, others[0]))
        return f"examples of {wanted}, as its weights are, and not of {given}, are accepted"

    def _takes_one_row(self, quiet: Recording) -> bool:
        """Whether one row gives what two give, less a row: the same calls and outputs, of as many dimensions."""
        try:
            alone = self._tracked.record(self._signature, [x[:1] for x in self._two])
        except MemoryError:
            raise
        except Exception:  # it may take two rows or more
            return False
        dimensions = [{call.key: len(call.mask_shape) for call in each.calls} for each in (quiet, alone)]
        if len(alone.outputs) != len(quiet.outputs):  # an output for each row, which is refused elsewhere
            return True
        pairs = zip(quiet.outputs, alone.outputs, strict=True)
        return dimensions[0] == dimensions[1] and all(
            len(two.shape) == len(one.shape) and (two.shape[:1] != (2,) or one.shape[:1] == (1,)) for two, one in pairs
        )

    def _train_mode(self, inputs: Sequence[Tensor], selection: Selection) -> dict[Key, Call]:
        """All random calls in train mode."""
        while True:
            first, another = self._trained(inputs, 0), self._trained(inputs, 1)
            check_seeding(first, another)
            certain = [draw for draw in certain_draws(first, another) if draw not in self._of_no_effect]
            self._repeating |= seeded_anew(first) - set(certain)
            self._drawing |= {draw.path for draw in certain}
            self._noisy |= {draw.path for draw in certain if draw.operator.startswith(_NOT_DROPOUT)}
            draws = [draw for draw in certain if not draw.operator.startswith(_NOT_DROPOUT)]
            draws = [draw for draw in draws if selection.takes(draw.path)]
            blamed = blamed_draws(draws)
            if not blamed:
                if certain or same_outputs(first.outputs, another.outputs):
                    break
                path, blamed = self._own_state([self._in_train_mode(), self._in_train_mode()], inputs)
                if path is not None and path not in self._asleep and not selection.takes(path):
                    self._drawing.add(path)
                    self._asleep.add(path)
                    continue
            raise UnsupportedModelError(
                f"the network draws randomness in train mode that no mask can stand for: {blamed}; "
                f"{ACCEPTED}{taken_from_python(draws)}, and modules that the selection excludes, which stay off"
            )
        if not any(call.raw for call in first.calls):
            return {call.key: call for call in first.calls}
        if not self._variants:
            self._variants = self._telling_variants(inputs, first)
        others = [self._trained(inputs, 0, variant) for variant in self._variants]
        return _joined(first, *others)

    def _telling_variants(self, inputs: Sequence[Tensor], first: Recording) -> list[int]:
        """The numbers for which a network that draws its own makes calls that it makes for no others."""
        began, known = time.perf_counter(), [first]
        found: list[int] = []
        without_news = 0
        for variant in (*_OTHER_VARIANTS, *range(3, _MOST_VARIANTS)):
            if variant not in _OTHER_VARIANTS:
                goes_by_numbers = len({tuple((call.path, call.form) for call in each.calls) for each in known}) > 1
                in_time = time.perf_counter() - began < _VARIANT_SECONDS
                if not goes_by_numbers or not in_time or without_news == _WITHOUT_NEWS:
                    break
            try:
                seen = self._in_train_mode().record(self._signature, inputs, variant=variant, whatever=True)
            except MemoryError:
                raise
            except EndlessCallsError:
                if variant == DROPPING:  # always the same: code that draws anew what is out of bounds gets no other
                    continue
                raise
            except Exception:  # numbers that it was not made for
                continue
            without_news += 1
            if variant in _OTHER_VARIANTS or len(_joined(*known, seen)) > len(_joined(*known)):
                found.append(variant)
                known.append(seen)
                without_news = 0
        return found

    def _drawn_once(self) -> set[str]:
        """The modules that draw once for all rows; the others have to draw for each what they draw for it alone.

        Raises:
            UnevenRowsError: it draws otherwise, as one does that counts its rows.
        """
        count = len(self._inputs[0])
        try:
            self._tracked.record(self._signature, self._inputs)
        except MemoryError:
            raise
        except Exception:  # it takes one row at a time
            return set()
        together = self._units(self._inputs)
        apart = [self._units([x[row : row + 1] for x in self._inputs]) for row in range(count)]
        shared: set[str] = set()
        for path in {path for units in (together, *apart) for path in units}:
            own = [units[path] for units in apart]
            if together[path] == sum(own):
                continue
            if {together[path]} != set(own):
                raise UnevenRowsError(
                    f"{path or '(network)'} draws {together[path]} numbers for {count} rows, and {own} for them one by "
                    "one; as many for them together as one by one are accepted"
                )
            shared.add(path)
        return shared

    def _units(self, inputs: Sequence[Tensor]) -> Counter[str]:
        """How many numbers each module draws in train mode, where its code gets the same for each row."""
        found: Counter[str] = Counter()
        for call in self._trained(inputs, 0, KEEPING).calls:
            found[call.path] += math.prod(call.mask_shape)
        return found

    def _trained(self, inputs: Sequence[Tensor], seed: int, variant: int = 0) -> Recording:
        """One pass of a fresh copy in train mode, but for modules that cannot run in it (they may want targets)."""
        failure: Exception | None = None
        while True:
            tracked = self._in_train_mode()
            try:
                return tracked.record(self._signature, inputs, seed=seed, variant=variant, whatever=True)
            except (MemoryError, EndlessCallsError):
                raise
            except Exception as error:
                failure = failure or error
                self._failure = self._failure or failure
                failed = tracked.failed
                while failed in self._asleep:  # it fails in eval mode too, for what the one around it does
                    failed = failed.rpartition(".")[0] if failed else None
                if failed is None:
                    raise UnsupportedModelError(
                        "the network does not run in train mode on the example input of shape "
                        f"{self._shapes}: {described(failure)}"
                    ) from failure
                self._asleep.add(failed)

    def _check_probabilities_stay(self) -> None:
        """A p that the network's own code changes from pass to pass has no value to serve with."""
        tracked = self._in_train_mode()
        first, second = (tracked.record(self._signature, self._two, whatever=True).calls for _ in range(2))
        for call, later in zip(first, second, strict=False):
            if (call.key, call.kind) == (later.key, later.kind) and call.p != later.p:
                raise UnsupportedModelError(
                    f"{_name(call)} drops with p {call.p:g} in a first pass and {later.p:g} in a second, as the "
                    "network's own code sets it; a p that stays as it is is accepted"
                )

    def _in_train_mode(self) -> Tracked:
        tracked = Tracked(self._module, self._watch, self._signature.gradients, added=self._added)
        return tracked.train_but_normalization(self._asleep)

    def _own_state(self, twice: Sequence[Tracked], inputs: Sequence[Tensor]) -> tuple[str | None, str]:
        """Which module first hands on other tensors in a second pass than in a first, and that in words."""
        passes = [tracked.passed(self._signature, inputs, seed) for seed, tracked in enumerate(twice)]
        what = "state of its own, or numbers of a generator of its own, of another thread or of a custom operator"
        for (path, some), (_, others) in zip(*passes, strict=False):
            if not same_outputs(tuple(some), tuple(others)):
                return path, f"{what}, in {path or '(network)'}"
        return None, what

    def _needs(self, on: Sequence[Call], gone: set[Key], quiet: Recording) -> dict[Key, frozenset[str]]:
        """For each call that can be made to happen, the modules that have to leave eval mode for it."""
        for_nothing = {call.key for call in quiet.calls if call.raw}
        needs = {
            call.key: frozenset({call.path, *(self._never_run() if call.key in for_nothing else ())})
            if call.key in gone
            else frozenset()
            for call in on
        }
        awake = frozenset().union(*needs.values())
        met = self._met(awake)[0]
        reachable: dict[Key, frozenset[str]] = {}
        for call in on:
            if call.key in met:
                reachable[call.key] = needs[call.key]
                continue
            for around in reversed(call.stack.paths[:-1]):
                needs[call.key] |= {around}
                now, outputs = self._met(awake | needs[call.key])
                if call.key in now and self._like(outputs, quiet.outputs, on):
                    reachable[call.key] = needs[call.key]
                    awake |= needs[call.key]
                    break
        return reachable

    def _never_run(self) -> set[str]:
        """The containers with code of their own, which has modes to go by and no forward pass to be seen in."""
        return {
            path
            for path, part in self._tracked.parts.items()
            if type(part).forward is nn.Module.forward and not type(part).__module__.startswith("torch.")
        }

    def _met(self, awake: Iterable[str]) -> tuple[set[Key], tuple[Tensor, ...]]:
        """The calls that are made, and the outputs, while the modules `awake` are out of eval mode."""
        tracked = self._tracked.wake(awake)
        try:
            records = [tracked.record(self._signature, self._two)]
            if any(call.raw for call in records[0].calls):
                records += [tracked.record(self._signature, self._two, variant=variant) for variant in self._variants]
        except MemoryError:
            raise
        except Exception as error:  # a module that is not made to be in train mode alone
            self._failure = self._failure or error
            return set(), ()
        return {call.key for record in records for call in record.calls}, records[0].outputs

    def _like(self, outputs: tuple[Tensor, ...], quiet: tuple[Tensor, ...], on: Sequence[Call]) -> bool:
        """Whether outputs with nothing dropped are those of eval mode, as far as that can be told."""
        if [x.shape for x in outputs] != [x.shape for x in quiet]:
            return False
        if any(call.raw for call in on):
            return True
        return all(
            torch.allclose(a, b, _TOLERANCE, _TOLERANCE, equal_nan=True) for a, b in zip(outputs, quiet, strict=True)
        )

    def _known(self, awake: Iterable[str], taken: Sequence[Call], made: Mapping[Key, Known]) -> dict[Key, Known]:
        """All random calls that are made while the modules `awake` are out of eval mode."""
        tracked = self._tracked.wake(awake)
        known: dict[Key, Known] = {}
        for variant in (0, *self._variants):
            recording = tracked.record(self._signature, self._two, variant=variant)
            calls = recording.calls
            draws = [draw for draw in recording.draws if is_pytorchs(draw) or draw.path in self._drawing]
            draws = [draw for draw in draws if draw not in self._repeating]
            if draws:
                raise UnsupportedModelError(
                    "modules that have to leave eval mode for dropout draw what no mask can stand for: "
                    f"{blamed_draws(draws)}; {ACCEPTED}"
                )
            for call in calls:
                seen = made.get(call.key, call.known)._replace(form=call.form)
                _check_form(call, known.setdefault(call.key, seen).form)
                if call.raw and call.key not in {other.key for other in taken}:
                    raise UnsupportedModelError(
                        f"{_name(call)} draws {call.kind} numbers and is left out, but other sites of its module need "
                        "it out of eval mode; sites of one module that draws its own numbers are on or off together"
                    )
            if not any(call.raw for call in calls):
                break
        return known

    def _check_awake_modules(self, on: Sequence[Call], needs: dict[Key, frozenset[str]], quiet: Recording) -> None:
        """Modules that leave eval mode for dropout alone must do nothing else there.

        Where the network draws numbers of its own too, no check of the whole can tell: there nothing stands for
        "nothing dropped".
        """
        drawing = {path for call in on if call.raw for path in needs[call.key]}
        dropping = frozenset().union(*(needs[call.key] for call in on if not call.raw)) - drawing
        if not drawing or not dropping:
            return
        outputs = self._tracked.wake(dropping).record(self._signature, self._two).outputs
        if not self._like(outputs, quiet.outputs, ()):
            paths = ", ".join(sorted(path or "(network)" for path in dropping))
            raise UnsupportedModelError(
                f"{paths} must leave eval mode for dropout, and then gives other outputs though nothing is dropped; "
                "a train mode that differs in dropout alone is accepted"
            )

    def _interleaved(self, awake: Iterable[str], on: Sequence[Call]) -> set[Key]:
        """The calls in whose data the entries of a row lie apart: shown by changing the middle one of three rows."""
        merged = {call.key for call in on if not call.raw and call.mask_shape}
        tracked = self._tracked.wake(awake)
        other = [x.clone().index_copy_(0, torch.tensor([1]), x[2:3]) for x in self._three]
        one, two = (tracked.record(self._signature, x, keep_data=True).calls for x in (self._three, other))
        data = {call.key: call.data for call in two}
        found: set[Key] = set()
        for call in one:
            before, after = call.data, data.get(call.key)
            if call.key not in merged or before is None or after is None or before.shape != after.shape:
                continue
            for axis, size in enumerate(before.shape):
                if size > 3 and size % 3 == 0 and _changed_every_third(before, after, axis):
                    found.add(call.key)
        return found


def _joined(*recordings: Recording) -> dict[Key, Call]:
    """All calls of some passes by their keys."""
    return joined(sorted((each.calls for each in recordings), key=len, reverse=True))


def _parted(calls: Sequence[Call], keys: Iterable[Key]) -> tuple[list[Call], list[Call]]:
    wanted = set(keys)
    return [call for call in calls if call.key in wanted], [call for call in calls if call.key not in wanted]


def _name(call: Call) -> str:
    return site_name(call.path, call.number)


def _check_form(call: Call, form: Form) -> None:
    if call.form != form:
        raise UnsupportedModelError(
            f"{_name(call)} is another random call ({call.kind}) for other numbers that the network draws; calls of a "
            "module that are the same in every pass are accepted, or that lie in modules of their own"
        )


def _same_call(call: Call, twin: Call | None) -> bool:
    """Whether eval mode makes the same call; with which p does not matter, since a mask is put in its place."""
    return twin is not None and (twin.kind, twin.mask_shape, twin.injected) == (
        call.kind,
        call.mask_shape,
        call.injected,
    )


def _changed_every_third(before: Tensor, after: Tensor, axis: int) -> bool:
    changed = (before != after).movedim(axis, 0).reshape(before.shape[axis], -1).any(1).nonzero().flatten()
    return is_interleaved(changed.numpy(), before.shape[axis] // ROWS[1]) is True


def _nothing_to_switch_on(off: Sequence[SiteOff], failure: Exception | None) -> str:
    seen = "; ".join(f"{site.name}: {site.reason}" for site in off) or "none"
    failed = "" if failure is None else f"; modules that fail in train mode were left out of it: {described(failure)}"
    return (
        f"the network has no dropout to switch on (dropout calls seen: {seen}); Monte Carlo dropout needs at least one "
        f"with p above 0 on the way from input to output, which the selection may add{failed}"
    )
