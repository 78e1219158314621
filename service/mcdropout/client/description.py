"""What a service says of its models: `GET /models` and `GET /models/{name}`, as far as a client reads them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mcdropout.client.errors import UnexpectedAnswerError


@dataclass(frozen=True)
class ModelSummary:
    """A model in a list.

    Attributes:
        name, version: which; the version is None where it is not ready.
        state: "loading", "ready" (also while it is reloaded), "failed" or "unloaded".
        default: whether it answers where no model is named.
        error: why it does not serve.
        last_error: why its bundle could not be loaded when that was last tried.
    """

    name: str
    version: str | None
    state: str
    default: bool
    error: str | None
    last_error: str | None


@dataclass(frozen=True)
class InputDescription:
    """What a model takes for each row.

    Attributes:
        name: what it is called.
        shape: of one row; empty for one value a row. A name in place of a size is of one that differs from row to row.
        dtype: what the network takes.
        minimum, maximum: the values accepted; None for any.
        missing: whether values may be missing: "allowed" or "refused".
        columns: the names of a row's values; None where they have none.
        categories: by column, the texts that it takes, and the number of each.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    minimum: float | None
    maximum: float | None
    missing: str
    columns: tuple[str, ...] | None = None
    categories: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def takes_whole_numbers(self) -> bool:
        """Whether it takes no fractions."""
        return "int" in self.dtype


@dataclass(frozen=True)
class ModelDescription:
    """All about a model; what comes of its network is None until it is ready.

    Attributes:
        name, version, state, default, error, last_error: as in `ModelSummary`.
        task: "classification", "binary", "multilabel" or "regression".
        labels: of its classes; None where it has no names for them.
        inputs: what it takes.
        sizes: for each name in their shapes the sizes accepted: minimum, maximum, multiple.
        passes: how many a row gets: default, maximum.
        statistics: the names of what it answers for each row.
        formats: media types of the bodies that it takes.
        takes_texts: whether its service makes rows of texts that are sent.
        document: all that the service says, its sites, its program and their checks among it.
    """

    name: str
    version: str | None
    state: str
    default: bool
    error: str | None
    last_error: str | None
    task: str | None
    labels: tuple[str, ...] | None
    inputs: tuple[InputDescription, ...] | None
    sizes: Mapping[str, Mapping[str, int]] | None
    passes: Mapping[str, int] | None
    statistics: tuple[str, ...] | None
    formats: tuple[str, ...] | None
    takes_texts: bool
    document: Mapping[str, Any] = field(repr=False)


_SUMMARY = ("name", "version", "state", "default", "error", "last_error")
_ACCEPTED = "that of an mcdropout service is accepted"


def read_models(document: Mapping[str, Any]) -> tuple[ModelSummary, ...]:
    """The models of a list.

    Raises:
        UnexpectedAnswerError: it is no list of models.
    """
    try:
        return tuple(ModelSummary(**_summary(model)) for model in document["models"])
    except (KeyError, TypeError, AttributeError) as error:
        raise UnexpectedAnswerError(f"the answer is no list of models; {_ACCEPTED}") from error


def read_description(document: Mapping[str, Any]) -> ModelDescription:
    """A model as it is described.

    Raises:
        UnexpectedAnswerError: it is no model's description.
    """
    try:
        output = document.get("output") or {}
        inputs, labels, statistics = document.get("inputs"), output.get("labels"), output.get("statistics")
        formats = document.get("formats")
        return ModelDescription(
            **_summary(document),
            task=document.get("task"),
            labels=None if labels is None else tuple(map(str, labels)),
            inputs=None if inputs is None else tuple(map(_input, inputs)),
            sizes=document.get("sizes"),
            passes=document.get("passes"),
            statistics=None if statistics is None else tuple(one["name"] for one in statistics),
            formats=None if formats is None else tuple(formats),
            takes_texts=document.get("preprocess") is not None,
            document=document,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UnexpectedAnswerError(f"the answer is no description of a model; {_ACCEPTED}") from error


def _summary(document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: document[name] for name in _SUMMARY}


def _input(document: Mapping[str, Any]) -> InputDescription:
    columns = document.get("columns")
    return InputDescription(
        name=document["name"],
        shape=tuple(document["shape"]),
        dtype=document["dtype"],
        minimum=document.get("minimum"),
        maximum=document.get("maximum"),
        missing=document.get("missing", "refused"),
        columns=None if columns is None else tuple(columns),
        categories=document.get("categories") or {},
    )
