"""Whether the process lives, whether it may serve, and what it measured."""

from fastapi import APIRouter
from starlette.responses import Response

from mcdropout.api.errors import ProblemError
from mcdropout.api.schemas import Health
from mcdropout.api.services import Services


def routes(services: Services) -> APIRouter:
    """The routes of whoever operates the server."""
    router = APIRouter(tags=["operation"])

    @router.get("/health/live", summary="Whether the process lives", responses={503: {"description": "Stuck."}})
    async def live() -> Health:
        """200 while the server answers at all, and its engine does not hang."""
        check_live(services)
        return Health(status="live")

    @router.get("/health/ready", summary="Whether the models may serve", responses={503: {"description": "Not ready."}})
    async def ready() -> Health:
        """200 once every model that was there at the start was loaded or refused, and while the default one may serve.

        What is loaded, reloaded or unloaded later does not change that.
        """
        return Health(status="ready", models=check_ready(services))

    @router.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
    async def metrics() -> Response:
        """Metrics in Prometheus's text format."""
        content, kind = services.metrics.exposition()
        return Response(content, media_type=kind)

    return router


def check_live(services: Services) -> None:
    """Raise ProblemError where the engine hangs."""
    if services.watchdog.stuck:
        raise ProblemError(503, "a step of the engine does not end; the process will")


def check_ready(services: Services) -> dict[str, str]:
    """The state of each model; ProblemError where they may not serve."""
    states: dict[str, str] = {name: entry.state for name, entry in services.registry.entries.items()}
    if not services.registry.ready:
        found = ", ".join(f"{name} is {state}" for name, state in states.items())
        raise ProblemError(503, f"not ready: {found}", {"Retry-After": "1"})
    return states
