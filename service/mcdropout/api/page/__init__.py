"""The page at `/`: what a network predicts and how far to trust it, to be seen and tried.

It is files beside this one, served as they are: no build makes them, and a browser asks no other server for anything.
"""

import gzip
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from mcdropout.api.encodings import accepts_gzip

_STATIC = "static"
_INDEX = "index.html"
_MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
}
_HEADERS = {
    # Asked for each time, and sent again only where it has changed.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; connect-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Encoding",
}


@dataclass(frozen=True)
class _File:
    """A file of the page, as it is and compressed."""

    content: bytes
    compressed: bytes
    media_type: str
    tag: str

    @classmethod
    def of(cls, path: Traversable) -> "_File":
        content = path.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:24]}"'
        return cls(content, gzip.compress(content, 9, mtime=0), _MEDIA_TYPES[path.name.rpartition(".")[2]], tag)

    def answer(self, request: Request) -> Response:
        """It, or that it has not changed since the browser had it."""
        headers = _HEADERS | {"ETag": self.tag}
        if self.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if accepts_gzip(request.headers.get("accept-encoding")):
            headers["Content-Encoding"] = "gzip"
            return Response(self.compressed, headers=headers, media_type=self.media_type)
        return Response(self.content, headers=headers, media_type=self.media_type)


def routes() -> APIRouter:
    """The page, and the files that it is made of."""
    found = _files(files(__name__) / _STATIC)
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def page(request: Request) -> Response:
        return found[_INDEX].answer(request)

    @router.get("/page/{path:path}")
    async def file(request: Request, path: str) -> Response:
        if path not in found:
            raise HTTPException(404)
        return found[path].answer(request)

    return router


def _files(folder: Traversable, above: str = "") -> dict[str, _File]:
    """All files in a folder, by their paths in it."""
    table: dict[str, _File] = {}
    for entry in folder.iterdir():
        if entry.is_dir():
            table |= _files(entry, f"{above}{entry.name}/")
        elif entry.name.rpartition(".")[2] in _MEDIA_TYPES:
            table[f"{above}{entry.name}"] = _File.of(entry)
    return table
