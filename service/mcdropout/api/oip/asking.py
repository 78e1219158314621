"""What a request asks for: of which version of a model, by which parameters, and which statistics."""

from collections.abc import Sequence
from dataclasses import replace

from mcdropout.api.errors import ProblemError
from mcdropout.api.oip.rows import rows_of
from mcdropout.api.oip.tensor import InferRequest, Wanted
from mcdropout.api.oip.texts import are_texts, rows_of_texts
from mcdropout.api.query import ask_of_parameters
from mcdropout.api.services import Services
from mcdropout.catalogue.model import Model
from mcdropout.engine.ragged import Rows
from mcdropout.engine.statistics import TASKS
from mcdropout.predictions import Ask, InvalidAskError, Pause, Planned
from mcdropout.scheduling.clients import Client

PASSES, SAMPLES = "passes", "samples"
_SHOWN = 100


def model_of(services: Services, name: str, version: str) -> Model:
    """The model that is asked; any version where that is empty.

    Raises:
        UnknownModelError, NotReadyError: as `Predictions.model` does.
        ProblemError: 404 where it has another version.
    """
    model = services.predictions.model(Ask(name))
    if version not in ("", model.version):
        raise ProblemError(
            404, f"the model {name!r} has no version {version[:_SHOWN]!r}; {model.version!r} is what it has"
        )
    return model


def planned_and_rows(
    services: Services, model: Model, client: Client, arrived: float, request: InferRequest, pause: Pause
) -> tuple[Planned, tuple[Rows, ...]]:
    """What a request comes to, and its rows as the network takes them.

    Raises:
        RequestValidationError, InvalidAskError, ProblemError: what it asks for cannot be given.
        RowsError: its tensors hold something else.
    """
    ask = ask_of_parameters(request.parameters, model.name, arrived)
    ask = replace(ask, fields=_fields(model, request.outputs, ask))
    planned = services.predictions.plan(model, ask, client)
    most, hook = services.settings.max_rows, model.bundle.hook
    if hook is not None and are_texts(request.inputs):
        return planned, rows_of_texts(request.inputs, model.takes, hook, most, pause)
    return planned, rows_of(request.inputs, model.takes, most, pause)


def _fields(model: Model, outputs: Sequence[Wanted], ask: Ask) -> tuple[str, ...] | None:
    """The statistics to find: those of the parameter `fields`, of the outputs that are named, or all."""
    known = TASKS[model.bundle.manifest.task].by_name
    names = [output.name for output in outputs]
    accepted = ", ".join([*known, PASSES, SAMPLES])
    for name in names:
        if name not in (*known, PASSES, SAMPLES) or names.count(name) > 1:
            raise InvalidAskError(f"outputs names {name[:_SHOWN]!r}; each of {accepted} is accepted, once")
    if SAMPLES in names and not ask.samples:
        raise InvalidAskError("outputs names 'samples'; it is accepted with the parameter samples, which is true")
    if not names or ask.fields is not None:
        return ask.fields
    # At least one is found: to leave out all means all to a view.
    return tuple(name for name in names if name in known) or (next(iter(known)) if ask.reduce is None else "mean",)
