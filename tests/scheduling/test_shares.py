"""Requests whose rows are of several sizes: all shares are answered together, or none is awaited."""

from concurrent.futures import Future

import numpy as np
import pytest

from mcdropout.scheduling.answer import Answer, Shares
from mcdropout.scheduling.plan import Plan
from mcdropout.scheduling.shares import Whole


def answer(queue: float, compute: float) -> Answer:
    return Answer(prediction=None, samples=None, plan=Plan(5), queue_seconds=queue, compute_seconds=compute)  # type: ignore[arg-type]


@pytest.fixture
def whole() -> Whole:
    return Whole(Future(), [np.array([0, 2]), np.array([1])])


def test_the_last_share_settles_the_whole_and_each_has_its_rows(whole: Whole) -> None:
    first, last = answer(0.25, 1.0), answer(0.5, 2.0)
    whole.shares[1].set_result(last)
    assert not whole.future.done()
    whole.shares[0].set_result(first)
    found = whole.future.result()
    assert isinstance(found, Shares)
    assert [(rows.tolist(), one) for rows, one in found.parts] == [([0, 2], first), ([1], last)]
    assert (found.queue_seconds, found.compute_seconds) == (0.25, 2.25)


def test_a_share_that_fails_fails_the_whole_once(whole: Whole) -> None:
    whole.shares[0].set_exception(ValueError("first"))
    assert whole.shares[1].done()
    whole.shares[1].set_exception(ValueError("second"))
    whole.shares[1].set_result(answer(0, 0))
    with pytest.raises(ValueError, match="first"):
        whole.future.result()


def test_who_cancels_the_whole_cancels_each_share(whole: Whole) -> None:
    assert not any(share.cancelled() for share in whole.shares)
    whole.future.cancel()
    assert all(share.cancelled() and share.done() for share in whole.shares)


def test_what_was_taken_of_one_that_was_refused_is_not_awaited(whole: Whole) -> None:
    whole.given_up = True
    assert all(share.cancelled() and share.done() for share in whole.shares)
