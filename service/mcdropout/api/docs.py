"""The page `/docs`: Swagger UI, served from here, so that a browser asks nobody else."""

from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import FileResponse, HTMLResponse, Response

_SCRIPT, _STYLE = "swagger-ui-bundle.js", "swagger-ui.css"
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; script-src 'self' 'unsafe-inline'; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
}


def routes() -> APIRouter:
    """The page, and what it is made of."""
    folder = _folder()
    router = APIRouter(include_in_schema=False)

    @router.get("/docs")
    async def page(request: Request) -> Response:
        root = request.scope.get("root_path", "")
        found = get_swagger_ui_html(
            openapi_url=f"{root}/openapi.json",
            title="mcdropout",
            swagger_js_url=f"{root}/docs/{_SCRIPT}",
            swagger_css_url=f"{root}/docs/{_STYLE}",
            swagger_favicon_url="data:,",
        )
        return HTMLResponse(found.body, headers=_HEADERS)

    @router.get(f"/docs/{_SCRIPT}")
    async def script() -> Response:
        return FileResponse(folder / _SCRIPT, media_type="text/javascript")

    @router.get(f"/docs/{_STYLE}")
    async def style() -> Response:
        return FileResponse(folder / _STYLE, media_type="text/css")

    return router


def _folder() -> Path:
    """Where the files of Swagger UI are, of which a package keeps a copy."""
    found = find_spec("fastapi_offline")
    if found is None or not found.submodule_search_locations:
        raise ImportError("the package fastapi-offline is not installed; mcdropout's pyproject.toml names it")
    return Path(found.submodule_search_locations[0]) / "static"
