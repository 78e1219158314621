"""The scheduler: many requests, one engine, answers that do not depend on who shared a run."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from service.engine import NonFiniteOutputError
from service.engine.statistics import ClassificationPrediction
from service.loading import Loading, Model, load
from service.metrics import Metrics
from service.scheduler import Answer, OverloadedError, Scheduler
from tests.bundles import CLASSIFIER, write_bundle

FRAGILE = CLASSIFIER.replace("return self.layers(x)", "return self.layers(x) / (x[:, :1] != 9.0)")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A classifier of 4 numbers that answers NaN where the first is 9."""
    return load(write_bundle(tmp_path_factory.mktemp("models"), "fragile", FRAGILE), Loading())


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    running = Scheduler(Metrics(), max_queue_rows=100, max_batch_rows=16)
    yield running
    running.stop()


def rows(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)


def means(answer: Answer) -> npt.NDArray[np.float64]:
    assert isinstance(answer.prediction, ClassificationPrediction)
    return answer.prediction.mean


class Gate:
    """Holds the engine of a model until it is opened."""

    def __init__(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held = threading.Event()
        self._open = threading.Event()
        self.sizes: list[int] = []
        run = model.engine.run

        def gated(inputs: Any, *arguments: Any, **named: Any) -> Any:
            self.sizes.append(len(inputs[0]))
            self.held.set()
            assert self._open.wait(30)
            return run(inputs, *arguments, **named)

        monkeypatch.setattr(model.engine, "run", gated)

    def open(self) -> None:
        self._open.set()


def test_what_waits_while_the_engine_is_busy_runs_together_and_each_gets_its_own(
    model: Model, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [(rows(1 + index % 3, index), index) for index in range(8)]
    alone = [model.engine.predict(x, passes=20, seed=seed) for x, seed in given]
    gate = Gate(model, monkeypatch)
    first = scheduler.submit(model, (rows(1),), seed=0, passes=20, samples=False)
    assert gate.held.wait(30)
    futures = [scheduler.submit(model, (x,), seed=seed, passes=20, samples=False) for x, seed in given]
    gate.open()
    first.result(30)
    for future, expected in zip(futures, alone, strict=True):
        answer = future.result(30)
        assert np.abs(means(answer) - expected.mean).max() < 1e-6
        assert answer.prediction.seed == expected.seed
        assert answer.queue_seconds > 0
    assert gate.sizes == [1, sum(len(x) for x, _ in given)]


def test_requests_of_other_passes_do_not_share_a_run_and_a_run_has_a_bound(
    model: Model, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(model, monkeypatch)
    futures = [scheduler.submit(model, (rows(1),), seed=0, passes=20, samples=False)]
    assert gate.held.wait(30)
    for passes in (5, 5, 7, 0, 5, 5):
        futures += [scheduler.submit(model, (rows(6),), seed=0, passes=passes, samples=False)]
    gate.open()
    answers = [future.result(30) for future in futures]
    assert [answer.prediction.passes[0] for answer in answers] == [20, 5, 5, 7, 0, 5, 5]
    assert sorted(gate.sizes) == [1, 6, 6, 12, 12]


def test_a_non_finite_row_fails_its_own_request_and_no_other(
    model: Model, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = model.engine.predict(rows(2), passes=10, seed=1)
    gate = Gate(model, monkeypatch)
    futures: list[Future[Answer]] = [scheduler.submit(model, (rows(1),), seed=0, passes=3, samples=False)]
    assert gate.held.wait(30)
    bad = np.array([[0, 0, 0, 0], [9, 0, 0, 0]], np.float32)
    futures.append(scheduler.submit(model, (rows(2),), seed=1, passes=10, samples=False))
    futures.append(scheduler.submit(model, (bad,), seed=2, passes=10, samples=False))
    gate.open()
    assert np.abs(means(futures[1].result(30)) - expected.mean).max() < 1e-6
    with pytest.raises(NonFiniteOutputError, match="row 1") as refusal:
        futures[2].result(30)
    assert refusal.value.rows == [1]
    assert gate.sizes == [1, 4]


def test_a_run_that_fails_is_tried_again_a_request_at_a_time(
    model: Model, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(model, monkeypatch)
    gated = model.engine.run

    def failing(inputs: Any, *arguments: Any, **named: Any) -> Any:
        outcome = gated(inputs, *arguments, **named)
        if (inputs[0] == 5.0).any():
            raise MemoryError("no room")
        return outcome

    monkeypatch.setattr(model.engine, "run", failing)
    first = scheduler.submit(model, (rows(1),), seed=0, passes=3, samples=False)
    assert gate.held.wait(30)
    good = scheduler.submit(model, (rows(1),), seed=0, passes=3, samples=False)
    bad = scheduler.submit(model, (np.full((1, 4), 5.0, np.float32),), seed=0, passes=3, samples=False)
    gate.open()
    assert np.array_equal(means(good.result(30)), means(first.result(30)))
    with pytest.raises(MemoryError, match="no room"):
        bad.result(30)


def test_a_cancelled_request_leaves_the_queue_and_harms_no_other(
    model: Model, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(model, monkeypatch)
    first = scheduler.submit(model, (rows(1),), seed=0, passes=3, samples=False)
    assert gate.held.wait(30)
    gone = scheduler.submit(model, (rows(5),), seed=0, passes=3, samples=False)
    late = scheduler.submit(model, (rows(2),), seed=0, passes=3, samples=False)
    assert gone.cancel()
    assert not first.cancel()
    gate.open()
    assert first.result(30)
    assert late.result(30)
    assert gate.sizes == [1, 2]
    only = scheduler.submit(model, (rows(3),), seed=0, passes=3, samples=False)
    assert only.result(30)


def test_a_run_that_cannot_be_told_fails_its_requests_and_the_next_are_answered(
    model: Model, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("service.scheduler.take", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            scheduler.submit(model, (rows(1),), seed=0, passes=3, samples=False).result(30)
    assert scheduler.submit(model, (rows(1),), seed=0, passes=3, samples=False).result(30)


def test_a_full_queue_refuses_at_once_and_recovers(
    model: Model, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(model, monkeypatch)
    futures = [scheduler.submit(model, (rows(1),), seed=0, passes=3, samples=False)]
    assert gate.held.wait(30)
    futures.append(scheduler.submit(model, (rows(90),), seed=0, passes=3, samples=False))
    with pytest.raises(OverloadedError, match="90 rows wait"):
        scheduler.submit(model, (rows(11),), seed=0, passes=3, samples=False)
    gate.open()
    assert all(future.result(30) for future in futures)
    assert scheduler.submit(model, (rows(11),), seed=0, passes=3, samples=False).result(30)


def test_stopping_finishes_what_waits_and_takes_no_more(model: Model) -> None:
    scheduler = Scheduler(Metrics(), max_queue_rows=1000, max_batch_rows=16)
    futures = [scheduler.submit(model, (rows(2),), seed=i, passes=20, samples=False) for i in range(20)]
    scheduler.stop()
    assert all(future.done() for future in futures)
    with pytest.raises(OverloadedError, match="stopping"):
        scheduler.submit(model, (rows(1),), seed=0, passes=3, samples=False)


def test_many_threads_get_what_they_would_get_alone(model: Model, scheduler: Scheduler) -> None:
    def ask(seed: int) -> float:
        x = rows(1 + seed % 3, seed)
        answer = scheduler.submit(model, (x,), seed=seed, passes=10, samples=True).result(60)
        assert answer.samples is not None
        expected = model.engine.samples(x, passes=10, seed=seed)
        return float(np.abs(answer.samples.swapaxes(0, 1) - expected).max())

    with ThreadPoolExecutor(16) as clients:
        assert max(clients.map(ask, range(64))) < 1e-6


def test_a_bundles_path_does_not_matter(tmp_path: Path) -> None:
    here = load(write_bundle(tmp_path / "a", "same"), Loading()).engine.predict(rows(3), passes=5, seed=1)
    there = load(write_bundle(tmp_path / "b", "same"), Loading()).engine.predict(rows(3), passes=5, seed=1)
    assert np.array_equal(here.mean, there.mean)
