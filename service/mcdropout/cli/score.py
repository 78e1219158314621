"""`mcdropout score`."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mcdropout.cli.options import Passes, Reduce, Regions, Seed, Tolerance

if TYPE_CHECKING:
    from mcdropout.scoring.job import Job
    from mcdropout.scoring.run import Summary, Watch

_INTERRUPTED = 130  # as shells have it


def score(
    data: Annotated[
        Path,
        typer.Argument(
            help="What to predict: .npy, .npz (an array for each input, by its name), .csv, .parquet, .arrow, "
            ".feather, or a folder of PNG and JPEG images.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Where to: .parquet, .arrow, .feather, .csv or .npz; a row a row.",
            show_default=False,
        ),
    ],
    model: Annotated[Path, typer.Option(help="The bundle's folder, such as models/mnist-cnn.", show_default=False)],
    mc: Passes = None,
    seed: Seed = None,
    tolerance: Tolerance = None,
    fields: Annotated[str | None, typer.Option(help="The statistics to write, such as label,entropy.")] = None,
    reduce: Reduce = None,
    regions: Regions = None,
    keep: Annotated[
        str | None, typer.Option(help="Columns of the file that the output keeps, such as id,date.")
    ] = None,
    batch_rows: Annotated[
        int | None,
        typer.Option(help="How many rows are read, predicted and written at a time; what fits the model if not given."),
    ] = None,
    device: Annotated[str, typer.Option(help="Where PyTorch models run: cpu, cuda or cuda:N.")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(help="Threads that compute; one for each physical core if not given.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on where the same command stopped before, or begin anew.")
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that is there.")] = False,
    ray: Annotated[
        bool,
        typer.Option("--ray", help="On a cluster of Ray, by Ray Data; its machines share the files."),
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Answer rows that cannot be used with nulls, and count them.")
    ] = False,
) -> None:
    """Predict the rows of a file of any size, and how far to trust each prediction, without a server.

    Rows keep their order. The masks of a row follow from the seed and its number in the file, so that the same seed
    gives the same answers, and those of a server. What stops goes on by the same command: parts that are done lie in
    OUTPUT.parts meanwhile. The exit status is 1 where something is refused, and 130 where it was interrupted.
    """
    from mcdropout import log
    from mcdropout.engine.errors import InvalidInputError
    from mcdropout.engine.threads import use_threads
    from mcdropout.scoring.errors import ScoringError
    from mcdropout.scoring.job import Job
    from mcdropout.scoring.parts import folder_of
    from mcdropout.scoring.run import run

    log.configure("console", "error")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if threads is not None:
            use_threads(threads)
        job = Job(
            data,
            output,
            model,
            mc=_passes(mc),
            tolerance=tolerance,
            seed=seed,
            fields=_names(fields),
            reduce=reduce,
            regions=regions,
            keep=_names(keep) or (),
            skip_bad=skip_bad,
            batch_rows=batch_rows,
            device=device,
            resume=resume,
            overwrite=overwrite,
        )
        with _progress() as watch:
            summary = _on_ray(job, watch, threads) if ray else run(job, watch)
    except (ScoringError, InvalidInputError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        kept = folder_of(output)
        where = f"; what is done is kept in {kept}, and the same command goes on from there" if kept.is_dir() else ""
        typer.echo(f"interrupted{where}", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    rate = summary.scored / summary.seconds
    skipped = f", {summary.skipped:,} of them skipped" if summary.skipped else ""
    earlier = f", {summary.rows - summary.scored:,} of them before" if summary.scored < summary.rows else ""
    typer.echo(
        f"{output}: {summary.rows:,} rows{skipped}{earlier}, in {summary.seconds:.1f} s, {rate:,.0f} rows/s "
        f"(seed {summary.seed})"
    )


def _on_ray(job: "Job", watch: "Watch", threads: int | None) -> "Summary":
    from mcdropout.scoring.errors import ScoringError

    try:
        from mcdropout.ray.scoring import run_on_ray
    except ModuleNotFoundError as error:
        raise ScoringError(
            f"--ray takes {error.name}, which is not installed; pip install 'mcdropout[score-ray]' mends it"
        ) from error
    return run_on_ray(job, watch, threads or 1)


def _passes(text: str | None) -> int | Literal["auto"] | None:
    from mcdropout.scoring.errors import ScoringError

    if text is None or text == "auto":
        return "auto" if text else None
    if not (text.isascii() and text.isdigit()):
        raise ScoringError(f"mc is {text!r}; a number of passes, or auto, is accepted")
    return int(text)


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(","))


@contextmanager
def _progress() -> Iterator[Callable[[int, float | None], object]]:
    """What shows how far it is, where somebody looks on."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda rows, share: None
        return
    columns: list[Any] = [SpinnerColumn(), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[said]}")]
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("", total=None, said="loading")
        seen: list[tuple[float, int]] = []

        def watch(rows: int, share: float | None) -> None:
            seen.append((time.perf_counter(), rows))
            del seen[:-20]
            (began, first), (now, last) = seen[0], seen[-1]
            rate = f", {(last - first) / (now - began):,.0f} rows/s" if now > began else ""
            bar.update(task, total=None if share is None else 1.0, completed=share or 0.0, said=f"{rows:,} rows{rate}")

        yield watch
