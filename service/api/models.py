"""What models there are, and all that is known of each."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request

from service.api.errors import ProblemError
from service.api.schemas import ModelDescription, ModelList, ModelSummary
from service.loading import Model
from service.registry import Entry, Registry

router = APIRouter(prefix="/models", tags=["models"])


@router.get("", summary="List the models")
async def list_models(request: Request) -> ModelList:
    """All models, and whether they may serve."""
    registry: Registry = request.app.state.registry
    entries = [(name, registry.entry(name)) for name in registry.names]
    return ModelList(models=[_summary(registry, name, entry) for name, entry in entries if entry])


@router.get("/{name}", summary="Describe a model")
async def describe_model(request: Request, name: str) -> ModelDescription:
    """Which sites are on and which off, with which p, run by what, checked how; what it takes and gives."""
    registry: Registry = request.app.state.registry
    entry = registry.entry(name)
    if entry is None:
        raise ProblemError(404, f"there is no model {name!r}; one of {registry.names} is accepted")
    summary = _summary(registry, name, entry).model_dump()
    return ModelDescription.model_validate(summary | ({} if entry.model is None else _describe(entry.model)))


def _summary(registry: Registry, name: str, entry: Entry) -> ModelSummary:
    return ModelSummary(
        name=name,
        version=entry.model.version if entry.model else None,
        state=entry.state,
        default=name == registry.default,
        error=entry.error,
    )


def _describe(model: Model) -> dict[str, Any]:
    manifest = model.bundle.manifest
    output: dict[str, Any] = {"labels": manifest.labels, "temperature": manifest.temperature}
    if manifest.task == "regression":
        output = {"noise_variance": manifest.noise_variance, "interval": manifest.interval}
    return {
        "description": manifest.description,
        "task": manifest.task,
        "inputs": [spec.model_dump() for spec in manifest.takes],
        "output": output,
        "passes": manifest.passes.model_dump(),
        "sites": [asdict(site) | {"on": True} for site in model.engine.sites]
        + [asdict(site) | {"on": False} for site in model.engine.sites_off],
        "program": asdict(model.engine.program),
    }
