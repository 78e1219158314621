"""The use case by itself: no server, no HTTP."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mcdropout.catalogue.loading import Loading
from mcdropout.catalogue.model import Model
from mcdropout.catalogue.registry import Registry, UnknownModelError
from mcdropout.engine import statistics
from mcdropout.engine.arrays import Array
from mcdropout.metrics import Metrics
from mcdropout.predictions import Answered, Ask, InvalidAskError, NotLoadedError, Predictions
from mcdropout.scheduling.backlog import OverloadedError
from mcdropout.scheduling.request import DeadlineError
from mcdropout.scheduling.scheduler import Scheduler
from tests.conftest import MODELS
from tests.patience import patience, wait_until


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The concrete model, and one that is not loaded."""
    models = tmp_path_factory.mktemp("models")
    for name in ("concrete-mlp", "mnist-mlp"):
        shutil.copytree(MODELS / name, models / name)
    registry = Registry(models, Loading(), Metrics(), preload=False)
    registry.start()
    wait_until(lambda: registry.begun)
    yield registry
    registry.stop()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def scheduler(metrics: Metrics) -> Iterator[Scheduler]:
    scheduler = Scheduler(metrics, max_queue_rows=10)
    yield scheduler
    scheduler.stop()


@pytest.fixture
def predictions(registry: Registry, scheduler: Scheduler, metrics: Metrics) -> Predictions:
    return Predictions(registry, scheduler, metrics, max_samples=400)


def examples(model: Model) -> tuple[Array, ...]:
    """The model's example, four rows, as its network takes it."""
    return tuple(model.bundle.manifest.for_network(model.bundle.examples(1)))


def assert_same(one: Answered, other: Answered) -> None:
    """The same but for the order in which passes are summed up: how steps divide them is a matter of time."""
    np.testing.assert_allclose(one.answer.prediction.mean, other.answer.prediction.mean, rtol=1e-6)


def test_no_http_is_needed_to_predict() -> None:
    code = "import sys, mcdropout.predictions; print({'fastapi', 'starlette', 'uvicorn'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=patience(120))
    assert ran.stdout.strip() == "set()", ran.stderr


def test_an_ask_is_answered_by_the_default_model_or_the_one_that_is_named(predictions: Predictions) -> None:
    named = predictions.ask(Ask("concrete-mlp", mc=20, seed=3), examples)
    default = predictions.ask(Ask(mc=20, seed=3), examples(named.model))
    assert (named.model.name, named.seed, named.rows) == ("concrete-mlp", 3, 4)
    assert_same(named, default)


def test_a_seed_that_was_drawn_gives_the_same_answer_again(predictions: Predictions) -> None:
    first: Answered = predictions.ask(Ask(mc=5), examples)
    again = predictions.ask(Ask(mc=5, seed=first.seed), examples)
    assert_same(first, again)


@pytest.mark.parametrize(
    ("ask", "kind", "said"),
    [
        (Ask("none"), UnknownModelError, r"'none'; one of \['concrete-mlp', 'mnist-mlp'\]"),
        (Ask("mnist-mlp"), NotLoadedError, "the model 'mnist-mlp' is not loaded: it was not loaded yet"),
        (Ask(mc=10**9), InvalidAskError, "mc is 1000000000; 0 to"),
        (Ask(mc=5, tolerance=0.1), InvalidAskError, "tolerance is 0.1 and mc is 5"),
        (Ask(mc="auto", samples=True), InvalidAskError, "samples is true with mc=auto"),
        (Ask(mc=101, samples=True), InvalidAskError, "4 rows and 101 passes"),
    ],
)
def test_what_cannot_be_given_is_refused_with_what_can(
    predictions: Predictions, ask: Ask, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        predictions.ask(ask, examples)


def test_a_time_that_is_over_is_an_error_of_the_scheduler(predictions: Predictions) -> None:
    with pytest.raises(DeadlineError):
        predictions.ask(Ask(mc=50, deadline=time.perf_counter()), examples)


def test_a_refused_request_is_counted_once_whether_its_size_was_known_or_not(
    registry: Registry, metrics: Metrics, monkeypatch: pytest.MonkeyPatch, scheduler: Scheduler
) -> None:
    refused: list[str] = []
    predictions = Predictions(registry, scheduler, metrics, max_samples=100, on_refusal=lambda: refused.append("once"))

    def count() -> float:
        lines = metrics.exposition()[0].decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("mcdropout_refused_total"))

    def full(*arguments: Any, **named: Any) -> Any:
        raise OverloadedError("much waits")

    with monkeypatch.context() as patched:
        patched.setattr(scheduler, "refusal", lambda coming=0, client=None: OverloadedError("much waits"))
        with pytest.raises(OverloadedError):
            predictions.ask(Ask(), examples)
    assert (count(), len(refused)) == (1, 1)
    with monkeypatch.context() as patched:
        patched.setattr(scheduler, "submit", full)
        with pytest.raises(OverloadedError):
            predictions.ask(Ask(), examples)
    assert (count(), len(refused)) == (2, 2)


def test_under_overload_passes_are_taken_away_before_a_request_is_refused(
    registry: Registry, metrics: Metrics, monkeypatch: pytest.MonkeyPatch, scheduler: Scheduler
) -> None:
    predictions = Predictions(registry, scheduler, metrics, max_samples=100, shed_floor=16)
    passes = {}
    for load in (0.4, 0.75, 0.99):
        monkeypatch.setattr(Scheduler, "load", load)
        plan = predictions.ask(Ask(mc=100), examples).answer.plan
        passes[load] = plan.passes, plan.asked
    assert passes == {0.4: (100, None), 0.75: (50, 100), 0.99: (16, 100)}


def test_what_rows_were_answered_is_counted(predictions: Predictions, metrics: Metrics) -> None:
    predictions.ask(Ask(mc=7), examples)
    assert 'mcdropout_row_passes_sum{model="concrete-mlp"} 28.0' in metrics.exposition()[0].decode()


def test_a_statistic_for_a_histogram_that_there_is_not_is_refused_at_once(
    registry: Registry, scheduler: Scheduler, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = statistics.TASKS["regression"]
    wrong = replace(task.fields[0], name="wrong", histogram="nowhere")
    monkeypatch.setitem(statistics.TASKS, "regression", replace(task, fields=(*task.fields, wrong)))
    with pytest.raises(ValueError, match=r"'wrong' has the histogram 'nowhere'; one of .*predictive_entropy"):
        Predictions(registry, scheduler, metrics, max_samples=100)
