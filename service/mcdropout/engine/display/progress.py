"""Progress of what takes long: a bar, once two seconds have passed, where somebody looks."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PATIENCE_SECONDS = 2.0


class PassesShown:
    """A bar over the passes of a run, a context manager; `ran` is called with those that were just run."""

    def __init__(self, total: int, *, wanted: bool | None = None) -> None:
        """
        Args:
            total: the passes of all rows, at most.
            wanted: whether there is to be a bar; None for one where standard error is a terminal, or in a notebook.
        """
        self._total, self._wanted = total, wanted
        self._done = 0
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def ran(self, passes: int) -> None:
        """So many passes, of all rows, were run."""
        self._done += passes
        if self._bar is None:
            if self._wanted is False or time.perf_counter() - self._started < _PATIENCE_SECONDS:
                return
            if self._wanted is None and not (sys.stderr.isatty() or "ipykernel" in sys.modules):
                self._wanted = False
                return
            self._begin()
        assert self._bar is not None
        assert self._task is not None
        self._bar.update(self._task, completed=self._done)

    def _begin(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("passes"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        console = Console(stderr=True)
        self._bar = Progress(*columns, console=console, transient=console.is_terminal)
        self._bar.start()
        self._task = self._bar.add_task("", total=self._total)
