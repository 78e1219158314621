"""The command line: `mcdropout serve`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from service.settings import Settings

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Serve predictions together with how far to trust them."
)


@app.callback()
def main() -> None:
    """Serve predictions together with how far to trust them, by Monte Carlo dropout."""


def _option(field: str) -> Any:
    """A flag for a setting; its text and its environment variable are the setting's own."""
    return typer.Option(
        f"--{field.replace('_', '-')}",
        help=Settings.model_fields[field].description,
        envvar=f"{Settings.model_config['env_prefix']}{field.upper()}",
    )


_DEFAULTS = Settings.model_construct()


@app.command()
def serve(
    host: Annotated[str, _option("host")] = _DEFAULTS.host,
    port: Annotated[int, _option("port")] = _DEFAULTS.port,
    models: Annotated[Path, _option("models")] = _DEFAULTS.models,
    default: Annotated[str | None, _option("default")] = _DEFAULTS.default,
    device: Annotated[str, _option("device")] = _DEFAULTS.device,
    log_format: Annotated[str, _option("log_format")] = _DEFAULTS.log_format,
) -> None:
    """Serve the models of a folder over HTTP.

    Further settings, by environment variable: MCDROPOUT_MAX_BODY_BYTES, MCDROPOUT_MAX_ROWS,
    MCDROPOUT_MAX_SAMPLES, MCDROPOUT_MAX_QUEUE_ROWS, MCDROPOUT_MAX_BATCH_ROWS, MCDROPOUT_GRACE_SECONDS,
    MCDROPOUT_LOG_LEVEL.
    """
    given: dict[str, Any] = {
        "host": host,
        "port": port,
        "models": models,
        "default": default,
        "device": device,
        "log_format": log_format,
    }
    try:
        settings = Settings(**given)
    except ValidationError as error:
        for problem in error.errors():
            field = "_".join(map(str, problem["loc"]))
            typer.echo(f"error: {field} is {problem['input']!r}; {problem['msg']}", err=True)
        raise typer.Exit(2) from error
    # Imported here, so that `--help` and a wrong flag are answered without PyTorch.
    from service.server import run

    raise typer.Exit(run(settings))
