"""`mcdropout serve`."""

import os
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from mcdropout.cli.sources import Argument, Inject, Labels, Module, Output, Shape, Sizes, Task, Weights, source_of
from mcdropout.settings import Settings, default_of, is_loopback, unknown_settings, variable_of

_DEFAULTS = Settings.model_construct()
_INTERRUPTED = 130  # as shells have it
_PREFIX = Settings.model_config["env_prefix"]


def _option(field: str, flag: str | None = None) -> Any:
    """A flag for a setting; its text and its environment variable are the setting's own."""
    return typer.Option(
        flag or f"--{field.replace('_', '-')}",
        help=Settings.model_fields[field].description,
        envvar=variable_of(field),
    )


def serve(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Bundles' folders, a folder of bundles, or what `mcdropout init` makes a bundle of, as it then does; "
            "those of --models if not given.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str, _option("host")] = _DEFAULTS.host,
    port: Annotated[int, _option("port")] = _DEFAULTS.port,
    models: Annotated[Path, _option("models")] = _DEFAULTS.models,
    default: Annotated[str | None, _option("default")] = _DEFAULTS.default,
    watch: Annotated[float, _option("watch")] = _DEFAULTS.watch,
    device: Annotated[str, _option("device")] = _DEFAULTS.device,
    provider: Annotated[str, _option("provider")] = _DEFAULTS.provider,
    threads: Annotated[int | None, _option("threads")] = _DEFAULTS.threads,
    workers: Annotated[int, _option("workers")] = _DEFAULTS.workers,
    keys_file: Annotated[Path | None, _option("keys_file")] = _DEFAULTS.keys_file,
    insecure: Annotated[bool, _option("insecure", "--insecure/--no-insecure")] = _DEFAULTS.insecure,
    admin_port: Annotated[int | None, _option("admin_port")] = _DEFAULTS.admin_port,
    metrics_port: Annotated[int | None, _option("metrics_port")] = _DEFAULTS.metrics_port,
    grpc_port: Annotated[int | None, _option("grpc_port")] = _DEFAULTS.grpc_port,
    tls_certificate: Annotated[Path | None, _option("tls_certificate")] = _DEFAULTS.tls_certificate,
    tls_key: Annotated[Path | None, _option("tls_key")] = _DEFAULTS.tls_key,
    tls_client_ca: Annotated[Path | None, _option("tls_client_ca")] = _DEFAULTS.tls_client_ca,
    compile_: Annotated[bool, _option("compile", "--compile/--no-compile")] = _DEFAULTS.compile,
    log_format: Annotated[str, _option("log_format")] = _DEFAULTS.log_format,
    weights: Weights = None,
    task: Task = None,
    labels: Labels = None,
    shape: Shape = [],  # noqa: B006
    sizes: Sizes = [],  # noqa: B006
    module: Module = None,
    argument: Argument = [],  # noqa: B006
    output: Output = None,
    inject: Inject = None,
) -> None:
    """Serve models over HTTP, and over gRPC where a port for that is given."""
    _check_variables()
    if sources:
        said = (weights, task, labels, shape, sizes, module, argument, output, inject)
        models = _folder_of(sources, said, 0 if tls_certificate else port)
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
        "keys_file": keys_file,
        "insecure": insecure,
        "admin_port": admin_port,
        "metrics_port": metrics_port,
        "grpc_port": grpc_port,
        "tls_certificate": tls_certificate,
        "tls_key": tls_key,
        "tls_client_ca": tls_client_ca,
        "compile": compile_,
        "log_format": log_format,
    }
    try:
        settings = Settings(**given)
    except ValidationError as error:
        for problem in error.errors():
            field = "_".join(map(str, problem["loc"]))
            what = f"{field} is {problem['input']!r}; " if field else ""
            typer.echo(f"error: {what}{problem['msg'].removeprefix('Value error, ')}", err=True)
        raise typer.Exit(2) from error
    _check_doors(settings)
    _check_grpc(settings)
    # What starts can be left as it is. A container's first process is not ended by a signal that it does not handle.
    from mcdropout.processes.listening import stop_signals

    for number in stop_signals():
        signal.signal(number, lambda *_: os._exit(0))
    if len(settings.devices) > 1:
        from mcdropout.processes.supervisor import supervise

        raise typer.Exit(supervise(settings))
    # Imported here, so that `--help` and a wrong flag are answered at once.
    from mcdropout.processes.server import run

    raise typer.Exit(run(settings))


def _folder_of(sources: list[str], said: Any, port: int) -> Path:
    """The folder of bundles to serve; what is no bundle is made one first. At a port, it is shown how each is asked."""
    from mcdropout.catalogue.bundle import EXAMPLE
    from mcdropout.catalogue.making.source import SourceError
    from mcdropout.catalogue.manifest import BundleError
    from mcdropout.cli.init import curl_of
    from mcdropout.cli.served import folder_of
    from mcdropout.engine.errors import EngineError

    try:
        folder, bundles = folder_of(sources, source_of(sources[0], *said))
        for bundle in [bundle for bundle in bundles if port and (bundle / EXAMPLE).is_file()]:
            typer.echo(f"to ask {bundle.name}: {curl_of(bundle, f'http://127.0.0.1:{port}')}", err=True)
    except (SourceError, BundleError, EngineError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    except (KeyboardInterrupt, typer.Abort):
        raise typer.Exit(_INTERRUPTED) from None
    return folder


def _check_doors(settings: Settings) -> None:
    """Refuse to let in whoever comes, unless that is what was asked for; and keys and certificates that are none."""
    from mcdropout.access import Certificates, Keyring, KeysError, TlsError

    try:
        has_keys = Keyring(settings.keys_file, settings.keys).is_used
        Certificates.of(settings)
    except (KeysError, TlsError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    if has_keys or settings.insecure or is_loopback(settings.host):
        return
    typer.echo(
        f"error: others reach {settings.host}, and there are no keys; a file of them (--keys-file, {_PREFIX}KEYS_FILE; "
        f"`mcdropout key` makes one), 127.0.0.1, or, where something else keeps others out, --insecure "
        f"({_PREFIX}INSECURE=true) is accepted",
        err=True,
    )
    raise typer.Exit(2)


def _check_grpc(settings: Settings) -> None:
    """Refuse a port for gRPC where nothing is installed that could serve there."""
    if settings.grpc_port is None:
        return
    missing = [name for name in ("google.protobuf", "grpc", "grpc_health") if not _is_installed(name)]
    if missing:
        typer.echo(
            f"error: grpc_port is {settings.grpc_port}, and {', '.join(missing)} cannot be imported; pip install "
            "'mcdropout[grpc]' brings what it takes",
            err=True,
        )
        raise typer.Exit(2)


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # not even what it is in
        return False


def _check_variables() -> None:
    """Refuse what looks like a mistyped setting: what it was to limit would not be limited."""
    for name, meant in unknown_settings(os.environ).items():
        if meant is not None:
            typer.echo(f"error: the environment variable {name} is no setting; {meant} is", err=True)
            raise typer.Exit(2)
        typer.echo(f"warning: the environment variable {name} is no setting", err=True)


def _further(name: str) -> str:
    """What `--help` says of a setting that has no flag."""
    default = default_of(name)
    return f"{variable_of(name)}{f' ({default})' if default else ''}: {Settings.model_fields[name].description}"


FLAGS = frozenset(serve.__annotations__) - {"compile_", "return"} | {"compile"}
"""The settings that have a flag."""
_FURTHER = "\n".join(_further(name) for name in Settings.model_fields if name not in FLAGS)
serve.__doc__ = f"{serve.__doc__}\n\nFurther settings, by environment variable:\n\n{_FURTHER}\n"
