"""The order of turns, step by step, on random workloads: that of `turns.json`, which was recorded once.

It was recorded with a lane that kept all that had begun in one queue; whoever changes the order on purpose records it
anew: `python -m tests.scheduling.test_turns`.
"""

import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from mcdropout.catalogue.loading import Loading, load
from mcdropout.catalogue.model import Model
from mcdropout.scheduling.lane import Lane
from mcdropout.scheduling.plan import Plan
from mcdropout.scheduling.request import Request, State
from mcdropout.scheduling.step import Beginning, Step
from mcdropout.scheduling.step_size import StepSize, StepSizes
from tests.bundles import CLASSIFIER, write_bundle

RECORDED = Path(__file__).with_name("turns.json")
SIZES = ((16, 64), (16, 64), (4, 16), (1, 48), (64, 1024), (8, 4096))  # rows and pairs of a step, of each workload
STEPS = 50
FAR = 1e6  # seconds until the first deadline: none comes by itself


class Workload:
    """Requests of a lane that come, go, fail and are due at random, and what its steps hold."""

    def __init__(self, model: Model, seed: int) -> None:
        rows, pairs = SIZES[seed]
        self.random = random.Random(seed)
        self.lane = Lane(model, 1000.0, StepSizes(StepSize(rows, 4), StepSize(pairs, 16)))
        self.requests: list[Request] = []
        self.soonest = time.perf_counter() + FAR

    def steps(self) -> Iterator[str]:
        """What each step holds, and whom it ends."""
        for _ in range(STEPS):
            for _ in range(self.random.choice((0, 0, 1, 1, 2, 4, 20 if self.random.random() < 0.3 else 0))):
                self.submit()
            self.cancel()
            yield self.due() + self.step()

    def submit(self) -> None:
        rows = self.random.choice((1, 1, 1, 2, 3, 8, 40, 200))
        passes = self.random.choice((0, 1, 3, 16, 24, 60, 100, 1000))
        kind = self.random.choice(("plain", "plain", "plain", "auto", "deadline", "samples"))
        plan = Plan(passes)
        if passes and kind == "auto":
            plan = Plan(passes, tolerance=1e-12)  # which no row reaches: what a network says decides nothing here
        elif passes and kind == "deadline":
            plan = Plan(passes, deadline=self.soonest + self.random.randrange(STEPS))
        elif kind == "samples":
            plan = Plan(passes, samples=passes > 0)
        x = np.zeros((rows, 4), np.float32)
        request = Request(self.lane.model, (x,), len(self.requests), plan, Future(), time.perf_counter())
        self.requests.append(request)
        self.lane.submit(request)

    def cancel(self) -> None:
        if self.requests and self.random.random() < 0.2:
            request = self.random.choice(self.requests)
            if not request.state.ended:
                request.future.cancel()
                request.become(State.CANCELLED)

    def due(self) -> str:
        if self.random.random() > 0.2:
            return ""
        now = self.soonest + self.random.randrange(STEPS)
        late, groups = self.lane.due(now)
        text = self.end(State.LATE, late)
        settlement = self.lane.end_due(groups, now)
        return f"due{text}{self.end(State.LATE, settlement.late)}{self.end(State.ANSWERED, settlement.finished)} "

    def step(self) -> str:
        step = self.lane.plan()
        text = self.held(step)
        if not step.requests:
            return text
        if self.random.random() < 0.05:
            return text + self.end(State.FAILED, self.lane.fail(step))
        settlement = self.lane.settle(step, self.lane.run(step))
        return text + self.end(State.LATE, settlement.late) + self.end(State.ANSWERED, settlement.finished)

    def held(self, step: Step) -> str:
        """The turns of a step: groups that go on, then what begins."""
        going = [f"{self.counts(group.owners.tolist(), group.requests)}*{passes}" for group, passes in step.going]
        begun = [self.begun(one) for one in (*step.beginnings.values(), step.deterministic) if one.rows]
        return " ".join((*going, *begun))

    def counts(self, owners: list[int], requests: list[Request]) -> str:
        counts = Counter(self.requests.index(requests[owner]) for owner in owners)
        return "+".join(f"{number}x{rows}" for number, rows in counts.items())

    def begun(self, one: Beginning) -> str:
        parts = zip(one.requests, one.slices, strict=True)
        rows = [f"{self.requests.index(request)}[{first}:{end}]" for request, (first, end) in parts]
        return "+".join(rows) + f"*{one.passes}"

    def end(self, state: State, requests: list[Request]) -> str:
        for request in requests:
            request.become(state)
        numbers = sorted(self.requests.index(request) for request in requests)
        return "" if not numbers else f" {state.value}:{','.join(map(str, numbers))}"


@pytest.mark.parametrize("seed", range(len(SIZES)))
def test_turns_are_those_that_were_recorded(model: Model, seed: int) -> None:
    recorded = json.loads(RECORDED.read_text())[seed]
    for number, (found, expected) in enumerate(zip(Workload(model, seed).steps(), recorded, strict=True)):
        assert found == expected, f"step {number}"


def record() -> None:
    """Write what the turns are now."""
    with tempfile.TemporaryDirectory() as folder:
        model = load(write_bundle(Path(folder), "small", CLASSIFIER), Loading())
        turns = [list(Workload(model, seed).steps()) for seed in range(len(SIZES))]
    RECORDED.write_text(json.dumps(turns, indent=0) + "\n")


if __name__ == "__main__":
    record()
