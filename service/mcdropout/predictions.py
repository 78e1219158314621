"""The use case: what somebody asks for becomes passes of a model, and these an answer. Knows no HTTP.

`Predictions.ask` is all of it, for those who have their rows at hand. A protocol whose rows are on their way yet goes
the same way by its parts: `model`, `plan`, `admit`, reading the rows, `submit`, and `observe` with what came of it.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future as ThreadFuture
from copy import copy
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from prometheus_client import Histogram

from mcdropout.catalogue.model import Member, Model
from mcdropout.catalogue.registry import Entry, Registry, UnknownModelError
from mcdropout.engine import Engine
from mcdropout.engine.arrays import Array
from mcdropout.engine.errors import InvalidInputError
from mcdropout.engine.masks import drawn_seed
from mcdropout.engine.ragged import Rows, batches_of
from mcdropout.engine.statistics import ALL, TASKS, Prediction, Reduction, View
from mcdropout.engine.stopping import DEFAULT_TOLERANCE
from mcdropout.metrics import Metrics
from mcdropout.scheduling.answer import Answer, Shares
from mcdropout.scheduling.backlog import OverloadedError, TooCostlyError
from mcdropout.scheduling.clients import ANYBODY, Client
from mcdropout.scheduling.plan import Plan
from mcdropout.scheduling.request import Future, Served
from mcdropout.scheduling.scheduler import Scheduler
from mcdropout.scheduling.shares import Whole

Mode = Literal["deterministic", "mc", "auto"]
Pause = Callable[[], None]
"""Called between the parts of what takes long, for other threads to go on meanwhile."""

Watch = Callable[[Answer | Shares], object]
"""Called with what there is of an answer."""

_SHED_FROM = 0.5  # of a full backlog: from there on passes are taken away, where that is allowed
_PART_NUMBERS = 2048  # of an answer, between two pauses


class NotReadyError(Exception):
    """The model does not serve now; the message says why."""


class NotLoadedError(UnknownModelError):
    """The model was unloaded, or not loaded yet; the message says how it comes back."""


class InvalidAskError(ValueError):
    """What was asked for cannot be given. The message names it, its value, and what is accepted."""


@dataclass(frozen=True)
class Ask:
    """What is asked for of some rows.

    Attributes:
        model: which one; None for the default one.
        mc: the passes of each row, 0 for the deterministic baseline; "auto" for as many as each row needs; None for
            the model's default.
        tolerance: with mc "auto", the standard error of the mean that is small enough; None for the usual one.
        deadline: when to answer at the latest, by `time.perf_counter()`; None for no such time.
        seed: what the masks are drawn from; None to have one drawn.
        samples: whether every pass's output is wanted too.
        p: what each site is to drop with in place of its own; None for its own.
        fields: the names of the statistics that are wanted; None for all.
        reduce: what is to become of the places of a dense answer: see `statistics/reduction.py`; None to leave them.
        regions: for which regions, such as "4x4"; None for all places together.
    """

    model: str | None = None
    mc: int | Literal["auto"] | None = None
    tolerance: float | None = None
    deadline: float | None = None
    seed: int | None = None
    samples: bool = False
    p: float | None = None
    fields: tuple[str, ...] | None = None
    reduce: str | None = None
    regions: str | None = None


class Planned(NamedTuple):
    """What an ask comes to.

    Attributes:
        model: the one that answers.
        plan: the passes that its rows get.
        seed: where one was named.
        view: what of the answer is shown.
        client: who asks.
        p: what sites drop with in place of their own; None for their own.
    """

    model: Model
    plan: Plan
    seed: int | None
    view: View = ALL
    client: Client = ANYBODY
    p: float | None = None

    @property
    def mode(self) -> Mode:
        """How it is answered, in a word."""
        if self.plan.passes == 0:
            return "deterministic"
        return "mc" if self.plan.tolerance is None else "auto"


@dataclass(frozen=True)
class Shown:
    """The answer to rows of one size, as it is shown.

    Attributes:
        rows: `[rows]`, their indices in the request.
        prediction: the statistics that are wanted.
        samples: `[rows, passes, ...]`, where they were asked for.
    """

    rows: npt.NDArray[np.int64]
    prediction: Prediction
    samples: npt.NDArray[np.float64] | None

    @property
    def numbers(self) -> int:
        """How many numbers the largest field and the samples hold."""
        largest = 0
        for value in self.prediction.values.values():
            if value is not None and value.size > largest:
                largest = value.size
        return largest if self.samples is None else largest + self.samples.size


@dataclass(frozen=True)
class Answered:
    """An answer, by which model, the seed and the p that give it again, and what of it is shown."""

    model: Model
    seed: int
    answer: Answer | Shares
    view: View = ALL
    p: float | None = None

    @cached_property
    def shown(self) -> tuple[Shown, ...]:
        """The answer as it is shown: to all rows at once, or, where they are of several sizes, to those of each."""
        reading = self.model.engine.reading
        return tuple(
            Shown(rows, self.view.of(part.prediction, reading), part.samples) for rows, part in self.answer.parts
        )

    @cached_property
    def places(self) -> list[tuple[int, int]]:
        """For each row of the request, which of `shown` holds it, and where."""
        if len(self.shown) == 1:
            return [(0, row) for row in range(self.rows)]
        found = [(0, 0)] * self.rows
        for share, shown in enumerate(self.shown):
            for place, row in enumerate(shown.rows.tolist()):
                found[row] = share, place
        return found

    @property
    def rows(self) -> int:
        """How many rows were answered."""
        return self.answer.rows

    @cached_property
    def numbers(self) -> int:
        """How many numbers it holds, by which its size is judged."""
        return sum(shown.numbers for shown in self.shown)

    def parts(self, rows: int | None = None) -> Iterator[slice]:
        """The rows, so many at a time as are seen to in a moment; there is to be a pause behind each part.

        Args:
            rows: how many there are to see to; all where not given.
        """
        step = max(1, _PART_NUMBERS * self.rows // max(1, self.numbers))
        return (slice(start, start + step) for start in range(0, self.rows if rows is None else rows, step))


class Predictions:
    """Answers asks: finds the model, plans the passes, lets in what there is room for. Safe from any thread."""

    def __init__(
        self,
        registry: Registry,
        scheduler: Scheduler,
        metrics: Metrics,
        *,
        max_samples: int,
        shed_floor: int | None = None,
        on_refusal: Callable[[], object] = lambda: None,
    ) -> None:
        """
        Args:
            registry: the models.
            scheduler: what runs them.
            metrics: where refused requests and what rows were answered are counted.
            max_samples: the most samples, rows times passes, of an answer.
            shed_floor: the fewest passes that overload leaves a request; None where it gets all or is refused.
            on_refusal: called whenever the backlog is too full for a request, by whichever thread asks.

        Raises:
            ValueError: a statistic is to be counted in a histogram that there is not.
        """
        for field in (field for task in TASKS.values() for field in task.fields):
            if field.histogram is not None and field.histogram not in metrics.row_values:
                raise ValueError(
                    f"the statistic {field.name!r} has the histogram {field.histogram!r}; one of "
                    f"{list(metrics.row_values)} is accepted"
                )
        self._registry, self._scheduler, self._metrics = registry, scheduler, metrics
        self._max_samples, self._shed_floor = max_samples, shed_floor
        self._on_refusal = on_refusal

    def ask(self, ask: Ask, inputs: tuple[Rows, ...] | Callable[[Model], tuple[Rows, ...]]) -> Answered:
        """Answer an ask, and wait for that.

        Args:
            ask: what is asked for.
            inputs: `[rows, ...]` each, as the network takes them, a row after another where they are of several sizes;
                or what makes them, once the model is known.

        Raises:
            UnknownModelError, NotReadyError, InvalidAskError: as `model` and `plan` do.
            OverloadedError: too much waits already.
            DeadlineError: the time was over before each row had the fewest passes.
            UnusableOutputError: the network answered NaN, infinity, or what is no probability or no variance.
        """
        planned = self.plan(self.model(ask), ask)
        self.admit(planned)
        future: ThreadFuture[Answer | Shares] = ThreadFuture()
        seed = self.submit(planned, inputs(planned.model) if callable(inputs) else inputs, future)
        answered = Answered(planned.model, seed, future.result(), planned.view, planned.p)
        self.observe(answered)
        return answered

    def model(self, ask: Ask) -> Model:
        """Find the model that is asked.

        Raises:
            UnknownModelError: there is no such model, or it is not loaded.
            NotReadyError: it does not serve now.
        """
        name = ask.model or self._registry.default
        entry = entry_of(self._registry, name)
        if entry.model is None:
            if entry.state == "unloaded":
                raise NotLoadedError(f"the model {name!r} is not loaded: {entry.error}")
            reason = "is still loading" if entry.error is None else f"does not serve: {entry.error}"
            called = "the default model" if ask.model is None else "the model"
            raise NotReadyError(f"{called} {name!r} {reason}")
        return entry.model

    def plan(self, model: Model, ask: Ask, client: Client = ANYBODY) -> Planned:
        """Find out how many passes each row gets of a model, for a client.

        Raises:
            InvalidAskError: the model does not give what is asked for.
        """
        return Planned(model, _plan(model, ask), ask.seed, _view(model, ask), client, checked_p(model, ask.p))

    def overload(self, coming: int = 0, client: Client = ANYBODY) -> OverloadedError | None:
        """Why not one more row of a client would be taken, where `coming` are about to be before; None where one would.

        All who ask between two changes get the same error: whoever refuses a request for it tells `refused`.
        """
        return self._scheduler.refusal(coming, client)

    def refused(self, model: str, error: OverloadedError) -> None:
        """Count a request of a model that is refused: here, and nowhere else."""
        self._metrics.of(self._metrics.refused, model, error.reason).inc()
        self._on_refusal()

    def admit(self, planned: Planned) -> None:
        """Let a request in before its rows are read.

        Raises:
            OverloadedError: not one more row is taken.
        """
        self.let_in(planned.model.name, planned.client)

    def let_in(self, model: str, client: Client) -> None:
        """The same, before more is known of a request than which model it asks, and who."""
        error = self.overload(client=client)
        if error is not None:
            self.refused(model, error)
            raise copy(error)  # others are refused for the same, each with a traceback of its own

    def submit(
        self,
        planned: Planned,
        inputs: tuple[Rows, ...],
        future: Future,
        watch: Watch | None = None,
        *,
        traced: bool = False,
    ) -> int:
        """Have rows predicted, by fewer passes under overload where that is allowed.

        Args:
            planned: what their ask came to.
            inputs: `[rows, ...]` each, as the network takes them; a row after another where they are of several sizes.
            future: where the `Answer` is awaited, or `Shares` where rows are of several sizes; it raises what `ask`
                does once the rows are taken.
            watch: called with what there is of the answer after steps, where futures are settled.
            traced: whether the answer tells which steps it took part in.

        Returns:
            The seed that the masks are drawn from.

        Raises:
            InvalidAskError: these are more samples than an answer may hold.
            TooCostlyError: their passes take longer than those of any request may.
            OverloadedError: too much waits already.
        """
        plan = planned.plan
        _check_samples(plan, len(inputs[0]), self._max_samples)
        if self._shed_floor is not None:
            plan = _reduced(plan, self._scheduler.load, self._shed_floor)
        seed = drawn_seed() if planned.seed is None else planned.seed
        try:
            self._hand_over(planned, inputs, seed, plan, future, watch, traced)
        except OverloadedError as error:
            self.refused(planned.model.name, error)
            raise
        return seed

    def _hand_over(
        self,
        planned: Planned,
        inputs: tuple[Rows, ...],
        seed: int,
        plan: Plan,
        future: Future,
        watch: Watch | None,
        traced: bool,
    ) -> None:
        """Submit a request, or one for the rows of each size."""
        model = planned.model
        submit = partial(
            self._scheduler.submit, seconds_a_pair=model.seconds_a_pair, client=planned.client, traced=traced
        )
        engine: Engine = model.engine
        served: Served = model
        if planned.p is not None and plan.passes > 0:
            engine = engine.dropping(planned.p)
            served = Member(model.name, engine)
        if engine.sizing is None:
            submit(served, cast(tuple[Array, ...], inputs), seed=seed, plan=plan, future=future, watch=watch)
            return
        try:
            batches = batches_of(inputs, engine.sizing)
            members = [Member(model.name, engine.at(batch.sizes)) for batch in batches]
            for member in members:
                planned.view.check(engine.reading, member.engine.places)
        except InvalidInputError as error:
            raise InvalidAskError(str(error)) from error
        if len(batches) == 1:
            submit(members[0], batches[0].inputs, seed=seed, plan=plan, future=future, watch=watch)
            return
        whole = Whole(future, [batch.rows for batch in batches], watch)
        try:
            for member, batch, share in zip(members, batches, whole.shares, strict=True):
                submit(
                    member,
                    batch.inputs,
                    seed=seed,
                    plan=plan,
                    future=share,
                    indices=batch.rows,
                    watch=None if watch is None else share.estimated,
                )
        except (OverloadedError, TooCostlyError):
            whole.given_up = True  # what was taken of it is not awaited
            raise

    def observe(self, answered: Answered, pause: Pause = lambda: None) -> None:
        """Count the passes that each row used, and how sure the model was of it, with pauses."""
        metrics, name = self._metrics, answered.model.name
        for _, answer in answered.answer.parts:
            prediction = answer.prediction
            observed: list[tuple[Histogram, npt.NDArray[Any]]] = [(metrics.passes_used, prediction.passes)]
            for field, histogram in TASKS[prediction.task].histograms.items():
                values = prediction.values.get(field)
                if values is not None:
                    observed.append((metrics.row_values[histogram], values))
            for rows in answered.parts(answer.rows):
                for counting, values in observed:
                    observe, some = metrics.of(counting, name).observe, values[rows]
                    for value in (some if some.ndim == 1 else some.reshape(len(some), -1).mean(axis=1)).tolist():
                        if value == value:  # a single pass has no variance
                            observe(value)
                pause()


def entry_of(registry: Registry, name: str) -> Entry:
    """What is known of a model.

    Raises:
        UnknownModelError: there is none of that name.
    """
    entry = registry.entry(name)
    if entry is None:
        raise UnknownModelError(f"there is no model {name!r}; one of {registry.names} is accepted")
    return entry


def checked_p(model: Model, p: float | None) -> float | None:
    """What a model's sites may drop with in place of their own.

    Raises:
        InvalidAskError: its bundle does not allow it, or its network draws numbers of its own.
    """
    if p is None:
        return None
    rates = model.bundle.manifest.rates
    if rates is None:
        raise InvalidAskError(
            f"p is {p:g}; {model.name} drops with its own p alone, and another is accepted where its model.yaml has "
            "rates"
        )
    if not rates.minimum <= p <= rates.maximum:
        raise InvalidAskError(f"p is {p:g}; {rates.minimum:g} to {rates.maximum:g} is accepted by {model.name}")
    try:
        model.engine.dropping(p)
    except InvalidInputError as error:
        raise InvalidAskError(str(error)) from error
    return p


def _plan(model: Model, ask: Ask) -> Plan:
    allowed = model.bundle.manifest.passes
    if ask.mc == "auto":
        tolerance = DEFAULT_TOLERANCE if ask.tolerance is None else ask.tolerance
        plan = Plan(allowed.maximum, tolerance=tolerance, deadline=ask.deadline, samples=ask.samples)
    else:
        if ask.tolerance is not None:
            raise InvalidAskError(
                f"tolerance is {ask.tolerance:g} and mc is {ask.mc}; a tolerance is accepted with mc=auto"
            )
        passes = allowed.default if ask.mc is None else ask.mc
        if passes > allowed.maximum:
            raise InvalidAskError(f"mc is {passes}; 0 to {allowed.maximum}, or auto, is accepted by {model.name}")
        plan = Plan(passes, deadline=ask.deadline, samples=ask.samples and passes > 0)
    if plan.samples and (plan.tolerance is not None or plan.deadline is not None):
        raise InvalidAskError(
            "samples is true with mc=auto or deadline_ms; it is accepted with a number of passes and no deadline"
        )
    return plan


def _view(model: Model, ask: Ask) -> View:
    if ask.fields is None and ask.reduce is None and ask.regions is None:
        return ALL
    if ask.reduce is None and ask.regions is not None:
        raise InvalidAskError(f"regions is {ask.regions!r} without reduce; they are accepted together")
    try:
        view = View(ask.fields, None if ask.reduce is None else Reduction.of(ask.reduce, ask.regions))
        if model.engine.sizing is None:  # else the places are known with the rows
            view.check(model.engine.reading, model.engine.places)
    except InvalidInputError as error:
        raise InvalidAskError(str(error)) from error
    return view


def _check_samples(plan: Plan, rows: int, most: int) -> None:
    if plan.samples and rows * plan.passes > most:
        raise InvalidAskError(
            f"samples of {rows} rows and {plan.passes} passes were asked for; rows times passes of at most {most} is "
            "accepted with samples=true"
        )


def _reduced(plan: Plan, load: float, floor: int) -> Plan:
    """A plan with fewer passes, the fuller the backlog is beyond its half; down to `floor`."""
    if load <= _SHED_FROM or plan.passes <= floor:
        return plan
    share = max(0.0, (1.0 - load) / (1.0 - _SHED_FROM))
    return plan._replace(passes=max(floor, round(plan.passes * share)), asked=plan.passes)
