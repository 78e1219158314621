"""The app: routes, errors and observation around the services."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from mcdropout.api import docs, health, masks, models, oip, page, predict, stream
from mcdropout.api.errors import add_error_handlers
from mcdropout.api.guard import GuardMiddleware
from mcdropout.api.observe import ObserveMiddleware
from mcdropout.api.openapi import with_common, with_examples, with_formats
from mcdropout.api.services import Services
from mcdropout.api.traces import TraceMiddleware

_CORS: dict[str, Any] = {
    "allow_methods": ["GET", "POST"],
    "allow_headers": ["authorization", "content-type", "inference-header-content-length", "x-request-id"],
    "expose_headers": ["inference-header-content-length", "x-request-id", "retry-after"],
}
"""What a page of an origin that is allowed may send and read. No cookies: there are none."""


def create_app(services: Services) -> FastAPI:
    """The service as an ASGI app. Its lifespan starts the services, and stops them."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with services.running():
            yield

    app = _Fronted(
        title="mcdropout",
        version=version("mcdropout"),
        summary="Predictions together with how far to trust them, by Monte Carlo dropout.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.front = _front(app, services)
    add_error_handlers(app)
    for module in (predict, stream, models, masks, health, oip):
        app.include_router(module.routes(services))
    app.include_router(docs.routes())
    app.include_router(page.routes())

    def openapi() -> dict[str, Any]:
        document = with_common(with_formats(FastAPI.openapi(app)))
        if services.guard.has_keys:  # which nobody needs for this
            return document
        entries = services.registry.entries.items()
        examples = {name: entry.model.example for name, entry in entries if entry.model and entry.model.example}
        return with_examples(document, examples, services.registry.default)

    app.openapi = openapi  # type: ignore[method-assign]
    return app


class _Fronted(FastAPI):
    """An app that has others come before it, its own middleware too, with every request."""

    front: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self.front(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def _front(app: FastAPI, services: Services) -> ASGIApp:
    """What a request meets before an app; predictions do not come to that at all."""
    front: ASGIApp = HeadMiddleware(partial(FastAPI.__call__, app))
    front = predict.PredictMiddleware(front, services)
    front = GuardMiddleware(front, services.guard)
    if origins := [origin.strip() for origin in services.settings.cors_origins.split(",") if origin.strip()]:
        front = CORSMiddleware(front, allow_origins=origins, **_CORS)
    if services.traces is not None:
        front = TraceMiddleware(front, services.traces)
    return ObserveMiddleware(front, services.metrics)


class HeadMiddleware:
    """Has HEAD answered as GET, by the routes that there are of that; the server leaves the body out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)
