"""What a wire format is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mcdropout.catalogue.inputs import Input
from mcdropout.engine.ragged import Rows
from mcdropout.predictions import Answered, Pause


@dataclass(frozen=True)
class Header:
    """A header of requests that says what a body holds.

    Attributes:
        name: as documents have it, such as X-Shape.
        description: one sentence for the API's documentation.
        example: a value.
    """

    name: str
    description: str
    example: str


@dataclass(frozen=True)
class Written:
    """An answer's body, with what is sent along.

    Attributes:
        content: the body.
        headers: to send along.
        media_type: where it is another one than the first of its format.
    """

    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str | None = None


@dataclass(frozen=True)
class Format:
    """How rows come in and answers go out.

    Attributes:
        name: what it is called.
        media_types: what it is known by; answers are sent with the first.
        read: from a body to `[rows, ...]` for each input, as the network takes them, or, where rows are of several
            sizes, a row after another. Called with the body, what the model takes, how many rows are accepted (None for
            any number), and a pause between parts; and with the values of `headers`, as `headers=`, where it has any.
            It raises `RowsError` where the body holds something else. None where answers alone come in this format.
        write: from an answer to a body, or to a body with headers. Called with the answer, and a pause between parts.
            It raises `InvalidAskError` where the format cannot hold the answer. None where bodies alone come in it.
        body_schema: of a request's body, as OpenAPI has it.
        answer_schema: of an answer's.
        headers: of a request, that say what its body holds; `read` gets those that there are by their names.
        takes: whether models of such inputs can be asked in it.
        grows: whether what a small body holds may be large: it is then read as a large one is.
        is_prepared: whether bodies may hold what a model's own hook makes rows of; `read` gets that, as `hook=`, where
            the model has one.
        compressible: whether large answers are worth compressing, where a client takes them so.
        answer_headers: what is sent along with an answer: names, and a sentence for the API's documentation.
    """

    name: str
    media_types: tuple[str, ...]
    read: Callable[..., tuple[Rows, ...]] | None
    write: Callable[[Answered, Pause], bytes | Written] | None
    body_schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    answer_schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    headers: tuple[Header, ...] = ()
    takes: Callable[[Sequence[Input]], bool] = lambda inputs: True
    grows: Callable[[bytes], bool] = lambda body: False
    is_prepared: bool = False
    compressible: bool = False
    answer_headers: Mapping[str, str] = field(default_factory=dict)
