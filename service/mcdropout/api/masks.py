"""The route of masks: which units the passes of a prediction keep."""

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Request

from mcdropout.api.answering import where_it_belongs
from mcdropout.api.errors import Problem
from mcdropout.api.predict import rows_of
from mcdropout.api.schemas import Masks, MasksQuery, SiteMasks
from mcdropout.api.services import Services
from mcdropout.engine import Engine
from mcdropout.engine.errors import InvalidInputError
from mcdropout.engine.ragged import Rows, batches_of
from mcdropout.engine.shown_masks import shown_masks
from mcdropout.predictions import Ask, InvalidAskError, Pause, checked_p

_PROBLEM = {"application/problem+json": {"schema": Problem.model_json_schema()}}
_LARGE = 2**30  # bytes: drawing may take long, whatever comes of it


def routes(services: Services) -> APIRouter:
    """The route of masks."""
    router = APIRouter(tags=["models"])

    @router.post(
        "/models/{name}/masks",
        summary="Which units some passes keep",
        responses={
            status: {"description": text, "content": _PROBLEM}
            for status, text in {
                404: "There is no such model.",
                413: "The body is larger than the server's limit.",
                415: "The body is of a kind that is not known.",
                422: "The query, or the body where there has to be one, cannot be used.",
                503: "The model is not ready.",
            }.items()
        },
    )
    async def masks(request: Request, name: str, query: Annotated[MasksQuery, Query()]) -> Masks:
        """The masks that a prediction with this seed uses, of wide sites a part of their units.

        They follow from seed, row and pass alone, and no body is needed; but where sizes differ from row to row the
        prediction's body is, whose row says how large they are.
        """
        model = services.predictions.model(Ask(name))
        p = checked_p(model, query.p)
        engine = model.engine if p is None else model.engine.dropping(p)
        if engine.sizing is not None:
            inputs = await rows_of(services, request, model)
            engine = _of_row(engine, inputs, query.row)

        def found(_pause: Pause) -> list[SiteMasks]:
            return _sites(engine, query)

        sites = await where_it_belongs(services.at_once, _LARGE, found)
        return Masks(
            model=model.name,
            version=model.version,
            seed=query.seed,
            row=query.row,
            first=query.first,
            passes=query.passes,
            sites=sites,
        )

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


def _sites(engine: Engine, query: MasksQuery) -> list[SiteMasks]:
    try:
        drawn = shown_masks(engine, query.seed, query.row, query.first, query.passes, query.units)
    except InvalidInputError as error:
        raise InvalidAskError(str(error)) from error
    return [
        SiteMasks(
            name=one.site.name,
            path=one.site.path,
            call=one.site.call,
            kind=one.site.kind,
            p=one.site.p,
            scope=one.site.scope,
            shape=list(one.site.shape),
            units=one.site.units,
            shown=one.shown.tolist(),
            kept=None if one.kept is None else one.kept.tolist(),
            masks=one.masks.tolist(),
        )
        for one in drawn
    ]
