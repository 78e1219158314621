"""`mcdropout predict`."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mcdropout.cli.options import Passes, Reduce, Regions, Seed, Tolerance

_STDIN = "-"


def predict(
    file: Annotated[
        str,
        typer.Argument(
            help="What to predict: a JSON body, .npy, .npz (an array for each input, by its name), .csv (a row a line, "
            "names of columns in the first or not), .txt (a text a line), or an image. - is a JSON body from the "
            "standard input.",
        ),
    ] = _STDIN,
    url: Annotated[
        str, typer.Option(help="The service's address.", envvar="MCDROPOUT_CLIENT_URL")
    ] = "http://127.0.0.1:8000",
    model: Annotated[str | None, typer.Option(help="Which model; the default one if not given.")] = None,
    mc: Passes = None,
    seed: Seed = None,
    tolerance: Tolerance = None,
    deadline_ms: Annotated[
        float | None, typer.Option(help="Answer by then, in milliseconds, with the passes that there are.")
    ] = None,
    samples: Annotated[bool, typer.Option("--samples", help="With --json: every pass's output too.")] = False,
    fields: Annotated[str | None, typer.Option(help="The statistics to answer with, such as label,entropy.")] = None,
    reduce: Reduce = None,
    regions: Regions = None,
    p: Annotated[
        float | None, typer.Option("-p", help="What each site is to drop with in place of its own, where allowed.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Sent as Authorization: Bearer KEY.", envvar="MCDROPOUT_CLIENT_KEY")
    ] = None,
    timeout: Annotated[float, typer.Option(help="The most seconds that it takes, tries included.")] = 60.0,
    retries: Annotated[int, typer.Option(help="How often to try again, where no answer came, or 503 or 429.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as it came.")] = False,
) -> None:
    """Ask a running service for predictions, and how far to trust them.

    The exit status is 1 where it refuses, or cannot be reached.
    """
    try:
        from mcdropout.client import Client, ClientError
    except ModuleNotFoundError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    passes: Any = int(mc) if mc is not None and mc.isdecimal() else mc
    try:
        with Client(url, key=key, timeout=timeout, retries=retries) as client:
            response = client.predict(
                _read(file),
                model=model,
                mc=passes,
                seed=seed,
                tolerance=tolerance,
                deadline_ms=deadline_ms,
                samples=samples,
                fields=fields,
                reduce=reduce,
                regions=regions,
                p=p,
            )
    except (ClientError, ModuleNotFoundError, OSError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(response.content)
        return
    from rich.console import Console

    from mcdropout.cli.charts import print_response

    print_response(Console(markup=False, emoji=False, highlight=False), response)


def _read(file: str) -> Any:
    """What a file holds, as `Client.predict` takes it."""
    if file == _STDIN:
        return sys.stdin.buffer.read()
    path = Path(file)
    read = _BY_SUFFIX.get(path.suffix.lower(), Path)  # the path of an image, which the client opens
    return read(path)


def _array(path: Path) -> Any:
    """The array of a file of NumPy's, or the arrays by their names; a single one that was saved without a name."""
    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}; arrays of numbers are accepted") from error
    if not isinstance(loaded, Mapping):
        return loaded
    arrays = dict(loaded)
    return arrays["arr_0"] if list(arrays) == ["arr_0"] else arrays


def _table(path: Path) -> Any:
    from mcdropout.client.tables import read_csv

    return read_csv(path.read_text(encoding="utf-8-sig"))


def _texts(path: Path) -> Any:
    return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


_BY_SUFFIX: Mapping[str, Callable[[Path], Any]] = {
    ".json": Path.read_bytes,
    ".npy": _array,
    ".npz": _array,
    ".csv": _table,
    ".txt": _texts,
}
