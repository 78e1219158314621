"""What models there are, and all that is known of each; loading, reloading and unloading them."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from mcdropout.api import formats
from mcdropout.api.errors import ProblemError, problem_responses
from mcdropout.api.hosts import Hosts
from mcdropout.api.schemas import ModelChange, ModelDescription, ModelList, ModelSummary
from mcdropout.api.services import Services
from mcdropout.catalogue.model import Model
from mcdropout.catalogue.registry import Change, Entry, Registry
from mcdropout.engine import Engine, Site
from mcdropout.engine.statistics import TASKS, described_reading
from mcdropout.predictions import entry_of
from mcdropout.settings import Settings

_SHOWN = 100  # characters of what a client sent
_CHANGE_RESPONSES = problem_responses(
    {
        403: "Models may not be changed over HTTP, or not from there.",
        404: "There is no such model.",
        409: "Its state does not allow it, or it is being changed already.",
        422: "Its bundle is wrong or its network cannot be served; what served before still does.",
    }
)


def routes(services: Services) -> APIRouter:
    """The routes of models."""
    registry = services.registry

    def check_may_change(request: Request) -> None:
        _check_may_change(request, services.settings)

    router = APIRouter(prefix="/models", tags=["models"])
    changes: dict[str, Any] = {"dependencies": [Depends(check_may_change)], "responses": _CHANGE_RESPONSES}

    @router.get("", summary="List the models")
    async def list_models() -> ModelList:
        """All models, and whether they may serve."""
        return ModelList(models=[_summary(registry, name, entry) for name, entry in registry.entries.items()])

    @router.get("/{name}", summary="Describe a model", responses={404: {"description": "There is no such model."}})
    async def describe_model(name: str) -> ModelDescription:
        """Which sites are on and which off, with which p, run by what, checked how; what it takes and gives."""
        entry = entry_of(registry, name)
        summary = _summary(registry, name, entry).model_dump()
        return ModelDescription.model_validate(summary | ({} if entry.model is None else _describe(entry.model)))

    @router.get(
        "/{name}/example",
        summary="A body that its predictions take",
        responses={
            404: {"description": "There is no such model, or its bundle holds no example.json, or one above 8 MiB."}
        },
    )
    async def example_of(name: str) -> Any:
        """What example.json of its bundle holds, to try the model with."""
        entry = entry_of(registry, name)
        body = await asyncio.to_thread(entry.model.bundle.example_bytes) if entry.model else None
        if body is None:
            raise ProblemError(404, f"the model {name!r} has no example; a bundle with an example.json has one")
        return Response(body, media_type="application/json")

    @router.post("/{name}/reload", summary="Read a model's bundle again", **changes)
    async def reload_model(name: str) -> ModelChange:
        """Loads, verifies and warms what the bundle holds now beside what serves, then swaps them.

        Requests in flight end with the version that they began with. What is refused leaves the old version serving.
        """
        return await _change(registry.reload, name)

    @router.post("/{name}/load", summary="Load a model", **changes)
    async def load_model(name: str) -> ModelChange:
        """Loads a bundle that is new in the folder of models, was unloaded, or failed before."""
        return await _change(registry.load, name)

    @router.post(
        "/{name}/unload",
        summary="Unload a model",
        description="The model takes no more requests; those in flight end with it, then its memory is free. "
        "Not the default one.",
        **changes,
    )
    async def unload_model(name: str) -> ModelChange:
        return await _change(registry.unload, name)

    return router


def _check_may_change(request: Request, settings: Settings) -> None:
    if not settings.admin:
        raise ProblemError(
            403, "models may not be changed over HTTP here; where one process serves, MCDROPOUT_ADMIN=true allows it"
        )
    if settings.workers > 1:
        raise ProblemError(
            409,
            f"{settings.workers} processes serve, and this reaches one; with --watch all follow the folder of models",
        )
    # A browser lets any page post to any server, this one behind the firewall included, and says whose page it was.
    origin = request.headers.get("origin")
    if origin is not None and not Hosts.of(settings).accept_page(origin, request.headers.get("host")):
        raise ProblemError(
            403,
            f"the request is of a page of {origin[:_SHOWN]!r}; pages of this server are accepted, by a name that "
            "MCDROPOUT_ALLOWED_HOSTS lists",
        )


async def _change(how: Callable[[str], Change], name: str) -> ModelChange:
    return ModelChange.model_validate(asdict(await asyncio.to_thread(how, name)))


def _summary(registry: Registry, name: str, entry: Entry) -> ModelSummary:
    return ModelSummary(
        name=name,
        version=entry.version,
        state=entry.state,
        default=name == registry.default,
        error=entry.error,
        last_error=entry.last_error,
    )


def _with_shapes(engine: Engine) -> Iterable[tuple[Site, list[int | str]]]:
    return zip(engine.sites, engine.site_shapes, strict=True)


def _describe(model: Model) -> dict[str, Any]:
    manifest = model.bundle.manifest
    output = described_reading(model.engine.reading)
    if manifest.labels is not None:
        output["labels"] = manifest.labels
    output["statistics"] = TASKS[manifest.task].described()
    return {
        "description": manifest.description,
        "task": manifest.task,
        "inputs": [spec.model_dump() for spec in model.takes],
        "sizes": {name: one.model_dump() for name, one in manifest.sizes.items()},
        "output": output,
        "passes": manifest.passes.model_dump(),
        "rates": None if manifest.rates is None else manifest.rates.model_dump(),
        "sites": [asdict(site) | {"on": True, "shape": shape} for site, shape in _with_shapes(model.engine)]
        + [asdict(site) | {"on": False} for site in model.engine.sites_off],
        "program": asdict(model.engine.program),
        "formats": formats.media_types_of_bodies(model.takes),
        "preprocess": manifest.preprocess,
        "training": model.bundle.results(),
    }
