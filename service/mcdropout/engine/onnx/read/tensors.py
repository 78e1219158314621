"""Tensors: what a file says of them held against the bytes that are there, within it or in files beside it."""

import math
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NoReturn

import onnx
from onnx import AttributeProto, TensorProto

from mcdropout.engine.errors import UnsupportedModelError

_BITS = {
    **dict.fromkeys(("FLOAT", "INT32", "UINT32"), 32),
    **dict.fromkeys(("DOUBLE", "INT64", "UINT64", "COMPLEX64"), 64),
    **dict.fromkeys(("FLOAT16", "BFLOAT16", "INT16", "UINT16"), 16),
    **dict.fromkeys(("INT8", "UINT8", "BOOL"), 8),
    **dict.fromkeys(("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0"), 8),
    **dict.fromkeys(("INT4", "UINT4", "FLOAT4E2M1"), 4),
    **dict.fromkeys(("INT2", "UINT2"), 2),
    "COMPLEX128": 128,
}
# The field that holds the numbers of a type that are not raw bytes; that of the others is `int32_data`.
_FIELDS = {
    "FLOAT": "float_data",
    "COMPLEX64": "float_data",
    "DOUBLE": "double_data",
    "COMPLEX128": "double_data",
    "INT64": "int64_data",
    "UINT32": "uint64_data",
    "UINT64": "uint64_data",
    "STRING": "string_data",
}


def every_tensor(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """All tensors of a model: of its graph, of graphs within, of attributes and of functions."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _of_attributes(node.attribute)
        yield from _of_attributes(function.attribute_proto)


def external_files(path: Path) -> set[Path]:
    """The files beside a graph that its tensors lie in."""
    model = onnx.load(path, load_external_data=False)
    entries = [entry for tensor in every_tensor(model) for entry in tensor.external_data]
    return {path.parent / entry.value for entry in entries if entry.key == "location"}


def _of_graph(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _of_attributes(node.attribute)


def _of_attributes(attributes: Iterable[AttributeProto]) -> Iterator[TensorProto]:
    for given in attributes:
        if given.HasField("t"):
            yield given.t
        yield from given.tensors
        for sparse in (*((given.sparse_tensor,) if given.HasField("sparse_tensor") else ()), *given.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for graph in (*((given.g,) if given.HasField("g") else ()), *given.graphs):
            yield from _of_graph(graph)


def _type_name(tensor: TensorProto) -> str:
    known: dict[int, str] = {value: name for name, value in TensorProto.DataType.items()}
    return known.get(tensor.data_type, f"type {tensor.data_type}")


def stated_bytes(tensor: TensorProto) -> int:
    """The memory that a tensor of the stated type and shape takes, in bytes; of strings, their count."""
    name = _type_name(tensor)
    count: int = math.prod(tensor.dims)
    return count if name == "STRING" else -(-count * _BITS.get(name, 8) // 8)


class TensorFiles:
    """The files beside a model that hold its tensors."""

    def __init__(self, path: Path) -> None:
        self._model = path.name
        self._folder = path.parent
        self._sizes: dict[Path, int] = {}
        self._taken = 0

    def load(self, tensor: TensorProto) -> None:
        """Check a tensor, and bring it into memory where it lies in a file.

        Raises:
            UnsupportedModelError: what it says and what is there differ; or it lies where it must not.
        """
        name = _type_name(tensor)
        if any(size < 0 for size in tensor.dims) or (name not in _BITS and name != "STRING"):
            self._refuse(
                tensor, f"is of type {name} and shape {list(tensor.dims)}", "sizes of 0 or more of a known type"
            )
        if tensor.HasField("segment"):
            self._refuse(tensor, "is stored in segments", "a tensor in one piece")
        wanted = stated_bytes(tensor)
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            self._load_file(tensor, wanted)
            return
        found, unit = len(tensor.raw_data), "bytes"
        if not tensor.raw_data:
            field = _FIELDS.get(name, "int32_data")
            found, unit = len(getattr(tensor, field)), "numbers"
            wanted = math.prod(tensor.dims) * (2 if name.startswith("COMPLEX") else 1)
            if name in _BITS and _BITS[name] < 8:
                wanted = stated_bytes(tensor)
        if found != wanted:
            self._refuse(
                tensor,
                f"has the shape {list(tensor.dims)} but {found:,} {unit}",
                f"{wanted:,} {unit}, as the shape says",
            )

    def _load_file(self, tensor: TensorProto, wanted: int) -> None:
        given = {entry.key: entry.value for entry in tensor.external_data}
        path = self._inside(tensor, given.get("location", ""))
        numbers = {}
        for what, default in (("offset", 0), ("length", wanted)):
            text = given.get(what, str(default))
            if not text.isascii() or not text.isdigit():
                self._refuse(tensor, f"has the {what} {text!r}", "a whole number of bytes")
            numbers[what] = int(text)
        offset, length = numbers["offset"], numbers["length"]
        if length != wanted:
            self._refuse(tensor, f"has the shape {list(tensor.dims)} but {length:,} bytes", f"{wanted:,} bytes")
        size = self._sizes.setdefault(path, path.stat().st_size)
        if offset + length > size:
            self._refuse(
                tensor,
                f"takes the bytes {offset:,} to {offset + length:,} of {path.name}, which has {size:,}",
                "a place within the file",
            )
        self._taken += length
        if self._taken > sum(self._sizes.values()):
            self._refuse(tensor, f"shares its bytes in {path.name} with others", "a place of its own for each tensor")
        with path.open("rb") as file:
            file.seek(offset)
            tensor.raw_data = file.read(length)
        del tensor.external_data[:]
        tensor.data_location = TensorProto.DEFAULT

    def _inside(self, tensor: TensorProto, location: str) -> Path:
        """The file at `location`, if that is one of the model's own folder."""
        posix, windows = PurePosixPath(location), PureWindowsPath(location)
        accepted = "a relative path to a file in the model's folder"
        outside = posix.is_absolute() or windows.is_absolute() or windows.drive or windows.root
        if not location or outside or ".." in posix.parts or ".." in windows.parts or "\0" in location:
            self._refuse(tensor, f"lies at {location!r}", accepted)
        path = self._folder / location
        try:
            real = path.resolve(strict=True)
        except OSError as error:
            self._refuse(tensor, f"lies in {location!r}, which is not there ({type(error).__name__})", accepted)
        if not real.is_relative_to(self._folder.resolve()) or not stat.S_ISREG(os.stat(real).st_mode):
            self._refuse(tensor, f"lies in {location!r}, which is no file within the folder", accepted)
        return real

    def _refuse(self, tensor: TensorProto, found: str, accepted: str) -> NoReturn:
        raise UnsupportedModelError(
            f"{self._model}: the tensor {tensor.name or '(unnamed)'!r} {found}; {accepted} would be accepted"
        )
