"""The app: routes, errors and observation around the services."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from mcdropout.api import health, models, predict
from mcdropout.api.errors import add_error_handlers
from mcdropout.api.observe import ObserveMiddleware
from mcdropout.api.services import Services


def create_app(services: Services) -> FastAPI:
    """The service as an ASGI app. Its lifespan starts the services, and stops them."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with services.running():
            yield

    app = FastAPI(
        title="mcdropout",
        version=version("mcdropout"),
        summary="Predictions together with how far to trust them, by Monte Carlo dropout.",
        lifespan=lifespan,
    )
    app.add_middleware(predict.PredictMiddleware, services=services)
    app.add_middleware(ObserveMiddleware, metrics=services.metrics)
    add_error_handlers(app)
    for module in (predict, models, health):
        app.include_router(module.routes(services))

    def openapi() -> dict[str, Any]:
        return predict.with_formats(FastAPI.openapi(app))

    app.openapi = openapi  # type: ignore[method-assign]
    return app
