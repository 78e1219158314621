"""The scheduler: many requests, one engine, answers that do not depend on who shared a step."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mcdropout.catalogue.loading import Loading, load
from mcdropout.catalogue.model import Model
from mcdropout.engine import UnusableOutputError
from mcdropout.engine.cohort import Cohort
from mcdropout.metrics import Metrics
from mcdropout.scheduling.answer import Answer
from mcdropout.scheduling.backlog import OverloadedError
from mcdropout.scheduling.clients import Client
from mcdropout.scheduling.lane import Lane
from mcdropout.scheduling.plan import Plan
from mcdropout.scheduling.request import DeadlineError
from mcdropout.scheduling.scheduler import Scheduler
from tests.bundles import CLASSIFIER, NOISE, REGRESSION, write_bundle
from tests.compilations import compile_here, compiled
from tests.patience import patience, wait_until

FRAGILE = CLASSIFIER.replace("return self.layers(x)", "return self.layers(x) / (x[:, :1] != 9.0)")
WEIGHTS = """
    import torch.nn.functional as F
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x):
            weight = F.dropout(self.first.weight, 0.5, self.training)
            return self.last(F.linear(x, weight, self.first.bias).relu())
"""
Work = list[tuple[Cohort, int]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A classifier of 4 numbers that answers NaN where the first is 9."""
    return load(compiled(write_bundle(tmp_path_factory.mktemp("models"), "fragile", FRAGILE)), Loading())


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = write_bundle(tmp_path_factory.mktemp("models"), "values", REGRESSION, task="regression", output=NOISE)
    return load(compiled(folder), Loading())


@pytest.fixture(scope="module")
def shared_masks(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A classifier whose rows share masks, so that requests do not share steps."""
    return load(compiled(write_bundle(tmp_path_factory.mktemp("models"), "weights", WEIGHTS)), Loading())


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def scheduler(metrics: Metrics) -> Iterator[Scheduler]:
    running = Scheduler(metrics, max_queue_rows=100, max_batch_rows=16, step_seconds=10.0)
    yield running
    running.stop()


def rows(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)


def ask(scheduler: Scheduler, model: Model, x: npt.NDArray[np.float32], seed: int = 0, **plan: Any) -> Any:
    return scheduler.submit(model, (x,), seed=seed, plan=Plan(**({"passes": 3} | plan)))


def counted(metrics: Metrics, name: str, **labels: str) -> float:
    """The value of a metric that there is; 0 where it has none yet."""
    families = [family.name for family in metrics.registry.collect()]
    known = {f"{family}{suffix}" for family in families for suffix in ("", "_total", "_sum", "_count", "_bucket")}
    assert f"mcdropout_{name}" in known, name
    return metrics.registry.get_sample_value(f"mcdropout_{name}", labels) or 0.0


def means(answer: Answer) -> npt.NDArray[np.float64]:
    mean: npt.NDArray[np.float64] = answer.prediction.mean
    return mean


class Gate:
    """Holds the steps of a model until it is opened, and notes what was in each: rows and passes of each cohort."""

    def __init__(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held = threading.Event()
        self._open = threading.Event()
        self.steps: list[list[tuple[int, int]]] = []
        steps = model.engine.steps
        run, deterministic = steps.run, steps.deterministic

        def gated(what: list[tuple[int, int]], call: Callable[[], Any]) -> Any:
            self.steps.append(what)
            self.held.set()
            assert self._open.wait(patience(30))
            return call()

        monkeypatch.setattr(
            steps, "run", lambda work: gated([(len(cohort), passes) for cohort, passes in work], lambda: run(work))
        )
        monkeypatch.setattr(
            steps, "deterministic", lambda inputs: gated([(len(inputs[0]), 0)], lambda: deterministic(inputs))
        )

    def open(self) -> None:
        self._open.set()


def held(scheduler: Scheduler, model: Model, monkeypatch: pytest.MonkeyPatch) -> tuple[Gate, Any]:
    """A gate at which a request of one row waits."""
    gate = Gate(model, monkeypatch)
    first = ask(scheduler, model, rows(1))
    assert gate.held.wait(patience(30))
    return gate, first


def test_what_waits_while_the_engine_is_busy_runs_together_and_each_gets_its_own(
    model: Model, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [(rows(1 + index % 3, index), index) for index in range(8)]
    alone = [model.engine.predict(x, passes=20, seed=seed) for x, seed in given]
    gate, first = held(scheduler, model, monkeypatch)
    futures = [ask(scheduler, model, x, seed, passes=20) for x, seed in given]
    gate.open()
    first.result(patience(30))
    for future, expected in zip(futures, alone, strict=True):
        answer = future.result(patience(30))
        assert np.abs(means(answer) - expected.mean).max() < 1e-6
        assert answer.prediction.seed == expected.seed
        assert answer.queue_seconds > 0
    assert gate.steps == [[(1, 3)], [(sum(len(x) for x, _ in given), 20)]]


def test_requests_of_different_passes_share_a_step_and_a_step_has_a_bound(
    model: Model, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, first = held(scheduler, model, monkeypatch)
    asked = (5, 5, 7, 0, 9)
    futures = [ask(scheduler, model, rows(3, seed), seed, passes=passes) for seed, passes in enumerate(asked)]
    later = ask(scheduler, model, rows(6), passes=5)
    gate.open()
    for seed, (future, passes) in enumerate(zip(futures, asked, strict=True)):
        prediction = future.result(patience(30)).prediction
        assert prediction.passes.tolist() == [passes] * 3
        expected = model.engine.predict(rows(3, seed), passes, seed)
        assert np.abs(prediction.mean - expected.mean).max() < 1e-6
    assert later.result(patience(30))
    assert [(3, 0)] in gate.steps
    assert [(6, 5), (3, 7), (3, 9), (1, 5)] in gate.steps or [(7, 5), (3, 7), (3, 9)] in gate.steps
    assert all(sum(count for count, _ in step) <= 16 for step in gate.steps)
    assert first.result(patience(30))


def test_answers_do_not_depend_on_what_shares_their_steps(
    model: Model, regression: Model, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small steps, so that requests meet others in the middle of their passes."""
    for which in (model, regression):
        monkeypatch.setattr(which.engine.steps, "most_pairs", 16)
    scheduler = Scheduler(metrics, max_queue_rows=10_000, max_batch_rows=3, step_seconds=1e-5)
    generator = np.random.default_rng(5)
    asked = [
        (which, rows(int(count), seed), seed, int(passes))
        for seed, (which, count, passes) in enumerate(
            zip([model, regression] * 30, generator.integers(1, 9, 60), generator.integers(1, 200, 60), strict=True)
        )
    ]
    futures = [ask(scheduler, which, x, seed, passes=passes) for which, x, seed, passes in asked]
    for future, (which, x, seed, passes) in zip(futures, asked, strict=True):
        found, wanted = future.result(patience(60)).prediction, which.engine.predict(x, passes, seed)
        assert found.passes.tolist() == wanted.passes.tolist()
        for name, value in wanted.values.items():
            if value is not None:
                np.testing.assert_allclose(getattr(found, name), value, rtol=1e-6, atol=1e-6, err_msg=name)
    scheduler.stop()


def test_a_small_request_does_not_wait_for_large_ones(
    model: Model, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Steps that may take long stay large on a busy machine; small ones would hold less than what is asked for.
    scheduler = Scheduler(metrics, max_queue_rows=10_000, max_batch_rows=64, step_seconds=10.0)
    gate, first = held(scheduler, model, monkeypatch)
    large = [ask(scheduler, model, rows(1000), seed, passes=200) for seed in range(3)]
    order: list[str] = []
    for seed, future in enumerate(large):
        future.add_done_callback(lambda _, seed=seed: order.append(f"large {seed}"))
    gate.open()
    wait_until(lambda: len(gate.steps) >= 5)
    small = ask(scheduler, model, rows(1), passes=50)
    began, ended = len(gate.steps), threading.Event()
    steps: list[int] = []
    small.add_done_callback(lambda _: (order.append("small"), steps.append(len(gate.steps)), ended.set()))
    assert ended.wait(patience(30))
    assert small.result()
    assert steps[0] - began <= 3
    for future in (first, *large):
        assert future.result(patience(60))
    assert order[0] == "small"
    scheduler.stop()


def spent(metrics: Metrics, name: str) -> float:
    """The time that a model's steps took, in seconds."""
    stages = ("prefix", "masks", "suffix", "statistics")
    return sum(counted(metrics, "step_duration_seconds_sum", model=name, stage=stage) for stage in stages)


def test_models_share_the_time(model: Model, regression: Model, metrics: Metrics) -> None:
    scheduler = Scheduler(metrics, max_queue_rows=100_000, max_batch_rows=64)
    futures = [ask(scheduler, which, rows(4000), passes=3000) for which in (model, regression)]
    wait_until(lambda: spent(metrics, "fragile") + spent(metrics, "values") > 1.0)
    assert not any(future.done() for future in futures)
    of_each = sorted((spent(metrics, "fragile"), spent(metrics, "values")))
    assert of_each[1] < 1.5 * of_each[0] + 0.1
    for future in futures:
        future.cancel()
    scheduler.stop()


def test_a_model_that_comes_later_gets_its_share_and_not_what_it_missed(
    model: Model, regression: Model, metrics: Metrics
) -> None:
    scheduler = Scheduler(metrics, max_queue_rows=100_000, max_batch_rows=64)
    first = ask(scheduler, regression, rows(4000), passes=3000)
    wait_until(lambda: spent(metrics, "values") > 1.0)
    before = spent(metrics, "values")
    second = ask(scheduler, model, rows(4000), passes=3000)
    wait_until(lambda: spent(metrics, "fragile") > 0.4)
    assert not first.done()
    assert spent(metrics, "values") - before > 0.2
    for future in (first, second):
        future.cancel()
    scheduler.stop()


def test_requests_whose_rows_share_masks_get_what_they_would_get_alone(
    shared_masks: Model, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, first = held(scheduler, shared_masks, monkeypatch)
    futures = [ask(scheduler, shared_masks, rows(4, seed), seed, passes=30) for seed in range(5)]
    gate.open()
    for seed, future in enumerate(futures):
        expected = shared_masks.engine.predict(rows(4, seed), 30, seed)
        assert np.abs(means(future.result(patience(30))) - expected.mean).max() < 1e-6
    assert first.result(patience(30))


class TestStoppingEarly:
    def test_each_row_stops_when_its_error_is_small_enough(self, model: Model, scheduler: Scheduler) -> None:
        x = rows(40)
        answer = ask(scheduler, model, x, 3, passes=5000, tolerance=0.02).result(patience(60))
        passes, errors = answer.prediction.passes, answer.prediction.std_error
        assert len(set(passes.tolist())) > 3
        assert passes.min() >= 8
        assert errors.max() <= 0.02
        for row in range(40):
            wanted = model.engine.samples(x, int(passes[row]), 3)[:, row]
            np.testing.assert_allclose(means(answer)[row], wanted.mean(0), atol=1e-9)
            squares = np.square(wanted - wanted.mean(0)).sum(0) + 0.01**2
            n = int(passes[row])
            np.testing.assert_allclose(errors[row], np.sqrt(squares / (n * (n - 1))), rtol=1e-6)

    def test_the_same_seed_gives_the_same_passes_whatever_shares_the_steps(
        self, model: Model, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        x = rows(40)
        alone = ask(scheduler, model, x, 3, passes=5000, tolerance=0.02).result(patience(60)).prediction
        gate, _ = held(scheduler, model, monkeypatch)
        others = [ask(scheduler, model, rows(5, seed), seed, passes=5000, tolerance=0.01) for seed in range(6)]
        shared = ask(scheduler, model, x, 3, passes=5000, tolerance=0.02)
        gate.open()
        assert shared.result(patience(60)).prediction.passes.tolist() == alone.passes.tolist()
        np.testing.assert_allclose(shared.result(patience(60)).prediction.mean, alone.mean, atol=1e-6)
        assert all(other.result(patience(60)) for other in others)

    def test_a_row_gets_no_more_than_the_most_and_says_what_it_reached(
        self, model: Model, scheduler: Scheduler
    ) -> None:
        answer = ask(scheduler, model, rows(2), passes=30, tolerance=1e-6).result(patience(60))
        assert answer.prediction.passes.tolist() == [30, 30]
        assert (answer.prediction.std_error.max(axis=1) > 1e-6).all()

    def test_passes_that_agree_do_not_count_as_certain(self, model: Model, scheduler: Scheduler) -> None:
        still = np.zeros((1, 4), np.float32)
        answer = ask(scheduler, model, still, passes=1000, tolerance=0.01).result(patience(60))
        assert (answer.prediction.std_error >= 0.005 / np.sqrt(8 * 7)).all() or answer.prediction.passes[0] > 8

    def test_what_is_found_can_be_written_as_json(self, model: Model, scheduler: Scheduler) -> None:
        """orjson writes arrays only that lie in memory in the order of their entries."""
        for tolerance in (0.9, 0.02):
            prediction = ask(scheduler, model, rows(7), passes=300, tolerance=tolerance).result(patience(60)).prediction
            for name, value in prediction.values.items():
                if value is not None:
                    assert value[0].flags.c_contiguous, name

    def test_regressions_stop_too(self, regression: Model, scheduler: Scheduler) -> None:
        answer = ask(scheduler, regression, rows(10), passes=10_000, tolerance=0.01).result(patience(60))
        assert answer.prediction.std_error.max() <= 0.01
        assert answer.prediction.passes.max() < 10_000


class TestDeadlines:
    def test_what_there_is_is_answered_in_time(self, model: Model, scheduler: Scheduler) -> None:
        began = time.perf_counter()
        deadline = began + patience(0.2)
        answer = ask(scheduler, model, rows(100), passes=1_000_000, deadline=deadline).result(patience(30))
        assert time.perf_counter() - began < patience(1.0)
        assert answer.prediction.passes.min() >= 8
        assert answer.prediction.passes.max() < 1_000_000

    def test_one_that_cannot_be_kept_is_refused(
        self, model: Model, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate, first = held(scheduler, model, monkeypatch)
        deadline = time.perf_counter() + 0.05
        late = ask(scheduler, model, rows(5), passes=50, deadline=deadline)
        wait_until(lambda: time.perf_counter() > deadline)
        gate.open()
        with pytest.raises(DeadlineError):
            late.result(patience(30))
        assert first.result(patience(30))
        assert ask(scheduler, model, rows(5), passes=50, deadline=time.perf_counter() + patience(30)).result(
            patience(30)
        )

    def test_one_that_is_kept_anyway_changes_nothing(self, model: Model, scheduler: Scheduler) -> None:
        answer = ask(scheduler, model, rows(3), 4, passes=60, deadline=time.perf_counter() + patience(60)).result(
            patience(30)
        )
        expected = model.engine.predict(rows(3), 60, 4)
        assert np.abs(means(answer) - expected.mean).max() < 1e-6
        assert answer.prediction.passes.tolist() == [60] * 3

    @staticmethod
    def without_turns(scheduler: Scheduler, model: Model, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[Work]]:
        """A request whose deadline comes while its model has no turn, as its first step took long; and its steps."""
        run, ran, second = model.engine.steps.run, list[Work](), patience(1.0)

        def slow(work: Work) -> Any:
            ran.append(work)
            found = run(work)
            if len(ran) == 1:
                time.sleep(1.5 * second)
            return found

        monkeypatch.setattr(model.engine.steps, "run", slow)
        return ask(scheduler, model, rows(1), passes=1_000_000, deadline=time.perf_counter() + 2.0 * second), ran

    def test_it_is_kept_whichever_models_turn_it_is(
        self, model: Model, regression: Model, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scheduler = Scheduler(metrics, max_queue_rows=100_000, max_batch_rows=64)
        other = ask(scheduler, regression, rows(4000), passes=1_000_000)
        hurried, ran = self.without_turns(scheduler, model, monkeypatch)
        assert hurried.result(patience(30)).prediction.passes[0] >= 8
        assert len(ran) == 1
        assert not other.done()
        other.cancel()
        scheduler.stop()

    def test_where_that_fails_it_is_answered_at_its_turn(
        self, model: Model, regression: Model, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fails: list[Lane] = []

        def failing(lane: Lane, *_: Any) -> Any:
            fails.append(lane)
            raise MemoryError("no room")

        monkeypatch.setattr(Lane, "end_due", failing)
        scheduler = Scheduler(metrics, max_queue_rows=100_000, max_batch_rows=64)
        other = ask(scheduler, regression, rows(4000), passes=1_000_000)
        hurried, ran = self.without_turns(scheduler, model, monkeypatch)
        assert hurried.result(patience(30)).prediction.passes[0] >= 8
        assert len(fails) == 1
        assert len(ran) == 2
        other.cancel()
        scheduler.stop()

    def test_nothing_is_computed_for_one_that_is_late_and_whose_future_is_not_settled_yet(
        self, model: Model, metrics: Metrics
    ) -> None:
        delivered: list[Callable[[], None]] = []
        scheduler = Scheduler(metrics, max_queue_rows=100, deliver=delivered.append)
        late = ask(scheduler, model, rows(5), deadline=time.perf_counter() - 1.0)
        scheduler.stop()  # which ends with nothing to do
        assert not late.done()
        assert counted(metrics, "pairs_total", model="fragile") == 0
        delivered[0]()
        assert isinstance(late.exception(0), DeadlineError)
        assert len(delivered) == 1


def test_a_non_finite_row_fails_its_own_request_and_no_other(
    model: Model, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = model.engine.predict(rows(2), passes=10, seed=1)
    gate, _ = held(scheduler, model, monkeypatch)
    bad = np.array([[0, 0, 0, 0], [9, 0, 0, 0]], np.float32)
    good, other = ask(scheduler, model, rows(2), 1, passes=10), ask(scheduler, model, bad, 2, passes=10)
    gate.open()
    assert np.abs(means(good.result(patience(30))) - expected.mean).max() < 1e-6
    with pytest.raises(UnusableOutputError, match="row 1") as refusal:
        other.result(patience(30))
    assert refusal.value.rows == [1]
    assert gate.steps == [[(1, 3)], [(4, 10)]]


def test_what_fails_a_step_fails_by_itself_and_those_beside_it_are_answered_as_ever(
    model: Model, metrics: Metrics, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [model.engine.predict(rows(2, seed), passes=10, seed=seed) for seed in range(5)]
    gate, first = held(scheduler, model, monkeypatch)
    run = model.engine.steps.run

    def failing(work: Work) -> Any:
        if any(3 in cohort.seeds for cohort, _ in work):
            raise ValueError("row 3 of 2 is none")  # as a runtime does of an index beyond its table
        return run(work)

    monkeypatch.setattr(model.engine.steps, "run", failing)
    futures = [ask(scheduler, model, rows(2, seed), seed, passes=10) for seed in range(5)]
    gate.open()
    assert first.result(patience(30))
    for seed, future in enumerate(futures):
        if seed == 3:
            assert isinstance(future.exception(patience(30)), ValueError)
        else:
            assert np.abs(means(future.result(patience(30))) - expected[seed].mean).max() < 1e-6
    assert counted(metrics, "step_failures_total", model="fragile") == 2  # of the five together, and of the one
    assert (scheduler.queue_rows, scheduler.load) == (0, 0.0)


def test_a_step_that_fails_is_run_again_a_request_at_a_time_and_the_next_is_half_as_large(
    model: Model, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = Scheduler(metrics, max_queue_rows=1000, max_batch_rows=16)
    gate, first = held(scheduler, model, monkeypatch)
    run = model.engine.steps.run
    sizes: list[int] = []

    def failing(work: Work) -> Any:
        sizes.append(sum(len(cohort) for cohort, _ in work))
        if sizes[-1] > 8:
            raise MemoryError("no room")
        return run(work)

    monkeypatch.setattr(model.engine.steps, "run", failing)
    futures = [ask(scheduler, model, rows(1), seed) for seed in range(60)]
    gate.open()
    assert first.result(patience(30))
    outcomes = [future.exception(patience(30)) for future in futures]
    assert outcomes == [None] * 60
    assert sizes[0] == 16
    assert sizes.count(1) >= 16
    assert max(sizes[1:]) <= 8
    assert counted(metrics, "step_failures_total", model="fragile") == 1
    scheduler.stop()


def test_what_cannot_be_planned_or_run_fails_its_requests_and_the_next_are_answered(
    model: Model, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("plan", "run"):
        with monkeypatch.context() as patch:
            patch.setattr(f"mcdropout.scheduling.lane.Lane.{name}", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                ask(scheduler, model, rows(1)).result(patience(30))
        assert ask(scheduler, model, rows(1)).result(patience(30))


def test_what_is_done_and_cannot_be_answered_fails(
    model: Model, scheduler: Scheduler, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request of many steps: in its last one, its group has let go of it already."""
    of = metrics.of
    with monkeypatch.context() as patch:
        patch.setattr(metrics, "of", lambda metric, *labels: 1 / 0 if metric is metrics.rows else of(metric, *labels))
        with pytest.raises(ZeroDivisionError):
            ask(scheduler, model, rows(2), passes=20_000).result(30)
    assert (scheduler.queue_rows, scheduler.load) == (0, 0.0)
    assert ask(scheduler, model, rows(1)).result(30)


def test_an_answer_that_cannot_be_delivered_keeps_no_other_from_it(model: Model, metrics: Metrics) -> None:
    delivered: list[Callable[[], None]] = []

    def deliver(call: Callable[[], None]) -> None:
        delivered.append(call)
        if len(delivered) == 1:
            raise RuntimeError("nobody takes it")
        call()

    scheduler = Scheduler(metrics, max_queue_rows=100, deliver=deliver)
    ask(scheduler, model, rows(1))
    wait_until(lambda: counted(metrics, "step_failures_total", model="fragile") == 1)
    assert ask(scheduler, model, rows(1)).result(30)
    assert scheduler.queue_rows == 0
    scheduler.stop()


def test_one_whose_turn_cannot_be_planned_leaves_no_other_unanswered(
    model: Model, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = model.engine.steps
    for fails_at in range(1, 8):
        turns: list[int] = []

        def failing(count: int, turns: list[int] = turns, fails_at: int = fails_at) -> int:
            turns.append(count)
            if len(turns) == fails_at:
                raise MemoryError("no room")
            return steps.most_pairs // count

        gate, first = held(scheduler, model, monkeypatch)
        futures = [ask(scheduler, model, rows(1), passes=passes) for passes in (3, 4, 0, 0, 5)]
        futures += [ask(scheduler, model, rows(2), passes=5000) for _ in range(2)]
        monkeypatch.setattr(steps, "most_passes", failing)
        gate.open()
        outcomes = [future.exception(patience(30)) for future in (first, *futures)]
        assert all(isinstance(outcome, MemoryError | None) for outcome in outcomes)
        assert any(outcomes)
        assert (scheduler.queue_rows, scheduler.load) == (0, 0.0)
        monkeypatch.undo()
    assert ask(scheduler, model, rows(1)).result(patience(30))


def test_clients_have_turns_by_what_they_have_had_however_many_requests_they_have(
    model: Model, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.engine.steps, "most_pairs", 64)
    scheduler = Scheduler(metrics, max_queue_rows=1000, step_seconds=10.0)
    gate = Gate(model, monkeypatch)
    plan = Plan(2000)
    many = [scheduler.submit(model, (rows(1),), seed=0, plan=plan, client=Client("greedy"))]
    assert gate.held.wait(patience(30))  # what comes now begins in one step
    many += [scheduler.submit(model, (rows(1),), seed=n, plan=plan, client=Client("greedy")) for n in range(1, 20)]
    one = scheduler.submit(model, (rows(1),), seed=99, plan=plan, client=Client("modest"))
    answered: list[int] = []
    one.add_done_callback(lambda _: answered.append(sum(future.done() for future in many)))
    gate.open()
    for future in (one, *many):
        future.result(patience(60))
    scheduler.stop()
    assert answered[0] <= 1


def test_what_is_submitted_in_a_row_begins_together(model: Model, metrics: Metrics) -> None:
    later: list[Callable[[], object]] = []
    scheduler = Scheduler(metrics, max_queue_rows=100, step_seconds=10.0, soon=later.append)
    for count in (1, 2):
        futures = [ask(scheduler, model, rows(2), passes=0) for _ in range(5)]
        (announce,) = later
        later.clear()
        time.sleep(0.05)
        assert not any(future.done() for future in futures)
        announce()
        for future in futures:
            future.result(patience(30))
        assert counted(metrics, "step_rows_count", model="fragile") == count
    waiting = ask(scheduler, model, rows(1))
    scheduler.stop()
    assert waiting.result(0).rows == 1


def test_a_model_whose_steps_fail_leaves_others_their_time(
    model: Model, regression: Model, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = Scheduler(metrics, max_queue_rows=10_000, max_batch_rows=16)
    fails: list[float] = []

    def failing(work: Work) -> Any:
        fails.append(time.perf_counter())
        time.sleep(0.02)
        raise MemoryError("no room")

    monkeypatch.setattr(model.engine.steps, "run", failing)
    futures = [ask(scheduler, model, rows(1)) for _ in range(40)]
    wait_until(lambda: fails)
    before, after = len(fails), []
    other = ask(scheduler, regression, rows(1))
    other.add_done_callback(lambda _: after.append(len(fails)))
    assert other.result(patience(30))
    assert after[0] - before <= 3
    assert all(isinstance(future.exception(patience(60)), MemoryError) for future in futures)
    scheduler.stop()


def test_who_is_late_with_many_rows_is_counted_once(
    model: Model, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row has begun and lacks the fewest passes, in a step of 4 pairs; the others have not begun."""
    monkeypatch.setattr(model.engine.steps, "most_pairs", 4)
    scheduler = Scheduler(metrics, max_queue_rows=1000, max_batch_rows=1)
    gate = Gate(model, monkeypatch)
    deadline = time.perf_counter() + patience(0.5)
    late = ask(scheduler, model, rows(20), deadline=deadline, passes=1000)
    assert gate.held.wait(patience(30))
    time.sleep(max(0.0, deadline - time.perf_counter()))
    gate.open()
    with pytest.raises(DeadlineError):
        late.result(patience(30))
    scheduler.stop()
    assert counted(metrics, "refused_total", model="fragile", reason="deadline") == 1
    assert counted(metrics, "queue_rows") == 0


def test_a_cancelled_request_leaves_at_the_next_step_and_harms_no_other(
    model: Model, scheduler: Scheduler, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, first = held(scheduler, model, monkeypatch)
    waiting = ask(scheduler, model, rows(5))
    late = ask(scheduler, model, rows(2))
    long = ask(scheduler, model, rows(80), passes=1_000_000)
    assert waiting.cancel()
    gate.open()
    assert first.result(patience(30))
    assert late.result(patience(30))
    assert long.cancel()
    wait_until(lambda: scheduler.load == 0)
    assert counted(metrics, "queue_rows") == 0
    assert counted(metrics, "cancelled_total", model="fragile") == 2
    steps = len(gate.steps)
    assert ask(scheduler, model, rows(3)).result(patience(30))
    assert len(gate.steps) <= steps + 2


def test_a_full_queue_refuses_at_once_with_when_to_come_back_and_recovers(
    model: Model, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, first = held(scheduler, model, monkeypatch)
    second = ask(scheduler, model, rows(90))
    with pytest.raises(OverloadedError, match="91 rows wait") as refusal:
        ask(scheduler, model, rows(11))
    assert 1 <= refusal.value.retry_after <= 60
    assert scheduler.refusal() is None
    assert scheduler.refusal(coming=9) is not None
    ninth = ask(scheduler, model, rows(9))
    error = scheduler.refusal()
    assert error is not None
    assert "100 rows wait" in str(error)
    assert (error.reason, error.retry_after) == ("queue", refusal.value.retry_after)
    assert scheduler.refusal() is error  # many ask between two steps
    gate.open()
    assert all(future.result(patience(30)) for future in (first, second, ninth))
    assert ask(scheduler, model, rows(11)).result(patience(30))


def test_a_request_larger_than_the_queue_is_taken_when_nothing_waits(model: Model, scheduler: Scheduler) -> None:
    assert ask(scheduler, model, rows(150)).result(patience(30)).prediction.mean.shape == (150, 3)


def test_memory_of_inputs_is_bounded_too(model: Model, metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = Scheduler(metrics, max_queue_rows=10_000, max_queue_bytes=1000, max_batch_rows=16)
    gate, first = held(scheduler, model, monkeypatch)
    second = ask(scheduler, model, rows(60))
    with pytest.raises(OverloadedError, match="1000 bytes are accepted"):
        ask(scheduler, model, rows(2))
    gate.open()
    assert first.result(patience(30))
    assert second.result(patience(30))
    scheduler.stop()


def test_stopping_finishes_what_waits_and_takes_no_more(model: Model) -> None:
    scheduler = Scheduler(Metrics(), max_queue_rows=1000, max_batch_rows=16)
    futures = [ask(scheduler, model, rows(2), i, passes=20) for i in range(20)]
    scheduler.stop()
    assert all(future.done() for future in futures)
    with pytest.raises(OverloadedError, match="stopping"):
        ask(scheduler, model, rows(1))


def test_many_threads_get_what_they_would_get_alone(model: Model, scheduler: Scheduler) -> None:
    def difference(seed: int) -> float:
        x = rows(1 + seed % 3, seed)
        answer = ask(scheduler, model, x, seed, passes=10, samples=True).result(patience(60))
        assert answer.samples is not None
        expected = model.engine.samples(x, passes=10, seed=seed)
        return float(np.abs(answer.samples.swapaxes(0, 1) - expected).max())

    with ThreadPoolExecutor(16) as clients:
        assert max(clients.map(difference, range(64))) < 1e-6


def test_samples_of_a_request_of_many_steps_are_in_order(model: Model, scheduler: Scheduler) -> None:
    answer = ask(scheduler, model, rows(70), 9, passes=300, samples=True).result(patience(60))
    expected = model.engine.samples(rows(70), passes=300, seed=9)
    assert np.abs(answer.samples.swapaxes(0, 1) - expected).max() < 1e-6


def test_a_bundles_path_does_not_matter(tmp_path: Path) -> None:
    folders = [write_bundle(tmp_path / place, "same") for place in ("a", "b")]
    for folder in folders:
        compile_here(folder, folder / "compiled")
    here, there = (
        load(folder, Loading(compiles=False)).engine.predict(rows(3), passes=5, seed=1) for folder in folders
    )
    assert np.array_equal(here.mean, there.mean)


def test_time_that_waits_is_bounded_where_that_is_set(
    model: Model, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = Scheduler(metrics, max_queue_rows=100_000, max_queue_seconds=5.0, max_batch_rows=8)
    try:
        gate, first = held(scheduler, model, monkeypatch)
        time.sleep(0.2)  # three passes in that time and more
        gate.open()
        assert first.result(patience(30))
        monkeypatch.undo()
        gate, second = held(scheduler, model, monkeypatch)
        assert scheduler.refusal() is None
        third = ask(scheduler, model, rows(2), passes=3)
        with pytest.raises(OverloadedError, match=r"5 s are accepted") as refusal:
            ask(scheduler, model, rows(2), passes=500)
        assert refusal.value.reason == "wait"
        fourth = ask(scheduler, model, rows(1), passes=1_000_000, deadline=time.perf_counter() + 0.05)
        gate.open()
        assert all(future.result(patience(30)) for future in (second, third))
        with suppress(DeadlineError):
            fourth.result(patience(30))
        wait_until(lambda: scheduler.load == 0.0)
    finally:
        scheduler.stop()


def test_time_in_which_nothing_waits_is_no_time_of_steps(
    model: Model, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = Scheduler(metrics, max_queue_rows=100_000, max_queue_seconds=1.0, max_batch_rows=8)
    second = patience(1.0)
    for _ in range(3):
        assert ask(scheduler, model, rows(8), passes=3).result(patience(30))
        time.sleep(0.5 * second)
    gate = Gate(model, monkeypatch)
    last = ask(scheduler, model, rows(8), passes=3)
    # What 24 pairs take; with the times between it would be 0.3 s and more.
    assert scheduler.load < 0.15 * second
    gate.open()
    assert last.result(patience(30))
    scheduler.stop()


class TestThreads:
    def test_what_is_submitted_while_the_scheduler_stops_is_refused_or_answered(
        self, model: Model, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A request is admitted, and the scheduler is stopped before it is in the inbox."""
        scheduler = Scheduler(metrics, max_queue_rows=100)
        stopping = threading.Thread(target=scheduler.stop)
        counts = metrics.queue_rows.set

        def meanwhile(value: float) -> None:
            counts(value)
            if not stopping.ident:
                stopping.start()
                stopping.join(0.3)

        monkeypatch.setattr(metrics.queue_rows, "set", meanwhile)
        future = ask(scheduler, model, rows(1))
        assert future.result(patience(30))
        stopping.join(patience(30))
        with pytest.raises(OverloadedError, match="stopping"):
            ask(scheduler, model, rows(1))

    def test_lanes_are_the_schedulers_threads_alone(
        self, model: Model, regression: Model, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        threads: dict[str, set[str]] = {}

        def watched(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
            def call(*given: Any) -> Any:
                threads.setdefault(name, set()).add(threading.current_thread().name)
                return method(*given)

            return call

        names = ("submit", "plan", "run", "settle", "due", "end_due")
        for name in names:
            monkeypatch.setattr(Lane, name, watched(name, getattr(Lane, name)))
        scheduler = Scheduler(metrics, max_queue_rows=100_000)

        def client(seed: int) -> None:
            which = (model, regression)[seed % 2]
            plan = {"deadline": time.perf_counter() + 0.05} if seed % 3 else {}
            future = ask(scheduler, which, rows(2), seed, passes=200_000 if plan else 20, **plan)
            _ = scheduler.load, scheduler.queue_rows, scheduler.refusal()
            with suppress(DeadlineError):
                future.result(patience(30))

        with ThreadPoolExecutor(8) as clients:
            list(clients.map(client, range(48)))
        scheduler.stop()
        assert threads == {name: {"scheduler"} for name in names}
