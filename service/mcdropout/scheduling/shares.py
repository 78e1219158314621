"""Shares: the rows of a request that are of one size, run as a request of their own; all are awaited together."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdropout.scheduling.answer import Answer, Shares
from mcdropout.scheduling.request import Future


class Share:
    """Where the answer to one share is awaited: a `Future`. The last that has its answer settles that of them all."""

    def __init__(self, whole: "Whole", index: int) -> None:
        """`Whole.shares` makes them."""
        self._whole, self._index = whole, index

    def set_result(self, result: Any, /) -> None:
        self._whole.answered(self._index, result)

    def set_exception(self, exception: Any, /) -> None:
        if not self.done():
            self._whole.future.set_exception(exception)

    def estimated(self, answer: Answer) -> None:
        """Take in what there is of its answer."""
        self._whole.estimated(self._index, answer)

    def cancelled(self) -> bool:
        return self._whole.given_up or self._whole.future.cancelled()

    def done(self) -> bool:
        return self._whole.given_up or self._whole.future.done()


class Whole:
    """A request whose rows are run in several shares.

    The shares are settled by one thread, as all futures are.

    Attributes:
        future: where the answer to all is awaited, as `Shares`.
        shares: where each share's is.
        given_up: whether nobody awaits them, because not all were taken.
    """

    def __init__(
        self,
        future: Future,
        rows: Sequence[npt.NDArray[np.int64]],
        watch: Callable[[Shares], object] | None = None,
    ) -> None:
        """`rows` are the indices in the request of each share's rows; `watch` wants what there is of all of them."""
        self.future, self.given_up = future, False
        self.shares = tuple(Share(self, index) for index in range(len(rows)))
        self._rows = rows
        self._answers: dict[int, Answer] = {}
        self._watch, self._latest = watch, dict[int, Answer]()

    def answered(self, index: int, answer: Answer) -> None:
        """Take in the answer to a share."""
        self._answers[index] = self._latest[index] = answer
        if len(self._answers) == len(self._rows) and not self.future.done():
            self.future.set_result(self._of(self._answers))

    def estimated(self, index: int, answer: Answer) -> None:
        """Take in what there is of the answer to a share."""
        self._latest[index] = answer
        if self._watch is not None and len(self._latest) == len(self._rows) and not self.future.done():
            self._watch(self._of(self._latest))

    def _of(self, answers: dict[int, Answer]) -> Shares:
        return Shares(tuple((rows, answers[share]) for share, rows in enumerate(self._rows)))
