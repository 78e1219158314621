"""What the API takes and gives, as `/docs` shows it."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

Nested = list[Any]


class PredictQuery(BaseModel):
    """The query of a prediction."""

    model_config = ConfigDict(extra="forbid")

    mc: int | None = Field(
        None, ge=0, description="Stochastic passes; 0 for the deterministic baseline. The model's default if not given."
    )
    seed: int | None = Field(
        None, ge=0, lt=2**64, description="What the masks are drawn from; drawn if not given, and always returned."
    )
    samples: bool = Field(False, description="Whether to return every pass's output too.")


class PredictRequest(BaseModel):
    """The body of a prediction."""

    inputs: Nested = Field(description="One row, or a list of rows, of the shape that GET /models/{name} tells.")


class Timing(BaseModel):
    """Where the time went, in seconds."""

    queue_seconds: float = Field(description="Waiting for the engine.")
    compute_seconds: float = Field(description="The run that the request was part of.")


class ClassificationRow(BaseModel):
    """One row's classes. Null: what a deterministic pass (mc=0), or a single one (variance), cannot tell."""

    label: Any = Field(description="The most probable class.")
    mean: Nested = Field(description="Mean probability of each class over the passes.")
    variance: Nested | None = Field(description="Unbiased variance of each probability over the passes.")
    std_error: Nested | None = Field(description="Standard error of each mean: sqrt(variance / passes).")
    entropy: Any = Field(description="Predictive entropy, in nats: total uncertainty.")
    expected_entropy: Any = Field(description="Mean entropy of a pass, in nats: aleatoric uncertainty.")
    mutual_information: Any = Field(description="entropy - expected_entropy, in nats: epistemic uncertainty (BALD).")
    variation_ratio: Any = Field(description="Share of passes whose most probable class is not the most frequent one.")
    passes: int = Field(description="Passes that this row used.")
    samples: Nested | None = Field(None, description="Class probabilities of each pass; only where asked for.")


class RegressionRow(BaseModel):
    """One row's values. Null: what a deterministic pass, or a network that knows no noise, cannot tell."""

    mean: Any = Field(description="Mean over the passes.")
    variance: Any = Field(description="Epistemic and aleatoric variance together.")
    std_error: Any = Field(description="Standard error of the mean.")
    epistemic_variance: Any = Field(description="Unbiased variance of the predicted mean over the passes.")
    aleatoric_variance: Any = Field(description="Mean predicted variance of the noise, or the model's constant.")
    entropy: Any = Field(description="Entropy of the Gaussian with that variance, in nats.")
    interval: Any = Field(description="Lower and upper quantile of the predictive mixture.")
    passes: int = Field(description="Passes that this row used.")
    samples: Nested | None = Field(None, description="Predicted mean of each pass; only where asked for.")


class PredictResponse(BaseModel):
    """A prediction for each row of the request."""

    model: str
    version: str
    mc: int = Field(description="Stochastic passes asked for; 0 for the deterministic baseline.")
    seed: int = Field(description="Ask again with it for the same answer.")
    predictions: list[ClassificationRow | RegressionRow]
    timing: Timing


class ModelSummary(BaseModel):
    """A model in a list."""

    name: str
    version: str | None = Field(description="Null where the model is not ready.")
    state: str = Field(description='"loading", "ready" or "failed".')
    default: bool = Field(description="Whether it answers POST /predict.")
    error: str | None = Field(description="Why it failed.")


class ModelList(BaseModel):
    """All models."""

    models: list[ModelSummary]


class SiteDescription(BaseModel):
    """A place in the network that draws randomness."""

    path: str = Field(description="Module path.")
    call: int = Field(description="Which of that module's dropout calls.")
    kind: str
    p: float
    shape: list[int] = Field(description="Of the mask, for one row (scope row) or one pass (scope pass).")
    scope: str = Field(description='"row": each row draws its own; "pass": one for all rows of a request.')
    in_eval: bool = Field(description="Whether its module stays in eval mode.")


class FrontierDescription(BaseModel):
    """A tensor that crosses from what runs once a row to what runs once a pass."""

    shape: list[int]
    per_row: bool
    input: int | None = Field(description="Which input of the network it is; null where it is computed.")


class CheckDescription(BaseModel):
    """Something that was verified when the model was loaded."""

    name: str
    passed: bool
    detail: str


class ProgramDescription(BaseModel):
    """How the network runs."""

    strategy: str = Field(description='"split": what no mask touches runs once a row; "whole": all of it every pass.')
    runtime: str
    device: str
    reason: str | None = Field(description="Why nothing faster runs.")
    frontier: list[FrontierDescription]
    prefix_operations: int
    suffix_operations: int
    checks: list[CheckDescription]


class ModelDescription(ModelSummary):
    """All about a model; what comes of its network is null until it is ready."""

    description: str | None = None
    task: str | None = None
    input: dict[str, Any] | None = None
    output: dict[str, Any] | None = None
    passes: dict[str, int] | None = None
    sites: list[SiteDescription] | None = None
    program: ProgramDescription | None = None


class Health(BaseModel):
    """Whether the process is up, and what may serve."""

    status: str
    models: dict[str, str] | None = None
