"""The shortest way to a prediction: past FastAPI's routing, middleware and dependencies.

These take longer than a small model does over a row. FastAPI's own routes for the same paths answer what comes another
way, and say in `/docs` what there is.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Any, cast

from fastapi import FastAPI, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

Predict = Callable[[Request, str], Awaitable[Response]]

_PATH = re.compile(r"(?:/models/(?P<name>[^/]+))?/predict")


def predicted_by(scope: Scope) -> str | None:
    """The model that a request wants a prediction of, "" for the default one; None where it wants something else."""
    if scope["type"] != "http" or scope["method"] != "POST" or scope.get("root_path"):
        return None
    found = _PATH.fullmatch(scope["path"])
    return None if found is None else found["name"] or ""


class ShortcutMiddleware:
    """Answers predictions, and hands everything else on."""

    def __init__(self, app: ASGIApp, owner: FastAPI, predict: Predict) -> None:
        """
        Args:
            app: what answers everything else.
            owner: whose models and error handlers are used.
            predict: answers a request with a model's predictions.
        """
        self._app = app
        self._owner = owner
        self._predict = predict

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = predicted_by(scope)
        if found is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await self._predict(request, found)
        except Exception as error:
            response = await self._explain(request, error)
        await response(scope, receive, send)

    async def _explain(self, request: Request, error: Exception) -> Response:
        """What the app's handler makes of an error.

        FastAPI has one that only its last handler expects go on, which closes the connection under the next request.
        """
        for kind in type(error).__mro__:
            handler = self._owner.exception_handlers.get(kind)
            if handler is not None:
                explained: Any = handler(request, error)
                return cast("Response", await explained)
        raise error
