"""Reading: an ONNX file as others wrote it, looked at with distrust before anything acts on what it says."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import NodeProto, TensorProto, helper, inliner, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from mcdropout.engine.errors import UnsupportedModelError, first_line
from mcdropout.engine.onnx.dataflow import every_node, subgraphs
from mcdropout.engine.onnx.read.tensors import TensorFiles, every_tensor, stated_bytes

LARGEST_FILE = 2**31 - 1
"""Bytes that a file of Protocol Buffers can have at most."""
OLDEST_OPSET = 7
_MOST_ELEMENTS = 2**31
_DEEPEST = 16
_MOST_NODES = 1_000_000
_MOST_DIMENSIONS = 64
_SHAPE_INPUTS = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0, "Tile": 1}
_LARGE = 1024  # bytes; what shapes are inferred from is smaller
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")


def read_model(path: Path) -> onnx.ModelProto:
    """Read a model, with all its tensors in memory and its functions written out.

    Args:
        path: the file; tensors may lie in other files of its folder.

    Raises:
        UnsupportedModelError: it is no ONNX model, its parts contradict one another, it reaches for files outside its
            folder, or it needs operators that there are none of.
    """
    model = _parsed(path)
    _check_text(model, path)
    _state_versions(model)
    _check_operators(model, path)
    _check_functions(model, path)
    files = TensorFiles(path)
    for tensor in every_tensor(model):
        files.load(tensor)
    _check_stated_shapes(model, path)
    for sparse in model.graph.sparse_initializer:
        if stated_bytes(TensorProto(dims=sparse.dims, data_type=sparse.values.data_type)) > LARGEST_FILE:
            raise UnsupportedModelError(
                f"{path.name}: the sparse tensor {sparse.values.name!r} has the shape {list(sparse.dims)}; up to 2 GB "
                "would be accepted"
            )
    return _checked(model, path)


def _parsed(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise UnsupportedModelError(f"{path} is no file; an ONNX model would be accepted")
    if (size := path.stat().st_size) > LARGEST_FILE:
        raise UnsupportedModelError(
            f"{path.name} has {size:,} bytes; up to {LARGEST_FILE:,} are accepted, and more in files of external data"
        )
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise UnsupportedModelError(
            f"{path.name} is no ONNX model, or was cut off ({size:,} bytes): {error}; a file that onnx.load reads "
            "would be accepted"
        ) from error
    if not model.graph.node or not model.graph.output:
        raise UnsupportedModelError(
            f"{path.name} holds no graph of operators ({size:,} bytes); a model that onnx.checker accepts would be"
        )
    return model


def _check_text(message: Message, path: Path) -> None:
    """Names must be text, which a parser does not look after."""
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in value if field.is_repeated else (value,):
                _check_text(inner, path)
        elif field.type == FieldDescriptor.TYPE_STRING:
            for text in value if field.is_repeated else (value,):
                if not isinstance(text, str) and field.name != "doc_string":
                    raise UnsupportedModelError(
                        f"{path.name} holds {text!r} as the {field.name} of a {message.DESCRIPTOR.name}; text in UTF-8 "
                        "is accepted"
                    )


def _state_versions(model: onnx.ModelProto) -> None:
    """Where a model uses operators of a domain without saying of which version, say what ONNX Runtime takes: the last.

    Exporters of scikit-learn leave that out; the checker would call such a model invalid.
    """
    stated = {_domain(opset.domain) for opset in model.opset_import}
    used = {_domain(node.domain) for node in _all_nodes(model)}
    for domain in (used & {_domain(name) for name in _DOMAINS}) - stated if stated else ():
        versions = [schema.since_version for schema in get_all_operator_schema() if schema.domain == domain]
        model.opset_import.append(helper.make_opsetid(domain, max(versions)))


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _check_stated_shapes(model: onnx.ModelProto, path: Path) -> None:
    """Shapes that are written down must be of a likely size: whoever infers others from them believes them."""
    constants = {x.name: x for x in model.graph.initializer}
    constants |= {
        node.output[0]: x.t
        for node in _all_nodes(model)
        for x in node.attribute
        if node.op_type == "Constant" and x.HasField("t")
    }
    for node in _all_nodes(model):
        at = _SHAPE_INPUTS.get(node.op_type)
        shape = constants.get(node.input[at]) if at is not None and at < len(node.input) else None
        if shape is None or shape.data_type != TensorProto.INT64:
            continue
        sizes = numpy_helper.to_array(shape).ravel().tolist()
        if math.prod(max(size, 1) for size in sizes) > _MOST_ELEMENTS or len(sizes) > _MOST_DIMENSIONS:
            raise UnsupportedModelError(
                f"{path.name}: the node {node.name!r} ({node.op_type}) is to make a tensor of shape {sizes[:8]}; up to "
                f"{_MOST_ELEMENTS:,} elements are accepted"
            )


def _check_operators(model: onnx.ModelProto, path: Path) -> None:
    version = max((x.version for x in model.opset_import if x.domain in ("", "ai.onnx")), default=None)
    if version is not None and version < OLDEST_OPSET:
        raise UnsupportedModelError(
            f"{path.name} uses version {version} of the ONNX operators; {OLDEST_OPSET} or later is accepted: "
            "onnx.version_converter.convert_version rewrites a model"
        )
    own = {(function.domain, function.name) for function in model.functions}
    known = {schema.name for schema in get_all_operator_schema() if schema.domain == "com.microsoft"}
    for node in _all_nodes(model):
        name = f"{node.domain}::{node.op_type}"
        if (node.domain, node.op_type) in own:
            continue
        if node.domain not in _DOMAINS or (node.domain == "com.microsoft" and node.op_type not in known):
            raise UnsupportedModelError(
                f"{path.name}: the node {node.name!r} is the operator {name}, which ONNX Runtime does not know; "
                "operators of ONNX and those that come with ONNX Runtime are accepted"
            )
        if not any(node.output):
            raise UnsupportedModelError(f"{path.name}: the node {node.name!r} ({node.op_type}) has no output")


def _all_nodes(model: onnx.ModelProto) -> Iterator[NodeProto]:
    yield from every_node(model.graph.node)
    for function in model.functions:
        yield from every_node(function.node)


def _check_functions(model: onnx.ModelProto, path: Path) -> None:
    """Functions must end, and be of a size that can be written out; subgraphs must not be nested without end."""
    bodies = {(function.domain, function.name): function.node for function in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(name: tuple[str, str], around: tuple[tuple[str, str], ...]) -> int:
        if name in around:
            raise UnsupportedModelError(
                f"{path.name}: the function {'::'.join(name)} calls itself; functions that do not are accepted"
            )
        if name not in sizes:
            sizes[name] = total(bodies[name], (*around, name))
        return sizes[name]

    def total(nodes: Iterable[NodeProto], around: tuple[tuple[str, str], ...]) -> int:
        count = 0
        for node in every_node(nodes):
            called = (node.domain, node.op_type)
            count += size(called, around) if called in bodies else 1
        return count

    if (nodes := total(model.graph.node, ())) > _MOST_NODES:
        raise UnsupportedModelError(
            f"{path.name} has {nodes:,} nodes with its functions written out; up to {_MOST_NODES:,} are accepted"
        )
    for node in _all_nodes(model):
        _check_depth(node, 1, path)


def _check_depth(node: NodeProto, depth: int, path: Path) -> None:
    if depth > _DEEPEST:
        raise UnsupportedModelError(f"{path.name} nests graphs more than {_DEEPEST} deep; that many are accepted")
    for graph in subgraphs(node):
        for inner in graph.node:
            _check_depth(inner, depth + 1, path)


def _checked(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model with its functions written out, after ONNX's own checks, from which large tensors are kept away."""
    weights = {x.name: x for x in model.graph.initializer if len(x.raw_data) >= _LARGE}
    given = {value.name for value in model.graph.input}
    light = onnx.ModelProto()
    light.CopyFrom(model)
    del light.graph.initializer[:]
    light.graph.initializer.extend(x for x in model.graph.initializer if x.name not in weights)
    names = [x.name for x in (*model.graph.initializer, *(x.values for x in model.graph.sparse_initializer))]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UnsupportedModelError(f"{path.name} holds two tensors named {twice!r}; names must differ")
    stood_in = [name for name in weights if name not in given]
    for name in stood_in:
        kind, dims = weights[name].data_type, list(weights[name].dims)
        light.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, dims))
    try:
        onnx.checker.check_model(light, full_check=False)
        if light.functions:
            light = inliner.inline_local_functions(light)
        inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
    except Exception as error:  # whatever the checker, the inliner or shape inference find
        raise UnsupportedModelError(f"{path.name} is no valid ONNX model: {_told(error)}") from error
    for value in inferred.graph.value_info:
        elements = 1
        for size in value.type.tensor_type.shape.dim:
            elements *= max(size.dim_value, 1)
        if elements > _MOST_ELEMENTS:
            raise UnsupportedModelError(
                f"{path.name}: the value {value.name!r} has {elements:,} elements; up to {_MOST_ELEMENTS:,} are "
                "accepted"
            )
    kept = [value for value in light.graph.input if value.name not in stood_in]
    del light.graph.input[:]
    light.graph.input.extend(kept)
    light.graph.initializer.extend(weights.values())
    return light


def _told(error: Exception) -> str:
    """The checker's message, which is several lines, in one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("==>")]
    return " ".join(lines[:2]).rstrip(".") or first_line(error)
