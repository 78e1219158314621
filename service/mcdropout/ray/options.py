"""What may be set where the service runs on Ray: arguments of `serve run`, and `args` of a config file."""

import os
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mcdropout.settings import Settings

# Options have these, or they mean nothing to a replica.
_NO_SETTINGS = ("models", "default", "device", "admin", "preload", "workers", "host", "port")


def _ray_routes() -> bool:
    return os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") != "1"


class Options(BaseModel):
    """How many replicas there are, what each takes, and what it serves.

    Attributes:
        models: folder of the bundles, on every machine; else as `MCDROPOUT_MODELS` says.
        default: the model that is on every replica; else as `MCDROPOUT_DEFAULT` says, or the first by name.
        device: where PyTorch models run; "cuda" is the GPU that Ray gives the replica.
        settings: in a config file, other settings of the service, by their names: `{max_queue_rows: 4096}`.
        min_replicas: how many replicas there are at least,
        max_replicas: and at most.
        rows_per_replica: rows in flight in a replica, above which there are to be more replicas.
        upscale_delay_s: for how long, in seconds, before one is added,
        downscale_delay_s: or taken away.
        max_models: models that a replica holds beside the default one; the one not asked for longest goes.
        route_by_model: whether requests go to replicas that hold their model. Not where HAProxy hands them out, which
            Ray has do that with `RAY_SERVE_ENABLE_HA_PROXY=1`: it is several times as fast, and asks each in turn.
        spread_above: requests that a replica is busy with, above which others load its models too.
        max_ongoing_requests: requests that are handed to a replica at the same time; others wait at Ray's proxy,
        max_queued_requests: so many of them at most.
        num_cpus: cores of a replica, and so many threads that compute.
        num_gpus: the share of a GPU that a replica takes; 0.5 puts two on each.
    """

    model_config = ConfigDict(extra="forbid")

    models: str | None = None
    default: str | None = None
    device: str | None = None
    settings: dict[str, Any] = {}
    min_replicas: Annotated[int, Field(ge=1)] = 1
    max_replicas: Annotated[int, Field(ge=1)] = 10
    rows_per_replica: Annotated[float, Field(gt=0)] = 64.0
    upscale_delay_s: Annotated[float, Field(ge=0)] = 10.0
    downscale_delay_s: Annotated[float, Field(ge=0)] = 300.0
    max_models: Annotated[int, Field(ge=1)] = 8
    route_by_model: bool = Field(default_factory=_ray_routes)
    spread_above: Annotated[int, Field(ge=1)] = 32
    max_ongoing_requests: Annotated[int, Field(ge=1)] = 256
    max_queued_requests: Annotated[int, Field(ge=1)] = 1024
    num_cpus: Annotated[float, Field(gt=0)] = 1.0
    num_gpus: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _agree(self) -> "Options":
        if wrong := sorted({*self.settings} & {*_NO_SETTINGS}):
            raise ValueError(f"settings names {wrong}; other settings of the service than {_NO_SETTINGS} are accepted")
        if (self.device or "").startswith("cuda") and not self.num_gpus:
            raise ValueError(f"device is {self.device!r} and num_gpus is 0; a share of a GPU is accepted with it")
        if self.num_gpus > 1 and self.num_gpus % 1:
            raise ValueError(f"num_gpus is {self.num_gpus:g}; a part of one, or a whole number, is accepted")
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas is {self.min_replicas}; at most max_replicas, {self.max_replicas}, is accepted"
            )
        return self

    def service_settings(self) -> Settings:
        """The settings of a replica's app.

        Models are not changed over HTTP, which would reach one replica.
        """
        named = {name: getattr(self, name) for name in ("models", "default", "device")}
        given = {name: value for name, value in named.items() if value is not None}
        return Settings(**self.settings, **given, admin=False, preload=False)
