"""The command line: one file a command. What a command needs is imported when it runs, so that `--help` is quick."""

import typer

from mcdropout.cli.compile import compile_bundles
from mcdropout.cli.inspect import inspect
from mcdropout.cli.serve import serve

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Serve predictions together with how far to trust them."
)
app.command()(serve)
app.command()(inspect)
app.command("compile")(compile_bundles)


@app.callback()
def main() -> None:
    """Serve predictions together with how far to trust them, by Monte Carlo dropout."""
