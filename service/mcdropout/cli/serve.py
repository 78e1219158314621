"""`mcdropout serve`."""

import os
import signal
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from mcdropout.settings import Settings

_DEFAULTS = Settings.model_construct()


def _option(field: str, flag: str | None = None) -> Any:
    """A flag for a setting; its text and its environment variable are the setting's own."""
    return typer.Option(
        flag or f"--{field.replace('_', '-')}",
        help=Settings.model_fields[field].description,
        envvar=f"{Settings.model_config['env_prefix']}{field.upper()}",
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
