"""Whether the process lives, whether it may serve, and what it measured."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.api.errors import ProblemError
from service.api.schemas import Health
from service.metrics import Metrics
from service.registry import Registry

router = APIRouter(tags=["operation"])


@router.get("/health/live", summary="Whether the process lives")
async def live() -> Health:
    """200 while the server answers at all."""
    return Health(status="live")


@router.get("/health/ready", summary="Whether the models may serve", responses={503: {"description": "Not ready."}})
async def ready(request: Request) -> Health:
    """200 once every model has been loaded, verified and warmed or refused, and the default one may serve."""
    registry: Registry = request.app.state.registry
    states: dict[str, str] = {name: entry.state for name in registry.names if (entry := registry.entry(name))}
    if not registry.ready:
        told = ", ".join(f"{name} is {state}" for name, state in states.items())
        raise ProblemError(503, f"not ready: {told}", {"Retry-After": "1"})
    return Health(status="ready", models=states)


@router.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
async def metrics(request: Request) -> Response:
    """Metrics in Prometheus's text format."""
    gathered: Metrics = request.app.state.metrics
    content, kind = gathered.exposition()
    return Response(content, media_type=kind)
