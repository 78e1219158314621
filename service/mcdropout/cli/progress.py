"""Progress, on the standard error: what is being done, where somebody looks on; else a line as it begins and ends."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer


@contextmanager
def compiling(name: str) -> Iterator[Callable[[str], None]]:
    """Show that a bundle is compiled, what is being done to it, which is told to what is entered, and how long it took.

    Of one that fails, its error is shown by others.
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    began = time.perf_counter()
    if console.is_terminal:
        columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(f"compiling {name}", total=None)
            yield lambda stage: bar.update(task, description=f"compiling {name}: {stage}")
    else:
        typer.echo(f"compiling {name}", err=True)
        yield lambda stage: None
    typer.echo(f"compiled {name} in {time.perf_counter() - began:.1f} s", err=True)
