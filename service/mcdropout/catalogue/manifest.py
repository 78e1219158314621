"""Manifests: what a bundle's `model.yaml` may say."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from mcdropout.catalogue.document import DocumentError, read_document
from mcdropout.catalogue.inputs import Input
from mcdropout.catalogue.problems import described
from mcdropout.catalogue.records import (
    AddedDropout,
    Axis,
    Dropout,
    Image,
    NotTruth,
    Passes,
    Positive,
    Preprocessing,
    Rates,
    Record,
    Share,
    SizeRange,
)
from mcdropout.engine import Selection
from mcdropout.engine.arrays import Array
from mcdropout.engine.bundled import COMPILED, NAME
from mcdropout.engine.inputs import Bounds, Inputs, Shapes
from mcdropout.engine.reading import Entry, Form, LikelihoodName, Noise, Reading, Task
from mcdropout.engine.sizes import Named

MANIFEST = "model.yaml"
_MOST_FAULTS = 10  # that are named at once


class BundleError(Exception):
    """A bundle cannot be read. The message names file and field, what was found, and what would be accepted."""


class Output(Record):
    """What a network returns, and what of it counts.

    Attributes:
        entry: which entry of what it returns holds the logits, or the mean of a regression: a key, an attribute, a
            position, or a path further down (`boxes.scores`). All tensors that it returns, where not given.
        form: whether these are logits, probabilities or their logarithms; found out where not given.
        classes: the dimension that holds the classes or labels, the rows being 0, -1 the last; found out where not
            given.
        quantiles: for a regression that predicts quantiles in place of a mean, their levels, ascending.
        along: the dimension that holds the quantiles, where one entry holds them all; found out where not given.
        mean: for a regression that predicts its noise, the entry of the mean; beside it stands one of log_variance,
            variance, std, log_scale and scale.
        log_variance, variance, std, log_scale, scale: for a regression that predicts its noise as this, the entry of
            it, beside mean; the scale is the likelihood's own, of a Gaussian the standard deviation.
    """

    SHORT = ({"type": ["string", "integer", "null"]},)

    entry: Entry | None = None
    form: Form | None = Field(default=None, alias="as")
    classes: Annotated[int, Field(strict=True)] | None = None
    quantiles: Annotated[list[Share], Field(min_length=2)] | None = None
    along: Annotated[int, Field(strict=True)] | None = None
    mean: Entry | None = None
    log_variance: Entry | None = None
    variance: Entry | None = None
    std: Entry | None = None
    log_scale: Entry | None = None
    scale: Entry | None = None

    @field_validator("entry", "mean", *get_args(Noise), mode="before")
    @classmethod
    def _names_an_entry(cls, value: Any) -> Any:
        if value is not None and type(value) not in (str, int):
            raise ValueError(f"is {value!r}; a key, an attribute, a position or a path of what it returns is accepted")
        return value

    @model_validator(mode="after")
    def _says_one_thing(self) -> "Output":
        noises = self.noises
        if (self.mean is None) != (not noises) or len(noises) > 1:
            given = [name for name in ("mean", *get_args(Noise)) if getattr(self, name) is not None]
            raise ValueError(
                f"{' and '.join(given)} is given; mean with one of {', '.join(get_args(Noise))} is accepted"
            )
        if self.mean is not None and (self.entry is not None or self.form or self.classes is not None):
            raise ValueError("mean is given with entry, as or classes; those are accepted without it")
        if self.quantiles is not None and (self.mean is not None or self.form or self.classes is not None):
            raise ValueError("quantiles are given with mean, as or classes; those are accepted without them")
        if self.quantiles is not None and self.quantiles != sorted(set(self.quantiles)):
            raise ValueError(f"quantiles is {self.quantiles}; levels that ascend are accepted")
        if self.along is not None and self.quantiles is None:
            raise ValueError(f"along is {self.along} without quantiles, which it is for; both are accepted together")
        return self

    @property
    def noises(self) -> list[Noise]:
        """What is said to be the noise."""
        return [name for name in get_args(Noise) if getattr(self, name) is not None]

    @property
    def entries(self) -> Entry | tuple[Entry, Entry] | None:
        """What counts, as the engine takes it."""
        return self.entry if self.mean is None else (self.mean, getattr(self, self.noises[0]))


class Manifest(Record):
    """What `model.yaml` says.

    Attributes:
        name: the model's name, which is its folder's.
        version: any text; every answer carries it.
        description: any text, which `GET /models/{name}` shows.
        task: "classification", "binary", "multilabel" or "regression".
        labels: the names of the classes, or labels, in the order of the network's outputs; for "binary" the two of no
            and yes. Their numbers where not given.
        input: what a client sends, for a network of one input.
        inputs: what a client sends, for a network of several inputs, in the order in which it takes them.
        sizes: for each name in the shapes of inputs, of a size that differs from row to row, what is accepted.
        inputs_by: whether the network takes its inputs by "position", or by "keyword": as `forward(name=...)`.
        output: what the network returns, and what of it counts; an entry alone is short for `{entry: ...}`.
        output_row_axis: the dimension that holds the rows in what the network returns.
        dropout: which sites are on, and with which p.
        passes: default and most stochastic passes.
        rates: which p requests may have sites drop with in place of their own; none but their own where not given.
        model: the network as a file in the bundle: ONNX (`.onnx`), a `torch.export` archive (`.pt2`) or TorchScript
            (`.pt`, `.ts`); or "compiled", where the bundle holds no network but what `compiled/` has. network and
            weights are in place of it.
        network: `file.py:Name`, a class or function in the bundle that returns the network.
        arguments: what `network` is called with.
        weights: a file in the bundle, what `network` learned: `.safetensors`, or a state dict that
            `torch.load(weights_only=True)` reads.
        preprocess: `file.py:name`, a function in the bundle that makes rows of what clients send.
        temperature: what logits are divided by.
        threshold: for "binary" and "multilabel", the mean probability from which on the answer is yes.
        likelihood: for regression, how the noise is distributed: "gaussian", "laplace" or "student_t".
        df: for "student_t", its degrees of freedom, more than 2.
        noise_variance: for regression, the variance of the noise (`1 / tau`) where the network predicts none.
        interval: for regression, the share of the predictive distribution that the interval holds; none for no
            interval, which saves its time and memory.
    """

    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    version: Annotated[str, Field(min_length=1, max_length=100)]
    description: str = ""
    task: Task
    labels: list[str] | None = None
    input: Input | None = None
    inputs: Annotated[list[Input], Field(min_length=1)] | None = None
    sizes: dict[str, SizeRange] = Field(default={})
    inputs_by: Literal["position", "keyword"] = "position"
    output: Output = Output()
    output_row_axis: Axis = 0
    dropout: Dropout = Dropout()
    passes: Passes = Passes()
    rates: Rates | None = None
    model: Annotated[str, Field(pattern=r"(\.(onnx|pt2|pt|ts)|^compiled)$")] | None = None
    network: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*\.py:[A-Za-z_]\w*$")] | None = None
    arguments: dict[str, Any] = Field(default={})
    weights: str | None = None
    preprocess: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*\.py:[A-Za-z_]\w*$")] | None = None
    temperature: Positive = 1.0
    threshold: Share = 0.5
    likelihood: LikelihoodName = "gaussian"
    df: Annotated[float, Field(gt=2, allow_inf_nan=False), NotTruth] | None = None
    noise_variance: Positive | None = None
    interval: Share | None = 0.95

    @field_validator("output", mode="before")
    @classmethod
    def _entry_alone(cls, value: Any) -> Any:
        return value if isinstance(value, dict | Output) else {} if value is None else {"entry": value}

    @field_validator(
        "interval",
        mode="before",
        json_schema_input_type=Share | Literal["none"] | None,
    )
    @classmethod
    def _is_a_share_or_none(cls, value: Any) -> Any:
        if value is None or value == "none":
            return None
        try:
            share = None if isinstance(value, bool) else float(value)  # YAML takes 9e-1 for text
        except (TypeError, ValueError, OverflowError):
            share = None
        if share is None or not 0.0 < share < 1.0:
            raise ValueError(f"is {value!r}; a number between 0 and 1, or none, is accepted")
        return share

    @model_validator(mode="after")
    def _network_is_given_once(self) -> "Manifest":
        given = [name for name in ("model", "network", "weights") if getattr(self, name) is not None]
        if given not in (["model"], ["network", "weights"]):
            raise ValueError(
                f"of model, network and weights, {' and '.join(given) or 'none'} is given; model, or network and "
                "weights, are accepted"
            )
        if self.model is not None and self.arguments:
            raise ValueError("arguments are given; they are accepted with network, which is called with them")
        return self

    @property
    def is_onnx(self) -> bool:
        """Whether the network is an ONNX file."""
        return self.model is not None and self.model.endswith(".onnx")

    @property
    def is_compiled_alone(self) -> bool:
        """Whether the bundle holds no network but what was compiled of it, as `Engine.save_bundle` writes it."""
        return self.model == COMPILED

    @property
    def needs_pytorch(self) -> bool:
        """Whether the network itself is one of PyTorch."""
        return not self.is_onnx and not self.is_compiled_alone

    @property
    def reading(self) -> Reading:
        """What the network's outputs mean, as the engine takes it."""
        output = self.output
        return Reading(
            self.task,
            output.form,
            output.classes,
            None if self.labels is None or self.task == "binary" else len(self.labels),
            temperature=self.temperature,
            threshold=self.threshold,
            noise=next(iter(output.noises), None),
            likelihood=self.likelihood,
            df=self.df,
            noise_variance=self.noise_variance,
            interval=self.interval,
            quantiles=None if output.quantiles is None else tuple(output.quantiles),
            quantile_axis=output.along,
        )

    @model_validator(mode="after")
    def _output_fits_the_task(self) -> "Manifest":
        is_regression = self.task == "regression"
        if not is_regression and self.output.quantiles is not None:
            raise ValueError(f"output has quantiles, which are of a regression; none are for {self.task}")
        if self.output.quantiles is not None and (self.noise_variance is not None or self.likelihood != "gaussian"):
            raise ValueError("output has quantiles beside noise_variance or likelihood, which they are in place of")
        if not is_regression and self.output.mean is not None:
            raise ValueError(f"output has mean, which is for a regression; entry, as and classes are for {self.task}")
        if is_regression and (self.output.form or self.output.classes is not None):
            raise ValueError(
                "output has as or classes, which a regression has not; entry, or mean and noise, are accepted"
            )
        if not is_regression and self.likelihood != "gaussian":
            raise ValueError(f"likelihood is {self.likelihood}, which is for a regression; none is for {self.task}")
        if (self.likelihood == "student_t") != (self.df is not None):
            raise ValueError(f"df is {self.df} and likelihood {self.likelihood}; df is accepted with student_t, alone")
        if self.labels is not None and is_regression:
            raise ValueError(f"labels is {self.labels}, which a regression has not; no labels are accepted")
        if self.labels is not None and self.task == "binary" and len(self.labels) != 2:
            raise ValueError(f"labels has {len(self.labels)} entries; for binary the two of no and yes are accepted")
        return self

    @model_validator(mode="after")
    def _labels_fit_the_task(self) -> "Manifest":
        if self.task == "regression" and self.labels is not None:
            raise ValueError(
                f"labels are given ({len(self.labels)}), which are names of classes; for a regression none are accepted"
            )
        return self

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, value: list[str] | None) -> list[str] | None:
        if twice := [label for label in dict.fromkeys(value or ()) if (value or []).count(label) > 1]:
            raise ValueError(f"has {twice[0]!r} more than once; labels that differ are accepted")
        return value

    @model_validator(mode="after")
    def _inputs_are_named_once(self) -> "Manifest":
        if (self.input is None) == (self.inputs is None):
            found = "both are given" if self.input else "neither is given"
            raise ValueError(f"of input and inputs, {found}; one of them, inputs for a list of several, is accepted")
        names = [spec.name for spec in self.takes]
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise ValueError(f"inputs has more than one named {twice[0]!r}; names that differ are accepted")
        return self

    @model_validator(mode="after")
    def _sizes_are_of_names(self) -> "Manifest":
        used = {size for spec in self.takes for size in spec.shape if isinstance(size, str)}
        if used != set(self.sizes):
            raise ValueError(
                f"the shapes of inputs name the sizes {sorted(used)}, and sizes says what is accepted for "
                f"{sorted(self.sizes)}; the same names are accepted"
            )
        named = {name: Named(name, one.minimum, one.maximum, one.multiple) for name, one in self.sizes.items()}
        for spec in self.takes:
            spec.name_sizes(named)
        return self

    @model_validator(mode="after")
    def _compiled_is_as_it_is(self) -> "Manifest":
        if self.is_compiled_alone and (self.dropout != Dropout() or self.output.entries is not None):
            raise ValueError(
                "dropout or output is given with model: compiled, in which both are as they were compiled; neither, or "
                "the network itself in place of what was compiled, is accepted"
            )
        return self

    @model_validator(mode="after")
    def _bfloat16_is_for_pytorch(self) -> "Manifest":
        if self.is_onnx and self.halves:
            raise ValueError(
                f"the input {self.takes[min(self.halves)].name!r} has the dtype bfloat16, which is for PyTorch "
                "networks; float16, float32 and float64 are accepted for an ONNX file"
            )
        return self

    @property
    def halves(self) -> frozenset[int]:
        """The inputs, by position, that the network takes in bfloat16."""
        return frozenset(index for index, spec in enumerate(self.takes) if spec.dtype == "bfloat16")

    @property
    def takes(self) -> tuple[Input, ...]:
        """What a client sends, whether it is one input or several."""
        return (self.input,) if self.input else tuple(self.inputs or ())

    @property
    def selection(self) -> Selection:
        """`dropout` as the engine takes it."""
        dropout = self.dropout
        add = {pattern: added.model_dump() for pattern, added in dropout.add.items()}
        return Selection(tuple(dropout.include), tuple(dropout.exclude), dropout.p, add)

    @property
    def shapes(self) -> Shapes | None:
        """The shape of one row of each input as the engine takes it; None where none has a name in it."""
        if not self.sizes:
            return None
        if self.inputs_by == "position":
            return [tuple(spec.shape) for spec in self.takes]
        return {spec.name: tuple(spec.shape) for spec in self.takes}

    @property
    def bounds(self) -> Bounds | None:
        """`sizes` as the engine takes them."""
        return {name: (one.minimum, one.maximum, one.multiple) for name, one in self.sizes.items()} or None

    def for_network(self, rows: Sequence[Array]) -> Inputs:
        """Each input's rows, `[rows, *shape]`, as the network takes them: by name or position, rows in their place."""
        placed = [np.moveaxis(x, 0, spec.row_axis) for x, spec in zip(rows, self.takes, strict=True)]
        if self.inputs_by == "position":
            return tuple(placed)
        return {spec.name: x for x, spec in zip(placed, self.takes, strict=True)}


def read_manifest(path: Path) -> Manifest:
    """What a `model.yaml` says.

    Raises:
        BundleError: it is missing or wrong.
    """
    try:
        content = read_document(path)
    except FileNotFoundError:
        raise BundleError(f"{path}: is missing; a bundle is a folder that holds one") from None
    except DocumentError as error:
        raise BundleError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path}: holds {type(content).__name__}; a mapping of fields is accepted")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise BundleError(f"{path}: {'; '.join(_described(error, content))}") from error


_RECORDS: dict[int | str, type[BaseModel]] = {
    "input": Input,
    "inputs": Input,
    "preprocessing": Preprocessing,
    "image": Image,
    "values": Preprocessing,
    "passes": Passes,
    "rates": Rates,
    "dropout": Dropout,
    "add": AddedDropout,
    "output": Output,
    "sizes": SizeRange,
}


def _described(error: ValidationError, content: object) -> list[str]:
    """What is wrong with the fields of a manifest."""
    found: list[str] = []
    others: list[Any] = []
    for problem in error.errors():
        field = ".".join(map(str, problem["loc"])) or "(file)"
        if problem["type"] == "missing":
            found.append(f"{field}: is missing and required")
        elif problem["type"] == "value_error":  # our own, which say what was found
            found.append(f"{field}: {problem['ctx']['error']}")
        elif problem["type"] == "extra_forbidden":
            known = next((_RECORDS[part] for part in reversed(problem["loc"][:-1]) if part in _RECORDS), Manifest)
            found.append(f"{field}: is no known field; {', '.join(known.model_fields)} are accepted there")
        else:
            others.append(problem)
    found += [f"{field}: {what}" for field, what in described(others, content).items()]
    more = len(found) - _MOST_FAULTS
    return found if more <= 0 else [*found[:_MOST_FAULTS], f"and {more} more"]
