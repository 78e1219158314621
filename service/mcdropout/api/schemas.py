"""What the API takes and gives, as `/docs` shows it."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidatorFunctionWrapHandler,
    create_model,
    field_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, ValidationError, core_schema

from mcdropout.engine import kinds, runtimes
from mcdropout.engine.statistics import TASKS, Task, reduction

Nested = list[Any]


class PredictQuery(BaseModel):
    """The query of a prediction."""

    model_config = ConfigDict(extra="forbid")

    mc: Annotated[int, Field(ge=0)] | Literal["auto"] | None = Field(
        None,
        description="Stochastic passes; 0 for the deterministic baseline; auto for as many as each row needs. The "
        "model's default if not given.",
    )
    tolerance: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="With mc=auto: a row stops when no standard error of its mean is above this; 0.01 if not given.",
    )
    deadline_ms: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Answer by then, in milliseconds from arrival, with the passes that there are; 8 a row at least.",
    )
    seed: int | None = Field(
        None, ge=0, lt=2**64, description="What the masks are drawn from; drawn if not given, and always returned."
    )
    samples: bool = Field(False, description="Whether to return every pass's output too.")
    p: float | None = Field(
        None,
        gt=0,
        lt=1,
        allow_inf_nan=False,
        description="Have each site drop with this probability in place of its own, where the model's rates allow it. "
        "Its network was not trained so.",
    )
    fields: str | None = Field(
        None, min_length=1, description="The names of the statistics to return, with commas between; all if not given."
    )
    reduce: str | None = Field(
        None,
        description=f"For an answer of many places, one number instead: {reduction.ACCEPTED}. Classes stay apart; a "
        "field that holds classes is left out.",
    )
    regions: str | None = Field(
        None, description="With reduce, into how many regions the places are cut, such as 4x4: a number for each."
    )

    @field_validator("mc", mode="wrap")
    @classmethod
    def _are_passes(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError as error:  # one for each type that it may have
            raise PydanticCustomError("passes", "a whole number from 0 on, or auto,") from error


class PredictRequest(BaseModel):
    """The body of a prediction."""

    inputs: float | Nested | dict[str, Any] = Field(
        description="One row, or a list of rows, of the shape that GET /models/{name} tells, in which named sizes may "
        "differ from row to row; for a model of several "
        "inputs an object with one row, or a list of the same number of rows, for each by its name. Where the input is "
        'made of images, a row may be {"b64": "..."}, a PNG or JPEG file; where it has columns, an object of these.'
    )


class Timing(BaseModel):
    """Where the time went, in seconds."""

    queue_seconds: float = Field(description="Waiting for the engine.")
    compute_seconds: float = Field(description="The run that the request was part of.")


def row_model(task: Task) -> type[BaseModel]:
    """What a task's answer has for each row: its statistics, those that were asked for, its passes, and samples."""
    columns: dict[str, Any] = {}
    for field in task.fields:
        null = field.of_baseline is None and field.json_type is not Any
        columns[field.name] = (
            field.json_type | None if null else field.json_type,
            Field(None, description=field.description),
        )
    return create_model(
        f"{task.name.capitalize()}Row",
        __doc__=task.row,
        **columns,
        passes=(int, Field(description="Passes that this row used.")),
        samples=(Nested | None, Field(None, description=f"{task.samples}; only where asked for.")),
    )


class _Row:
    """A row of any task, with the statistics that there are when the documentation is made."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.any_schema()

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(core_schema.union_schema([row_model(task).__pydantic_core_schema__ for task in TASKS.values()]))


class PredictResponse(BaseModel):
    """A prediction for each row of the request."""

    model: str
    version: str
    mc: int | Literal["auto"] = Field(description="Stochastic passes asked for; 0 for the deterministic baseline.")
    tolerance: float | None = Field(None, description="With mc=auto, the standard error asked for.")
    reduced_to: int | None = Field(None, description="The passes given instead, where the server was overloaded.")
    p: float | None = Field(None, description="What the sites dropped with in place of their own, where asked for.")
    seed: int = Field(description="Ask again with it for the same answer.")
    predictions: list[_Row]
    timing: Timing


class ModelSummary(BaseModel):
    """A model in a list."""

    name: str
    version: str | None = Field(description="Null where the model is not ready.")
    state: str = Field(description='"loading", "ready" (also while it is reloaded), "failed" or "unloaded".')
    default: bool = Field(description="Whether it answers POST /predict.")
    error: str | None = Field(description="Why it does not serve.")
    last_error: str | None = Field(
        description="Why its bundle could not be loaded when that was last tried; null where it could. What served "
        "before still does."
    )


class ModelList(BaseModel):
    """All models."""

    models: list[ModelSummary]


class ModelChange(BaseModel):
    """A model that was loaded, reloaded or unloaded."""

    model: str
    previous_version: str | None = Field(description="What served before; null where nothing did.")
    version: str | None = Field(description="What serves now; null where nothing does.")
    seconds: float = Field(description="How long it took.")


class SizeDescription(BaseModel):
    """A size of the inputs that differs from row to row."""

    minimum: int
    maximum: int
    multiple: int = Field(description="Of what it is a multiple.")


class InputDescription(BaseModel):
    """What a client sends for each row."""

    name: str
    shape: list[int | str] = Field(
        description="Of one row; empty for one value a row. A name in place of a size is of one that differs from row "
        "to row: see sizes."
    )
    dtype: str
    minimum: float | None = Field(description="The least value accepted.")
    maximum: float | None = Field(description="The greatest value accepted.")
    missing: str = Field(description='Whether null, for what is missing, is "allowed" or "refused".')
    preprocessing: dict[str, Any] = Field(description="What the service does first: (x * scale - mean) / std.")
    image: dict[str, Any] | None = Field(description="How an image becomes a row; null where none is taken.")
    columns: list[str] | None = Field(description="The names of its values, where rows may be objects of these.")
    categories: dict[str, dict[str, float]] = Field(
        description="By column, the names that it takes in such objects, and the number that each is in a list."
    )
    row_axis: int = Field(description="The dimension of the rows inside the network; clients send them first.")


def _named_kinds(schema: dict[str, Any]) -> None:
    """Describe a site's kind by those that there are when the document is made."""
    schema["description"] = f"What it drops. {kinds.described()}."


class SiteDescription(BaseModel):
    """A place in the network that draws randomness, or could. Null: what is not known of one that is off."""

    path: str = Field(description="Module path.")
    call: int = Field(description="Which of that module's random calls.")
    kind: str = Field(json_schema_extra=_named_kinds)
    p: float | None = Field(description="Probability that a unit is dropped; null for uniform and normal numbers.")
    on: bool
    reason: str | None = Field(None, description="Why it is off.")
    shape: list[int | str] | None = Field(
        None,
        description="Of the mask, for one row (scope row) or one pass (scope pass); where it follows a size that "
        "differs from row to row, that size's name, or f(name).",
    )
    scope: str | None = Field(None, description='"row": each row draws its own; "pass": one for all rows of a request.')
    row_axis: int | None = Field(
        None,
        description="The dimension of the call's input that holds the rows; null for scope pass, and where the network "
        "makes the call for each row by itself.",
    )
    rows_per_row: int | None = Field(None, description="Entries along row_axis that belong to one row of the request.")
    interleaved: bool | None = Field(None, description="Whether these lie apart along row_axis; else side by side.")
    in_eval: bool | None = Field(None, description="Whether its module stays in eval mode.")
    injected: bool = Field(False, description="Whether it was added to a network that was not trained with it.")


class FrontierDescription(BaseModel):
    """A tensor that crosses from what runs once a row to what runs once a pass."""

    shape: list[int]
    per_row: bool
    input: int | None = Field(description="Which input of the network it is; null where it is computed.")
    merged: bool = Field(description="Whether rows share a dimension with the first of shape inside the network.")


class CostDescription(BaseModel):
    """Floating-point operations of products, convolutions and attention."""

    prefix: int = Field(description="Of what runs once a row.")
    suffix: int = Field(description="Of what runs once for each pass of a row.")


class CheckDescription(BaseModel):
    """Something that was verified when the model was loaded."""

    name: str
    passed: bool
    detail: str


def _named_runtimes(schema: dict[str, Any]) -> None:
    """Describe a runtime's name by those that there are when the document is made: the table may have grown."""
    schema["description"] = f"{runtimes.described()}."


class ProgramDescription(BaseModel):
    """How the network runs."""

    strategy: str = Field(
        description='"split": what no mask touches runs once a row; "whole": all of it every pass; "mapped", '
        '"repeated", "loop": so it does, with every row a batch of its own, all at once, some passes of a row at once, '
        "or one after another."
    )
    runtime: str = Field(json_schema_extra=_named_runtimes)
    device: str
    reason: str | None = Field(description="Why nothing faster runs.")
    frontier: list[FrontierDescription]
    prefix_operations: int
    suffix_operations: int
    cost: CostDescription
    checks: list[CheckDescription]


class ModelDescription(ModelSummary):
    """All about a model; what comes of its network is null until it is ready."""

    description: str | None = None
    task: str | None = None
    inputs: list[InputDescription] | None = None
    sizes: dict[str, SizeDescription] | None = Field(
        None, description="The sizes accepted for each name in the shapes of inputs."
    )
    output: dict[str, Any] | None = Field(
        None, description="How its outputs are read, and the statistics of its answers: name, description and unit."
    )
    passes: dict[str, int] | None = None
    rates: dict[str, float] | None = Field(
        None,
        description="The least and the greatest p that requests may have sites drop with; null for their own alone.",
    )
    sites: list[SiteDescription] | None = Field(None, description="Those that are on, then those that are off.")
    program: ProgramDescription | None = None
    formats: list[str] | None = Field(None, description="Media types of the bodies that it takes.")
    preprocess: str | None = Field(
        None, description="What makes rows of text and objects that are sent as inputs; null where nothing does."
    )
    training: dict[str, Any] | None = Field(
        None, description="What training measured, as the bundle's results.json has it; null where there is none."
    )


class SiteMasks(BaseModel):
    """What some passes drew at a site."""

    name: str
    path: str
    call: int
    kind: str = Field(json_schema_extra=_named_kinds)
    p: float | None = Field(description="What it drops with; null where it draws numbers of the network's own.")
    scope: str = Field(description='"row": each row draws its own; "pass": one for all rows of a request.')
    shape: list[int]
    units: int = Field(description="How many a pass draws.")
    shown: list[int] = Field(description="Which of them masks tells of, as indices into the shape laid out flat.")
    kept: list[int] | None = Field(description="For each pass, how many of all units it kept; null where p is.")
    masks: list[list[float]] = Field(
        description="For each pass and unit shown, 1 where it is kept and 0 where it is dropped; or the number drawn."
    )


class Masks(BaseModel):
    """Which units some passes of a row keep."""

    model: str
    version: str
    seed: int
    row: int
    first: int
    passes: int
    sites: list[SiteMasks]


class MasksQuery(BaseModel):
    """The query of masks."""

    model_config = ConfigDict(extra="forbid")

    seed: int = Field(ge=0, lt=2**64, description="That of the prediction.")
    row: int = Field(0, ge=0, lt=2**63, description="The row's index in the request.")
    first: int = Field(0, ge=0, lt=2**31, description="The first pass, from 0.")
    passes: int = Field(1, ge=1, le=1000, description="How many passes.")
    units: int = Field(256, ge=1, le=4096, description="The most units that are shown of a site, at even distances.")
    p: float | None = Field(None, gt=0, lt=1, allow_inf_nan=False, description="As that of the prediction.")


class Health(BaseModel):
    """Whether the process is up, and what may serve."""

    status: str
    models: dict[str, str] | None = None
