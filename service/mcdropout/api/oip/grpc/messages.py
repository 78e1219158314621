"""Messages: a request as it came, and an answer as it goes."""

from typing import Any

from google.protobuf.message import DecodeError

from mcdropout.api.errors import ProblemError
from mcdropout.api.oip.grpc.interface import message_class
from mcdropout.api.oip.outputs import outputs_of, parameters_of
from mcdropout.api.oip.tensor import InferRequest, Packed, Tensor, Typed, Values, Wanted
from mcdropout.catalogue.checks import RowsError
from mcdropout.predictions import Answered, Pause

_REQUEST, _RESPONSE = message_class("ModelInferRequest"), message_class("ModelInferResponse")
_MOST_FIELDS = 10_000  # of a request, in some tensors; each takes many times the bytes that it has in the message
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5  # the types of what is on the wire
_MOST_INT64, _SHOWN = 2**63 - 1, 100


def parsed(kind: Any, content: bytes) -> Any:
    """A message of a kind.

    Raises:
        ProblemError: the content is no such message, or one of far too many fields.
    """
    name = kind.DESCRIPTOR.name
    try:
        count = _fields_in(memoryview(content), kind.DESCRIPTOR, 0)
        if count > _MOST_FIELDS:
            raise ProblemError(
                422, f"the message has more than {_MOST_FIELDS} fields; a {name} of fewer, numbers packed, is accepted"
            )
        return kind.FromString(content)
    except (DecodeError, IndexError, ValueError) as error:
        raise ProblemError(400, f"the message is no {name} ({error}); one is accepted") from error


def _fields_in(content: memoryview, descriptor: Any, count: int) -> int:
    """How many fields there are in a message and those in it, beside `count`; some more than the most are enough."""
    at = 0
    while at < len(content) and count <= _MOST_FIELDS:
        tag, at = _varint(content, at)
        count += 1
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            _, at = _varint(content, at)
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        elif wire == _DELIMITED:
            size, at = _varint(content, at)
            field = descriptor.fields_by_number.get(number)
            if field is not None and field.message_type is not None:
                count = _fields_in(content[at : at + size], field.message_type, count)
            at += size
    return count


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    """A number of the wire, and where it ends."""
    value = shift = 0
    while shift < 70:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a number of more than 10 bytes")


def read_infer(content: bytes) -> tuple[str, str, InferRequest]:
    """The model and the version that a request names, and what it asks of these.

    Raises:
        ProblemError: it is no request.
        RowsError: its tensors do not fit together.
    """
    message = parsed(_REQUEST, content)
    parameters = {name: _parameter(f"parameters.{name}", value) for name, value in message.parameters.items()}
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise RowsError(
            f"raw_input_contents has {len(raw)} entries and inputs {len(message.inputs)}; one for each is accepted"
        )
    for kind, tensors in (("inputs", message.inputs), ("outputs", message.outputs)):
        for tensor in tensors:
            if tensor.parameters:
                raise RowsError(
                    f"{kind}.{tensor.name[:_SHOWN]} has the parameter {next(iter(tensor.parameters))[:_SHOWN]!r}; none "
                    "is accepted"
                )
    inputs = [
        Tensor(one.name, one.datatype, tuple(one.shape), _values_of(one, raw[place] if raw else None))
        for place, one in enumerate(message.inputs)
    ]
    outputs = [Wanted(one.name) for one in message.outputs]
    return message.model_name, message.model_version, InferRequest(message.id, parameters, inputs, outputs)


def _parameter(label: str, value: Any) -> Any:
    choice = value.WhichOneof("parameter_choice")
    if choice is None:
        raise RowsError(f"{label[:_SHOWN]} has no value; text, a number, true or false is accepted")
    return getattr(value, choice)


def _values_of(tensor: Any, raw: bytes | None) -> Values:
    contents = {field.name: values for field, values in tensor.contents.ListFields()}
    if raw is None:
        return Typed(contents)
    if contents:
        raise RowsError(
            f"inputs.{tensor.name[:_SHOWN]} has {' and '.join(contents)} beside raw_input_contents; one of the two is "
            "accepted"
        )
    return Packed(memoryview(raw))


def written_infer(answered: Answered, asked: InferRequest, pause: Pause) -> bytes:
    """An answer, its tensors as they lie in memory."""
    message = _RESPONSE(model_name=answered.model.name, model_version=answered.model.version, id=asked.id)
    for name, value in parameters_of(answered).items():
        setattr(message.parameters[name], _choice_of(value), value)
    for output in outputs_of(answered, asked.outputs):
        message.outputs.add(name=output.name, datatype=output.datatype, shape=output.values.shape)
        message.raw_output_contents.append(output.as_binary(pause))
        pause()
    content: bytes = message.SerializeToString()
    return content


def _choice_of(value: str | int | float) -> str:
    if isinstance(value, str):
        return "string_param"
    if isinstance(value, float):
        return "double_param"
    return "int64_param" if value <= _MOST_INT64 else "uint64_param"
