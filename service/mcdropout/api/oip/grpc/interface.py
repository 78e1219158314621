"""The protocol's messages. Their names and numbers are its own, as KServe publishes them (`package inference`).

They are made here, and not generated: generated modules take the version of protobuf that they were generated for.
"""

import re
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

PACKAGE, SERVICE = "inference", "inference.GRPCInferenceService"

_TENSOR = ("string name = 1", "string datatype = 2", "repeated int64 shape = 3")
_PARAMETERS = "map<string, InferParameter> parameters = 4"
MESSAGES: dict[str, tuple[str, ...]] = {
    "ServerLiveRequest": (),
    "ServerLiveResponse": ("bool live = 1",),
    "ServerReadyRequest": (),
    "ServerReadyResponse": ("bool ready = 1",),
    "ModelReadyRequest": ("string name = 1", "string version = 2"),
    "ModelReadyResponse": ("bool ready = 1",),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": ("string name = 1", "string version = 2", "repeated string extensions = 3"),
    "ModelMetadataRequest": ("string name = 1", "string version = 2"),
    "ModelMetadataResponse": (
        "string name = 1",
        "repeated string versions = 2",
        "string platform = 3",
        "repeated ModelMetadataResponse.TensorMetadata inputs = 4",
        "repeated ModelMetadataResponse.TensorMetadata outputs = 5",
    ),
    "ModelMetadataResponse.TensorMetadata": _TENSOR,
    "InferParameter": (
        "oneof bool bool_param = 1",
        "oneof int64 int64_param = 2",
        "oneof string string_param = 3",
        "oneof double double_param = 4",
        "oneof uint64 uint64_param = 5",
    ),
    "InferTensorContents": (
        "repeated bool bool_contents = 1",
        "repeated int32 int_contents = 2",
        "repeated int64 int64_contents = 3",
        "repeated uint32 uint_contents = 4",
        "repeated uint64 uint64_contents = 5",
        "repeated float fp32_contents = 6",
        "repeated double fp64_contents = 7",
        "repeated bytes bytes_contents = 8",
    ),
    "ModelInferRequest": (
        "string model_name = 1",
        "string model_version = 2",
        "string id = 3",
        _PARAMETERS,
        "repeated ModelInferRequest.InferInputTensor inputs = 5",
        "repeated ModelInferRequest.InferRequestedOutputTensor outputs = 6",
        "repeated bytes raw_input_contents = 7",
    ),
    "ModelInferRequest.InferInputTensor": (*_TENSOR, _PARAMETERS, "InferTensorContents contents = 5"),
    "ModelInferRequest.InferRequestedOutputTensor": (
        "string name = 1",
        "map<string, InferParameter> parameters = 2",
    ),
    "ModelInferResponse": (
        "string model_name = 1",
        "string model_version = 2",
        "string id = 3",
        _PARAMETERS,
        "repeated ModelInferResponse.InferOutputTensor outputs = 5",
        "repeated bytes raw_output_contents = 6",
    ),
    "ModelInferResponse.InferOutputTensor": (*_TENSOR, _PARAMETERS, "InferTensorContents contents = 5"),
}
"""The fields of each message, as a .proto has them; those of a oneof are of one, `parameter_choice`."""

_FIELD = re.compile(r"(?:(repeated|oneof) )?(map<string, )?([\w.]+)>? (\w+) = (\d+)")


def _described(fields: tuple[str, ...], name: str) -> DescriptorProto:
    message = DescriptorProto(name=name.rpartition(".")[2])
    for text in fields:
        found = _FIELD.fullmatch(text)
        assert found is not None
        label, is_map, kind, field_name, number = found.groups()
        field = message.field.add(name=field_name, number=int(number))
        field.label = FieldDescriptorProto.LABEL_REPEATED if label == "repeated" or is_map else _OPTIONAL
        if label == "oneof":
            if not message.oneof_decl:
                message.oneof_decl.add(name="parameter_choice")
            field.oneof_index = 0
        if is_map:
            entry = message.nested_type.add(name=f"{field_name.title()}Entry")
            entry.options.map_entry = True
            _set_type(entry.field.add(name="key", number=1, label=_OPTIONAL), "string")
            _set_type(entry.field.add(name="value", number=2, label=_OPTIONAL), kind)
            kind = f"{name}.{entry.name}"
        _set_type(field, kind)
    return message


_OPTIONAL = FieldDescriptorProto.LABEL_OPTIONAL


def _set_type(field: Any, kind: str) -> None:
    if kind[0].isupper():
        field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    else:
        field.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")


def described_file() -> FileDescriptorProto:
    """All messages, as a compiler of .proto files would describe them."""
    file = FileDescriptorProto(name="mcdropout/inference.proto", package=PACKAGE, syntax="proto3")
    made: dict[str, Any] = {}
    for name, fields in MESSAGES.items():
        outer = name.rpartition(".")[0]
        made[name] = made[outer].nested_type.add() if outer else file.message_type.add()
        made[name].CopyFrom(_described(fields, name))
    return file


# A pool of its own: others in this process may know messages of the same names.
_POOL = DescriptorPool()
_POOL.AddSerializedFile(described_file().SerializeToString())


def message_class(name: str) -> Any:
    """The class of a message, such as `ModelInferRequest`."""
    return GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))
