"""Outputs: the statistics of an answer as named tensors; what is null is left out."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from mcdropout.api.formats.answers import fields_of, labels_of, mc_of, passes_of, samples_of
from mcdropout.api.oip.asking import PASSES, SAMPLES
from mcdropout.api.oip.datatypes import BYTES, name_of
from mcdropout.api.oip.tensor import Wanted
from mcdropout.predictions import Answered, InvalidAskError, Pause

_PART_NUMBERS = 2048
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Output:
    """A tensor of an answer.

    Attributes:
        name: of the statistic.
        values: `[rows, ...]`; of texts their numbers.
        texts: what these numbers stand for; None where they are the values.
    """

    name: str
    values: npt.NDArray[Any]
    texts: Sequence[str] | None = None

    @property
    def datatype(self) -> str:
        """What the protocol calls its type."""
        return name_of(self.values.dtype) if self.texts is None else BYTES

    def as_json(self, pause: Pause) -> bytes:
        """Its values as one list, the last dimension fastest, with pauses."""
        parts: list[bytes] = []
        for some in self._parts():
            values = some if self.texts is None else [self.texts[number] for number in some.tolist()]
            parts.append(orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1])
            pause()
        return b"[%b]" % b",".join(parts)

    def as_binary(self, pause: Pause) -> bytes:
        """Its values as they lie in memory, little-endian; before each text the number of its bytes. With pauses."""
        parts: list[bytes] = []
        packed = [] if self.texts is None else [_LENGTH.pack(len(text)) + text for text in map(str.encode, self.texts)]
        little = self.values.dtype.newbyteorder("<")
        for some in self._parts():
            if self.texts is None:
                parts.append(some.astype(little, copy=False).tobytes())
            else:
                parts += [packed[number] for number in some.tolist()]
            pause()
        return b"".join(parts)

    def _parts(self) -> Iterator[npt.NDArray[Any]]:
        flat = np.ascontiguousarray(self.values).ravel()
        return (flat[start : start + _PART_NUMBERS] for start in range(0, flat.size, _PART_NUMBERS))


def outputs_of(answered: Answered, wanted: Sequence[Wanted]) -> list[Output]:
    """The tensors that were asked for, in that order; all that are not null where none were named.

    Raises:
        InvalidAskError: one that is named is null, or was left out.
    """
    known = [name for name in answered.shown[0].prediction.values if _is_known(answered, name)]
    samples = samples_of(answered)
    there = [*known, PASSES, *([] if samples is None else [SAMPLES])]
    names = [one.name for one in wanted] or there
    for name in names:
        if name not in there:
            raise InvalidAskError(
                f"outputs names {name!r}, which is null for this model with mc={mc_of(answered.answer.plan)}, or left "
                f"out by fields, reduce or samples; of {', '.join(there)} each is accepted"
            )
    chosen = [name for name in names if name in known]
    arrays = fields_of(answered, chosen) if chosen else {}
    arrays[PASSES] = passes_of(answered)
    if samples is not None:
        arrays[SAMPLES] = samples
    return [Output(name, arrays[name], labels_of(answered.model, name)) for name in names]


def parameters_of(answered: Answered) -> dict[str, str | int | float]:
    """What an answer says beside its tensors."""
    plan = answered.answer.plan
    found: dict[str, str | int | float] = {"mc": mc_of(plan), "seed": answered.seed}
    if answered.p is not None:
        found["p"] = answered.p
    if plan.tolerance is not None:
        found["tolerance"] = plan.tolerance
    if plan.asked is not None:
        found["reduced_to"] = plan.passes
    return found


def _is_known(answered: Answered, name: str) -> bool:
    """Whether a statistic is a number anywhere: it is null for some models, and of one pass some are NaN."""
    parts = [shown.prediction.values[name] for shown in answered.shown]
    return all(part is not None for part in parts) and not all(
        part.dtype.kind == "f" and bool(np.isnan(part).all()) for part in parts if part is not None
    )
