"""Progress, on the standard error: what is being done, where somebody looks on; else a line as it begins and ends."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def compiling(name: str) -> Iterator[None]:
    """Show that a bundle is compiled, and how long it took; of one that fails, its error is shown by others."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    began = time.perf_counter()
    if console.is_terminal:
        columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        with Progress(*columns, console=console, transient=True) as bar:
            bar.add_task(
                f"compiling {name}: what is random, how it is cut, what runs it fastest, and its checks", total=None
            )
            yield
    else:
        typer.echo(f"compiling {name}", err=True)
        yield
    typer.echo(f"compiled {name} in {time.perf_counter() - began:.1f} s", err=True)
