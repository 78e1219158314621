"""The extension for binary tensor data: behind the JSON the tensors as they lie in memory, in the order of the JSON."""

from collections.abc import Mapping
from typing import Any

from mcdropout.api.oip.json_text import RequestContent, RequestInput, read_content
from mcdropout.api.oip.tensor import InferRequest, Packed, Tensor, Wanted
from mcdropout.catalogue.checks import RowsError
from mcdropout.catalogue.problems import quoted
from mcdropout.predictions import InvalidAskError

HEADER = "Inference-Header-Content-Length"

_SIZE, _BINARY, _BINARY_OUTPUT = "binary_data_size", "binary_data", "binary_data_output"
_MOST_DIGITS, _SHOWN = 18, 100


def split(body: bytes, length: str | None) -> tuple[bytes, memoryview]:
    """A body's JSON, and what is behind it.

    Args:
        body: all of it.
        length: the header that says how many bytes of it are JSON; None where all are.

    Raises:
        RowsError: the header is no such number.
    """
    if length is None:
        return body, memoryview(b"")
    text = length.strip()
    if not (text.isascii() and text.isdigit()) or len(text) > _MOST_DIGITS or int(text) > len(body):
        raise RowsError(f"{HEADER} is {length[:_SHOWN]!r}; 0 to {len(body)}, the size of the body, is accepted")
    return body[: int(text)], memoryview(body)[int(text) :]


def read_request(text: bytes, behind: memoryview, name: str, version: str) -> InferRequest:
    """A request.

    Args:
        text: its JSON.
        behind: the tensors in binary.
        name, version: the model's, which it has to be for.

    Raises:
        RowsError: it is no JSON, no such request, or the tensors have other sizes than it says.
        InvalidAskError: it is for another model.
    """
    content = read_content(text)
    for field, given, wanted in (("name", content.model_name, name), ("version", content.model_version, version)):
        if given not in (None, "", wanted):
            raise InvalidAskError(f"model_{field} is {given[:_SHOWN]!r} in the body; {wanted!r} is accepted")
    parameters = dict(content.parameters)
    binary = parameters.pop(_BINARY_OUTPUT, False)
    outputs = [
        Wanted(output.name, _parameter(f"outputs.{output.name}", output.parameters, _BINARY, bool))
        for output in content.outputs
    ]
    _check_type(_BINARY_OUTPUT, binary, bool)
    return InferRequest(content.id, parameters, _tensors(content, behind), outputs, bool(binary))


def _tensors(content: RequestContent, behind: memoryview) -> list[Tensor]:
    tensors: list[Tensor] = []
    end = 0
    for given in content.inputs:
        size = _parameter(f"inputs.{given.name}", given.parameters, _SIZE, int)
        if size is None:
            tensors.append(Tensor(given.name, given.datatype, tuple(given.shape), _data_of(given)))
            continue
        if given.data is not None:
            raise RowsError(f"inputs.{given.name[:_SHOWN]} has data and {_SIZE}; one of the two is accepted")
        if not 0 <= size <= len(behind) - end:
            raise RowsError(
                f"inputs.{given.name[:_SHOWN]} has the {_SIZE} {size}; behind the JSON there are {len(behind)} bytes, "
                f"of which at most the {len(behind) - end} that no tensor has yet are accepted"
            )
        tensors.append(Tensor(given.name, given.datatype, tuple(given.shape), Packed(behind[end : end + size])))
        end += size
    if end != len(behind):
        raise RowsError(
            f"behind the JSON there are {len(behind)} bytes, and the tensors have {end} by their {_SIZE}; as many as "
            "these are accepted"
        )
    return tensors


def _data_of(given: RequestInput) -> Any:
    if given.data is None:
        raise RowsError(f"inputs.{given.name[:_SHOWN]} has no data; a list, or {_SIZE}, is accepted")
    if isinstance(given.data, str | int | float | dict):
        raise RowsError(f"the data of inputs.{given.name[:_SHOWN]} is {quoted(given.data)}; a list is accepted")
    return given.data


def _parameter(label: str, parameters: Mapping[str, Any], name: str, kind: type) -> Any:
    """The one parameter that a tensor may have."""
    for other in parameters:
        if other != name:
            raise RowsError(f"{label[:_SHOWN]} has the parameter {other[:_SHOWN]!r}; {name} is accepted")
    value = parameters.get(name)
    if value is not None:
        _check_type(f"{name} of {label[:_SHOWN]}", value, kind)
    return value


def _check_type(label: str, value: Any, kind: type) -> None:
    if type(value) is not kind:
        accepted = "true or false" if kind is bool else "a whole number"
        raise RowsError(f"{label} is {quoted(value)}; {accepted} is accepted")
