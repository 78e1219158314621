"""Estimates: what there is of an answer after a step, for whoever watches a request."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mcdropout.catalogue.model import Model
from mcdropout.metrics import Metrics
from mcdropout.scheduling import request
from mcdropout.scheduling.answer import Answer
from mcdropout.scheduling.plan import Plan
from mcdropout.scheduling.scheduler import Scheduler
from tests.patience import patience

ROWS = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
SECONDS = patience(60)


@pytest.fixture
def scheduler(model: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    """Its steps are small, so that a request takes many, and an estimate follows each, however long one takes."""
    monkeypatch.setattr(model.engine.steps, "most_pairs", 256)
    monkeypatch.setattr(request, "_PAUSE", 0.0)
    made = Scheduler(Metrics(), max_queue_rows=10_000)
    yield made
    made.stop()


def watched(scheduler: Scheduler, model: Model, plan: Plan, rows: int = 1, **more: Any) -> tuple[list[Answer], Answer]:
    seen: list[Answer] = []
    future = scheduler.submit(model, (ROWS[:rows],), seed=3, plan=plan, watch=seen.append, **more)
    answer: Answer = future.result(SECONDS)  # type: ignore[attr-defined]
    return seen, answer


@pytest.mark.parametrize("rows", [1, 40])
def test_estimates_are_of_more_and_more_passes_and_come_before_the_answer(
    scheduler: Scheduler, model: Model, rows: int
) -> None:
    seen, answer = watched(scheduler, model, Plan(2000), rows)
    passes = [estimate.prediction.passes.min() for estimate in seen]
    assert len(passes) > 3
    assert passes == sorted(passes)
    assert 0 < passes[0] < passes[-1] < 2000
    assert all(len(estimate.prediction.passes) == rows for estimate in seen)
    assert answer.prediction.passes.tolist() == [2000] * rows


def test_an_estimate_is_the_answer_to_as_many_passes(scheduler: Scheduler, model: Model) -> None:
    seen, _ = watched(scheduler, model, Plan(4000))
    for estimate in (seen[0], seen[-1]):
        passes = int(estimate.prediction.passes[0])
        _, same = watched(scheduler, model, Plan(passes))
        for name in ("mean", "variance", "std_error", "entropy"):
            np.testing.assert_allclose(
                estimate.prediction.values[name], same.prediction.values[name], rtol=1e-9, atol=1e-12
            )


def test_who_shares_a_step_with_one_that_is_watched_gets_its_own_answer(scheduler: Scheduler, model: Model) -> None:
    alone = scheduler.submit(model, (ROWS[:5],), seed=8, plan=Plan(2000)).result(SECONDS)  # type: ignore[attr-defined]
    seen: list[Answer] = []
    futures = [
        scheduler.submit(model, (ROWS[:5],), seed=8, plan=Plan(2000)),
        scheduler.submit(model, (ROWS[5:9],), seed=9, plan=Plan(2000), watch=seen.append),
    ]
    beside, _ = [future.result(SECONDS) for future in futures]  # type: ignore[attr-defined]
    np.testing.assert_allclose(beside.prediction.mean, alone.prediction.mean, rtol=1e-9)
    assert all(len(estimate.prediction.passes) == 4 for estimate in seen)


def test_one_who_cannot_be_told_stops_nobody(scheduler: Scheduler, model: Model) -> None:
    def broken(_: Answer) -> None:
        raise RuntimeError("nobody listens")

    future = scheduler.submit(model, (ROWS[:2],), seed=3, plan=Plan(500), watch=broken)
    answer: Answer = future.result(SECONDS)  # type: ignore[attr-defined]
    assert answer.prediction.passes.tolist() == [500, 500]
