"""`mcdropout init`."""

import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mcdropout.cli.sources import Argument, Inject, Labels, Module, Output, Shape, Sizes, Task, Weights, source_of

if TYPE_CHECKING:
    from mcdropout.catalogue.making.make import Made

_INTERRUPTED = 130  # as shells have it


def init(
    source: Annotated[
        str,
        typer.Argument(
            help="What of: an .onnx file; what torch.export.save (.pt2) or torch.jit.save (.pt, .ts) wrote; a folder "
            "that save_pretrained wrote (Hugging Face); timm:NAME or torchvision:NAME; a function or class that makes "
            "the network, module:function or path/to/file.py:function; a Lightning checkpoint (.ckpt) with --module.",
            show_default=False,
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="What the bundle is called; the source's own name if not given.")
    ] = None,
    into: Annotated[Path, typer.Option(help="The folder of bundles that it is put into.")] = Path("models"),
    weights: Weights = None,
    task: Task = None,
    labels: Labels = None,
    shape: Shape = [],  # noqa: B006
    sizes: Sizes = [],  # noqa: B006
    module: Module = None,
    argument: Argument = [],  # noqa: B006
    output: Output = None,
    inject: Inject = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle of that name.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Take defaults, and ask nothing.")] = False,
) -> None:
    """Make a bundle of a network that you have, compile it, and tell how to serve and to ask it.

    What cannot be seen in it is asked for, where there is a terminal. Nothing is left of one that is refused; the exit
    status is then 1.
    """
    from mcdropout import log
    from mcdropout.catalogue.making.make import make
    from mcdropout.catalogue.making.source import SourceError
    from mcdropout.catalogue.manifest import BundleError
    from mcdropout.cli.asking import asker
    from mcdropout.cli.progress import compiling
    from mcdropout.engine.errors import EngineError

    log.configure("console", "error")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        given = source_of(source, weights, task, labels, shape, sizes, module, argument, output, inject)
        made = make(given, into, name=name, force=force, ask=asker(yes=yes), compiling=compiling)
        _tell(made, source)
    except (SourceError, BundleError, EngineError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("interrupted; nothing was made", err=True)
        raise typer.Exit(_INTERRUPTED) from None


def _tell(made: "Made", source: str) -> None:
    """What was made, what is known of it, and the two commands that come next."""
    from rich.console import Console

    from mcdropout.catalogue.bundle import COMPILED
    from mcdropout.cli.rendering import print_brief
    from mcdropout.engine.compiled import read_summary

    console = Console(markup=False, emoji=False, highlight=False)
    if made.on_pytorch is None:
        print_brief(console, read_summary(made.folder / COMPILED))
    else:
        typer.echo(f"it is not compiled, and runs on PyTorch: {made.on_pytorch}")
    for note in made.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"\n{made.folder} is the bundle of {source}; what it says of itself is in {made.folder / 'model.yaml'}")
    typer.echo(f"\nto serve it:\n  mcdropout serve {shlex.quote(str(made.folder))}")
    typer.echo(f"to ask it:\n  {curl_of(made.folder)}")


def curl_of(bundle: Path, url: str = "http://127.0.0.1:8000") -> str:
    """The command that asks for a prediction of a bundle's example."""
    example = shlex.quote(str(bundle / "example.json"))
    return f"curl -s {url}/models/{bundle.name}/predict -H 'content-type: application/json' -d @{example}"
