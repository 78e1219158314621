"""What a wire format is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mcdropout.catalogue.inputs import Input
from mcdropout.engine.ragged import Rows
from mcdropout.predictions import Answered, Pause


@dataclass(frozen=True)
class Format:
    """How rows come in and answers go out.

    Attributes:
        name: what it is called.
        media_types: what it is known by; answers are sent with the first.
        read: from a body to `[rows, ...]` for each input, as the network takes them, or, where rows are of several
            sizes, a row after another. Called with the body, what the model takes, how many rows are accepted (None for
            any number), and a pause between parts. It raises `RowsError` where the body holds something else.
        write: from an answer to a body. Called with the answer, and a pause between parts.
        body_schema: of a request's body, as OpenAPI has it.
        answer_schema: of an answer's.
    """

    name: str
    media_types: tuple[str, ...]
    read: Callable[[bytes, Sequence[Input], int | None, Pause], tuple[Rows, ...]]
    write: Callable[[Answered, Pause], bytes]
    body_schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    answer_schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
