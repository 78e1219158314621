"""The command line: one file a command. What a command needs is imported when it runs, so that `--help` is quick."""

import atexit
import os
import sys
import threading
from contextlib import suppress
from typing import Annotated

import typer

from mcdropout.cli.compile import compile_bundles
from mcdropout.cli.init import init
from mcdropout.cli.inspect import inspect
from mcdropout.cli.key import key
from mcdropout.cli.predict import predict
from mcdropout.cli.schema import schema
from mcdropout.cli.score import score
from mcdropout.cli.serve import serve

_SECONDS_TO_END = 2.0

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Serve predictions together with how far to trust them."
)
app.command()(serve)
app.command()(init)
app.command()(predict)
app.command()(score)
app.command()(inspect)
app.command("compile")(compile_bundles)
app.command()(key)
app.command()(schema)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"mcdropout {version('mcdropout')}")
        raise typer.Exit


@app.callback()
def main(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version, and end.")
    ] = False,
) -> None:
    """Serve predictions together with how far to trust them, by Monte Carlo dropout."""


def run() -> None:
    """The command line as a process, which ends with its command, whatever threads a network's code has left running.

    Python waits for those, and so for ever where they never end.
    """
    try:
        app()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        end = threading.Timer(_SECONDS_TO_END, _end, [status])
        end.daemon = True
        end.start()
        raise


def _end(status: int) -> None:
    with suppress(Exception):  # what is left to do may not depend on a thread that is stuck
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(status)
