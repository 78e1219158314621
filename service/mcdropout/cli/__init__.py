"""The command line: `mcdropout serve`, `mcdropout inspect` and `mcdropout compile`."""

import json
import os
import signal
import tempfile
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from mcdropout.settings import Settings

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Serve predictions together with how far to trust them."
)


@app.callback()
def main() -> None:
    """Serve predictions together with how far to trust them, by Monte Carlo dropout."""


def _option(field: str, flag: str | None = None) -> Any:
    """A flag for a setting; its text and its environment variable are the setting's own."""
    return typer.Option(
        flag or f"--{field.replace('_', '-')}",
        help=Settings.model_fields[field].description,
        envvar=f"{Settings.model_config['env_prefix']}{field.upper()}",
    )


_TORCH = ("torch", "safetensors")  # what the extra `torch` installs
_DEFAULTS = Settings.model_construct()


@app.command()
def serve(
    host: Annotated[str, _option("host")] = _DEFAULTS.host,
    port: Annotated[int, _option("port")] = _DEFAULTS.port,
    models: Annotated[Path, _option("models")] = _DEFAULTS.models,
    default: Annotated[str | None, _option("default")] = _DEFAULTS.default,
    watch: Annotated[float, _option("watch")] = _DEFAULTS.watch,
    device: Annotated[str, _option("device")] = _DEFAULTS.device,
    provider: Annotated[str, _option("provider")] = _DEFAULTS.provider,
    threads: Annotated[int | None, _option("threads")] = _DEFAULTS.threads,
    workers: Annotated[int, _option("workers")] = _DEFAULTS.workers,
    compile_: Annotated[bool, _option("compile", "--compile/--no-compile")] = _DEFAULTS.compile,
    log_format: Annotated[str, _option("log_format")] = _DEFAULTS.log_format,
) -> None:
    """Serve the models of a folder over HTTP.

    Further settings, by environment variable: MCDROPOUT_PRELOAD, MCDROPOUT_ADMIN, MCDROPOUT_MAX_BODY_BYTES,
    MCDROPOUT_MAX_ROWS, MCDROPOUT_MAX_SAMPLES, MCDROPOUT_MAX_QUEUE_ROWS, MCDROPOUT_MAX_QUEUE_BYTES,
    MCDROPOUT_MAX_QUEUE_SECONDS, MCDROPOUT_MAX_BATCH_ROWS, MCDROPOUT_STEP_SECONDS, MCDROPOUT_WATCHDOG_SECONDS,
    MCDROPOUT_SHED, MCDROPOUT_SHED_FLOOR, MCDROPOUT_GRACE_SECONDS, MCDROPOUT_GRAPH_OPTIMIZATION, MCDROPOUT_ARENA,
    MCDROPOUT_COMPILE_MEMORY_BYTES, MCDROPOUT_COMPILE_SECONDS, MCDROPOUT_LOG_LEVEL.
    """
    given: dict[str, Any] = {
        "host": host,
        "port": port,
        "models": models,
        "default": default,
        "watch": watch,
        "device": device,
        "provider": provider,
        "threads": threads,
        "workers": workers,
        "compile": compile_,
        "log_format": log_format,
    }
    try:
        settings = Settings(**given)
    except ValidationError as error:
        for problem in error.errors():
            field = "_".join(map(str, problem["loc"]))
            typer.echo(f"error: {field} is {problem['input']!r}; {problem['msg']}", err=True)
        raise typer.Exit(2) from error
    # What starts can be left as it is. A container's first process is not ended by a signal that it does not handle.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))
    if len(settings.devices) > 1:
        from mcdropout.processes.supervisor import supervise

        raise typer.Exit(supervise(settings))
    # Imported here, so that `--help` and a wrong flag are answered at once.
    from mcdropout.processes.server import run

    raise typer.Exit(run(settings))


class Format(StrEnum):
    """How an inspection is written."""

    TABLE = "table"
    JSON = "json"


@app.command()
def inspect(
    targets: Annotated[
        list[str],
        typer.Argument(
            help="Bundle folders, or module:function that returns (network, example_inputs) or (network, "
            "example_inputs, options), the options being further arguments of Engine.from_module.",
            show_default=False,
        ),
    ],
    output: Annotated[Format, typer.Option("--format", help="Tables for people, or JSON.")] = Format.TABLE,
    passes: Annotated[int, typer.Option(min=1, help="How many passes to time.")] = 50,
) -> None:
    """Tell what is random in a network, what it costs, and what its dropout may do wrong.

    The exit status is 1 where a network is refused, and 0 where there are findings or none.
    """
    from rich.console import Console

    from mcdropout import log
    from mcdropout.catalogue.bundle import BundleError
    from mcdropout.cli.rendering import as_document, exit_status, print_inspection
    from mcdropout.cli.targets import TargetError, load_target
    from mcdropout.engine.errors import EngineError
    from mcdropout.engine.inspection import Inspection
    from mcdropout.engine.inspection import inspect as inspect_network

    log.configure("console", "error")
    console, documents, inspections = Console(markup=False, emoji=False, highlight=False), [], []
    for text in _folders(targets):
        name = text
        try:
            pointed = load_target(text)
            name = pointed.name
            found = inspect_network(pointed.understand, pointed.reading, pointed.target, passes=passes)
        except (BundleError, EngineError, TargetError) as error:
            found = Inspection(None, str(error))
        except ModuleNotFoundError as error:
            mends = "; pip install 'mcdropout[torch]' mends it" if error.name in _TORCH else ""
            found = Inspection(None, f"{text}: inspecting it takes {error.name}, which is not installed{mends}")
        inspections.append(found)
        documents.append(as_document(name, found))
        if output is Format.TABLE:
            print_inspection(console, name, found)
    if output is Format.JSON:
        typer.echo(json.dumps(documents, indent=2))
    raise typer.Exit(exit_status(inspections))


@app.command("compile")
def compile_(
    bundles: Annotated[list[str], typer.Argument(help="Bundle folders.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Also those that are compiled already.")] = False,
) -> None:
    """Write each bundle's `compiled/` folder: its program as ONNX, which `serve` runs without PyTorch.

    Compiling takes what the network was made with: for a PyTorch network the extra `torch`. The exit status is 1 where
    a bundle is refused.
    """
    from mcdropout import log
    from mcdropout.catalogue.bundle import Bundle, BundleError
    from mcdropout.catalogue.compilation import COMPILED, compile_bundle, install, stale_parts
    from mcdropout.catalogue.stamps import check_unchanged, sources, stamps_of
    from mcdropout.engine.errors import EngineError

    log.configure("console", "error")
    refused = False
    for text in _folders(bundles):
        try:
            before = sources(stamps_of(Path(text)))
            bundle = Bundle(Path(text))
            if not force and not stale_parts(bundle):
                typer.echo(f"{bundle.manifest.name}: is compiled already")
                continue
            with tempfile.TemporaryDirectory(prefix="mcdropout-") as folder:
                compile_bundle(bundle, Path(folder))
                check_unchanged(bundle.folder, before)
                install(Path(folder), bundle)
            typer.echo(f"{bundle.manifest.name}: compiled into {bundle.folder / COMPILED}")
        except (BundleError, EngineError, OSError) as error:
            refused = True
            typer.echo(f"{text}: {error}", err=True)
    raise typer.Exit(int(refused))


def _folders(given: list[str]) -> Iterator[str]:
    """What was given, but for files: `models/*` names those beside the bundles too."""
    for text in given:
        if Path(text).is_file():
            typer.echo(f"{text} is a file, no bundle's folder: left out", err=True)
        else:
            yield text
