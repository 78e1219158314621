"""Texts: the one BYTES tensor of which a model's own hook makes the rows of all its inputs."""

import struct
from collections.abc import Sequence
from typing import Any

from mcdropout.api.oip.datatypes import BYTES
from mcdropout.api.oip.tensor import Packed, Tensor, Typed
from mcdropout.catalogue.checks import RowsError, check_number
from mcdropout.catalogue.hooks import Hook, rows_of_raw
from mcdropout.catalogue.inputs import Input
from mcdropout.catalogue.problems import quoted
from mcdropout.engine.ragged import Rows
from mcdropout.predictions import Pause

_ALL = "inputs"
_FIELD = "bytes_contents"
_LENGTH = struct.Struct("<I")
_SHOWN, _MOST_SIZES = 100, 64


def name_of_texts(inputs: Sequence[Input]) -> str:
    """What the tensor of texts is called: as the model's one input, or, where it has several, `inputs`."""
    return inputs[0].name if len(inputs) == 1 else _ALL


def are_texts(tensors: Sequence[Tensor]) -> bool:
    """Whether a request holds texts."""
    return any(tensor.datatype == BYTES for tensor in tensors)


def rows_of_texts(
    tensors: Sequence[Tensor], inputs: Sequence[Input], hook: Hook, most: int | None, pause: Pause
) -> tuple[Rows, ...]:
    """The rows that a hook makes of a tensor's texts, as the network takes them.

    Args:
        tensors: the one tensor.
        inputs: what the model takes.
        hook: the model's.
        most: how many rows are accepted; None for any number.
        pause: called between parts.

    Raises:
        RowsError: there are other tensors, it holds something else, or the hook refuses it.
    """
    name = name_of_texts(inputs)
    if len(tensors) > 1 or tensors[0].name != name:
        found = [f"{tensor.name[:_SHOWN]} of {tensor.datatype[:_SHOWN]}" for tensor in tensors[:10]]
        raise RowsError(
            f"inputs holds {len(tensors)} tensors, {found}; {name!r} of BYTES alone, or numbers for each of "
            f"{[spec.name for spec in inputs]}, are accepted"
        )
    count = _count_of(tensors[0])
    check_number(count, most)
    texts = [_decoded(name, place, text) for place, text in enumerate(_texts_of(tensors[0], count))]
    pause()
    return rows_of_raw(hook, texts, inputs, most, pause)


def _count_of(tensor: Tensor) -> int:
    shape = tensor.shape
    if len(shape) not in (1, 2) or shape[0] < 1 or shape[1:] not in ((), (1,)):
        raise RowsError(
            f"inputs.{tensor.name} has the shape {list(shape[:_MOST_SIZES])}; [rows] or [rows, 1], of one text or "
            "more, is accepted"
        )
    return shape[0]


def _texts_of(tensor: Tensor, count: int) -> Sequence[Any]:
    """The texts of a tensor, as many as its shape says; in binary as bytes."""
    values = tensor.values
    if isinstance(values, Packed):
        return _unpacked(tensor.name, values.content, count)
    if isinstance(values, Typed):
        if more := set(values.contents) - {_FIELD}:
            raise RowsError(f"inputs.{tensor.name} has {' and '.join(sorted(more))}; for BYTES {_FIELD} is accepted")
        found = values.contents.get(_FIELD, ())
    elif isinstance(values, list):
        found = [one[0] if isinstance(one, list) and len(one) == 1 else one for one in values]
    else:
        raise RowsError(f"the data of inputs.{tensor.name} holds numbers; texts are accepted")
    if len(found) != count:
        raise RowsError(f"inputs.{tensor.name} has {len(found)} texts; {count}, for its shape, are accepted")
    return found


def _unpacked(name: str, content: memoryview, count: int) -> list[bytes]:
    """Texts that lie behind one another, before each the number of its bytes."""
    texts: list[bytes] = []
    at = 0
    for place in range(count):
        start = at + _LENGTH.size
        size = _LENGTH.unpack_from(content, at)[0] if start <= len(content) else 0
        at = start + size
        if at > len(content):
            raise RowsError(
                f"inputs.{name} ends within its text {place}: {len(content)} bytes are there; {count} texts, before "
                "each the number of its bytes in 4 bytes, are accepted"
            )
        texts.append(bytes(content[start:at]))
    if at != len(content):
        raise RowsError(f"inputs.{name} has {len(content)} bytes, and its {count} texts {at}; as many are accepted")
    return texts


def _decoded(name: str, place: int, text: Any) -> str:
    if isinstance(text, str):
        return text
    if not isinstance(text, bytes):
        raise RowsError(f"the data of inputs.{name} holds {quoted(text)}; texts are accepted")
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise RowsError(f"the text {place} of inputs.{name} is no UTF-8 ({error.reason}); UTF-8 is accepted") from error
