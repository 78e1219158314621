"""`mcdropout compile`."""

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from mcdropout.cli.folders import folders, why_no_bundle


def compile_bundles(
    bundles: Annotated[list[str], typer.Argument(help="Bundle folders, such as models/*.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Also those that are compiled already.")] = False,
) -> None:
    """Write each bundle's `compiled/` folder: its program as ONNX, which `serve` runs without PyTorch.

    Compiling takes what the network was made with: for a PyTorch network the extra `torch`. The exit status is 1 where
    a bundle is refused.
    """
    from mcdropout import log
    from mcdropout.catalogue.bundle import COMPILED, Bundle
    from mcdropout.catalogue.compilation import compile_bundle, install
    from mcdropout.catalogue.loading import Loading, StaleError, load
    from mcdropout.catalogue.manifest import BundleError
    from mcdropout.catalogue.provenance import stale_parts
    from mcdropout.catalogue.stamps import check_unchanged, sources, stamps_of
    from mcdropout.cli.progress import compiling
    from mcdropout.engine.errors import EngineError

    log.configure("console", "error")
    refused = False
    for text in folders(bundles):
        if reason := why_no_bundle(text):
            refused = True
            typer.echo(f"error: {reason}", err=True)
            continue
        try:
            before = sources(stamps_of(Path(text)))
            bundle = Bundle(Path(text))
            if not force and not stale_parts(bundle):
                with suppress(StaleError):  # it is damaged
                    load(bundle.folder, Loading(compiles=False))
                    typer.echo(f"{bundle.manifest.name}: is compiled already")
                    continue
            with tempfile.TemporaryDirectory(prefix="mcdropout-") as folder:
                with compiling(bundle.manifest.name) as told:
                    compile_bundle(bundle, Path(folder), told=told)
                check_unchanged(bundle.folder, before)
                install(Path(folder), bundle)
            typer.echo(f"{bundle.manifest.name}: compiled into {bundle.folder / COMPILED}")
        except (BundleError, EngineError, OSError) as error:
            refused = True
            typer.echo(f"{text}: {error}", err=True)
    raise typer.Exit(int(refused))
