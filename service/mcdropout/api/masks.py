"""The route of masks: which units the passes of a prediction keep."""

from typing import Annotated, Any

import numpy as np
import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from mcdropout.api.answering import where_it_belongs
from mcdropout.api.errors import problem_responses
from mcdropout.api.predict import rows_of
from mcdropout.api.schemas import Masks, MasksQuery
from mcdropout.api.services import Services
from mcdropout.engine import Engine
from mcdropout.engine.errors import InvalidInputError
from mcdropout.engine.ragged import Rows, batches_of
from mcdropout.engine.shown_masks import shown_masks
from mcdropout.predictions import Ask, InvalidAskError, Pause, checked_p

_PROBLEMS = problem_responses(
    {
        404: "There is no such model.",
        413: "The body is larger than the server's limit.",
        415: "The body is of a kind that is not known.",
        422: "The query, or the body where there has to be one, cannot be used.",
        503: "The model is not ready.",
    }
)
_LARGE = 2**30  # bytes: drawing may take long, whatever comes of it


def routes(services: Services) -> APIRouter:
    """The route of masks."""
    router = APIRouter(tags=["models"])

    @router.post(
        "/models/{name}/masks",
        summary="Which units some passes keep",
        responses={200: {"model": Masks}, **_PROBLEMS},
    )
    async def masks(request: Request, name: str, query: Annotated[MasksQuery, Query()]) -> Response:
        """The masks that a prediction with this seed uses, of wide sites a part of their units.

        They follow from seed, row and pass alone, and no body is needed; but where sizes differ from row to row the
        prediction's body is, whose row says how large they are.
        """
        model = services.predictions.model(Ask(name))
        p = checked_p(model, query.p)
        engine = model.engine if p is None else model.engine.dropping(p)
        if engine.sizing is not None:
            engine = _of_row(engine, await rows_of(services, request, model), query.row)

        def written(_pause: Pause) -> bytes:
            asked = {name: value for name, value in query.model_dump().items() if name in Masks.model_fields}
            about = {"model": model.name, "version": model.version, **asked}
            return orjson.dumps({**about, "sites": _sites(engine, query)}, option=orjson.OPT_SERIALIZE_NUMPY)

        content = await where_it_belongs(services.at_once, _LARGE, written)
        return Response(content, media_type="application/json")

    return router


def _of_row(engine: Engine, inputs: tuple[Rows, ...], row: int) -> Engine:
    """The engine for rows of the size that one of a request has."""
    assert engine.sizing is not None
    try:
        for batch in batches_of(inputs, engine.sizing):
            if np.any(batch.rows == row):
                return engine.at(batch.sizes)
    except InvalidInputError as error:
        raise InvalidAskError(str(error)) from error
    raise InvalidAskError(f"row is {row}, and the body has {len(inputs[0])}; the index of one of them is accepted")


def _sites(engine: Engine, query: MasksQuery) -> list[dict[str, Any]]:
    """What `SiteMasks` describes, of each site."""
    try:
        drawn = shown_masks(engine, query.seed, query.row, query.first, query.passes, query.units)
    except InvalidInputError as error:
        raise InvalidAskError(str(error)) from error
    return [
        {
            "name": one.site.name,
            "path": one.site.path,
            "call": one.site.call,
            "kind": one.site.kind,
            "p": one.site.p,
            "scope": one.site.scope,
            "shape": one.site.shape,
            "units": one.site.units,
            "shown": one.shown,
            "kept": one.kept,
            "masks": one.masks,
        }
        for one in drawn
    ]
