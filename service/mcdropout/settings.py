"""Settings: flags of `mcdropout serve`, and environment variables `MCDROPOUT_*` of the same names."""

import ipaddress
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

# As in mcdropout.engine.runtimes.sessions, which loads NumPy; `--help` and a supervisor do without that.
Provider = Literal["cpu", "cuda", "tensorrt", "openvino"]
Optimization = Literal["all", "extended", "basic", "none"]


_PREFIX = "MCDROPOUT_"
# What Kubernetes sets in every container for a service of this name.
_OF_KUBERNETES = re.compile(rf"{_PREFIX}(SERVICE_(HOST|PORT.*)|PORT_\d+_.*)")
# What others than the server read: `mcdropout predict`, and benchmarks.
_OF_OTHERS = ("MCDROPOUT_CLIENT_KEY", "MCDROPOUT_CLIENT_URL", "MCDROPOUT_MNIST")
_LIKE = 0.7  # of two names, of which one is hardly meant for another setting


class Settings(BaseSettings):
    """How a server runs. Each field is also the environment variable `MCDROPOUT_` and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    allowed_hosts: str = Field(
        "",
        description='Names by which clients may call this server, with commas between; "*.example.org" for all below, '
        '"*" for any. If not given, those of this machine where it listens on 127.0.0.1, else any.',
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 for any free one.")
    admin_port: int | None = Field(
        None, ge=1, le=65535, description="Port that changes of models are asked for at, and at no other."
    )
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Port that metrics are read from, and from no other."
    )
    grpc_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Port for the Open Inference Protocol over gRPC, which takes the extra grpc; none if not given.",
    )
    keys_file: Path | None = Field(
        None, description="File of the keys that clients may show, as `mcdropout key` makes them; read when it changes."
    )
    keys: str = Field("", description="Further keys, as YAML like that of the file.")
    insecure: bool = Field(
        False, description="Whether a server that others reach answers all of them, where there are no keys."
    )
    tls_certificate: Path | None = Field(
        None,
        description="File of the server's certificate, and of those that it was issued by, as PEM; for HTTPS. This and "
        "TLS's other files are read again when they change.",
    )
    tls_key: Path | None = Field(None, description="File of the certificate's private key, as PEM.")
    tls_key_password: str | None = Field(None, description="Password of that file, where it has one.", repr=False)
    tls_client_ca: Path | None = Field(
        None, description="File of the authorities whose certificates clients must show, as PEM."
    )
    cors_origins: str = Field(
        "", description='Origins whose pages may read answers, with commas between; "*" for any. None if not given.'
    )
    models: Path = Field(Path("models"), description="Folder of model bundles, one folder each.")
    default: str | None = Field(
        None,
        description="Model that answers POST /predict; the first by name if not given, even where it cannot be loaded.",
    )
    preload: bool = Field(
        True,
        description="Whether every model is loaded at the start; if not, others than the default when asked to be.",
    )
    watch: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Time between two looks for changes in the folder of models, in seconds; 0 for none.",
    )
    admin: bool = Field(True, description="Whether POST /models/{name}/reload, /load and /unload are answered.")
    device: str = Field(
        "cpu",
        description='Where PyTorch models run: "cpu", "cuda" or "cuda:N"; several, with commas between, for a process '
        "on each.",
    )
    provider: Provider = Field("cpu", description="What executes ONNX graphs, where its package is installed.")
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Threads that compute, in each process; the physical cores, divided among processes, if not given.",
    )
    workers: int = Field(
        1, ge=1, le=256, description="Processes that serve, each with its own engine; so many for each device."
    )
    graph_optimization: Optimization = Field("all", description="How far ONNX Runtime rewrites graphs.")
    arena: bool = Field(True, description="Whether ONNX Runtime keeps the memory of values from run to run.")
    compile: bool = Field(True, description="Whether bundles that are not compiled, or changed since, are compiled.")
    compile_memory_bytes: int | None = Field(
        None, gt=0, description="Memory that compiling a bundle may take, in bytes; 4/5 of what is free if not given."
    )
    compile_seconds: float = Field(
        900.0, gt=0, allow_inf_nan=False, description="Time that compiling a bundle may take, in seconds."
    )
    traces: bool = Field(
        False,
        description="Whether requests are traced, by OpenTelemetry; its variables, OTEL_*, say where to and how many.",
    )
    log_format: Literal["console", "json"] = Field("console", description="How log lines are written.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least that is logged.")
    max_body_bytes: int = Field(32 * 2**20, gt=0, description="Largest request body, in bytes.")
    max_bodies_bytes: int = Field(
        256 * 2**20, gt=0, description="Memory of all bodies whose rows are not read yet, in each process, in bytes."
    )
    max_unread_bytes: int = Field(
        256 * 2**20,
        gt=0,
        description="Memory of answers that clients are slow to read, in each process, in bytes; beyond it one is cut.",
    )
    max_connections: int = Field(
        1024,
        gt=0,
        description="Most connections at once, in each process; fewer where fewer files may be open.",
    )
    head_seconds: float = Field(
        10.0,
        gt=0,
        allow_inf_nan=False,
        description="Time for the head of a request to come, or for a TLS handshake, in seconds.",
    )
    body_seconds: float = Field(
        60.0, gt=0, allow_inf_nan=False, description="Time for the body of a request to come, in seconds."
    )
    write_seconds: float = Field(
        30.0,
        gt=0,
        allow_inf_nan=False,
        description="Time for which a client may read nothing of an answer, in seconds.",
    )
    max_rows: int = Field(4096, gt=0, description="Most rows of one request.")
    max_samples: int = Field(1_000_000, gt=0, description="Most samples, rows times passes, that an answer may hold.")
    max_queue_rows: int = Field(65_536, gt=0, description="Rows that may wait; requests beyond them are refused.")
    max_queue_bytes: int = Field(2**30, gt=0, description="Memory of the inputs that may wait, in bytes.")
    max_request_seconds: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="Time that the passes of one request may take, if it is run alone, in seconds.",
    )
    max_queue_seconds: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="Time that their passes may take, by the rate of the last second, in seconds.",
    )
    max_client_share: float = Field(
        0.9,
        gt=0,
        le=1,
        description="How much of that one client may have waiting that asks alone, 0 to 1. It is known by its key or, "
        "without, by its address.",
    )
    max_batch_rows: int = Field(1024, gt=0, description="Most rows of several requests that are run together.")
    step_seconds: float = Field(
        0.004, gt=0, allow_inf_nan=False, description="Time that a step of the engine should take, in seconds."
    )
    watchdog_seconds: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="A step that takes longer is taken for stuck; the process ends, in seconds.",
    )
    shed: Literal["refuse", "reduce"] = Field(
        "refuse", description="Under overload: refuse requests, or give them fewer passes before that."
    )
    shed_floor: int = Field(16, ge=2, description='The fewest passes that shed="reduce" leaves a request.')
    grace_seconds: float = Field(
        30.0, ge=0, allow_inf_nan=False, description="Time for requests in flight when the server stops, in seconds."
    )

    @field_validator("device")
    @classmethod
    def _names_devices(cls, device: str) -> str:
        if not all(name.strip() for name in device.split(",")):
            raise ValueError('one device, or several with one comma between two, such as "cuda:0,cuda:1", are accepted')
        return device

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        ports = [port for port in (self.port, self.admin_port, self.metrics_port, self.grpc_port) if port]
        if len(set(ports)) < len(ports):
            names = "port, admin_port and metrics_port"
            if self.grpc_port is not None:
                names = "port, admin_port, metrics_port and grpc_port"
            raise ValueError(f"{names} are {ports}; different ones are accepted")
        if self.grpc_port is not None and self.tls_key_password:
            raise ValueError("grpc_port and tls_key_password are given; gRPC takes a key without a password")
        if self.tls_certificate is None and (self.tls_key or self.tls_client_ca):
            raise ValueError("tls_key or tls_client_ca is given without tls_certificate; they are accepted with one")
        return self

    @property
    def ports(self) -> list[int]:
        """The ports to listen on, the one for predictions first."""
        return [port for port in (self.port, self.admin_port, self.metrics_port) if port is not None]

    @property
    def devices(self) -> list[str]:
        """The device of each process that serves."""
        return [name.strip() for name in self.device.split(",")] * self.workers


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return f"{_PREFIX}{name.upper()}"


def default_of(name: str) -> str:
    """A setting's default as its variable would have it; empty where it has none."""
    default = Settings.model_fields[name].default
    if isinstance(default, bool):
        return str(default).lower()
    return "" if default is None else str(default)


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches what listens there."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def unknown_settings(variables: Iterable[str]) -> dict[str, str | None]:
    """The environment variables that look like settings and are none, each with the setting that it is like, if any."""
    known = [name.upper() for name in Settings.model_fields]
    found: dict[str, str | None] = {}
    for variable in variables:
        name = variable.upper().removeprefix(_PREFIX)
        if variable in _OF_OTHERS or _OF_KUBERNETES.fullmatch(variable):
            continue
        if variable.upper().startswith(_PREFIX) and name not in known:
            meant = get_close_matches(name, known, 1, _LIKE)
            found[variable] = f"{_PREFIX}{meant[0]}" if meant else None
    return found
