"""`mcdropout serve`."""

import os
import signal
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from mcdropout.settings import Settings, unknown_settings

_DEFAULTS = Settings.model_construct()
_PREFIX = Settings.model_config["env_prefix"]


def _option(field: str, flag: str | None = None) -> Any:
    """A flag for a setting; its text and its environment variable are the setting's own."""
    return typer.Option(
        flag or f"--{field.replace('_', '-')}",
        help=Settings.model_fields[field].description,
        envvar=f"{_PREFIX}{field.upper()}",
    )


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
    """Serve the models of a folder over HTTP."""
    _check_variables()
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


def _check_variables() -> None:
    """Refuse what looks like a mistyped setting: what it was to limit would not be limited."""
    for name, meant in unknown_settings(os.environ).items():
        if meant is not None:
            typer.echo(f"error: the environment variable {name} is no setting; {meant} is", err=True)
            raise typer.Exit(2)
        typer.echo(f"warning: the environment variable {name} is no setting", err=True)


_FLAGS = serve.__annotations__.keys() | {"compile"}
serve.__doc__ = f"""{serve.__doc__}

Further settings, by environment variable: {
    ", ".join(f"{_PREFIX}{name.upper()}" for name in Settings.model_fields if name not in _FLAGS)
}.
"""
