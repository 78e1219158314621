"""ONNX: a graph in a file, which says itself what it takes."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from mcdropout.catalogue.making.answers import check_sizes, task_of
from mcdropout.catalogue.making.asking import Ask, Question
from mcdropout.catalogue.making.draft import Draft, DraftInput, Write
from mcdropout.catalogue.making.source import GivenShape, Source, SourceError, given_shape
from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.onnx.added import before_last_linear
from mcdropout.engine.onnx.dataflow import from_model
from mcdropout.engine.onnx.read.file import read_model

_DTYPES = {"float": "float32", "double": "float64", "float16": "float16", "bool": "bool"} | {
    name: name for name in ("int64", "int32", "int16", "int8", "uint16", "uint8")
}
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)
_ANSWERS = ("logits", "probabilities")  # what an output is often called that counts, among others
_ROWS = 3


def draft(source: Source, ask: Ask) -> Draft:
    path = source.path
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # of what is no protocol buffer, of many kinds
        raise SourceError(f"{path} cannot be read as an ONNX model: {error}") from error
    _check_tensors(source, graph)
    weights = {each.name for each in graph.initializer}
    given = [value for value in graph.input if value.name not in weights]
    inputs = _inputs(source, given, graph)
    check_sizes(inputs, source)
    output, shape = _output(source, graph, ask)
    task = _task(source, graph, shape, ask)
    return Draft(
        path.stem,
        inputs,
        {"model": "model.onnx"},
        {"model.onnx": partial(shutil.copyfile, path), **_external(path)},
        task,
        source.labels,
        False,
        dict(source.sizes),
        output if task != "regression" or source.output else None,
        description=f"{path.name}, as it was exported.",
        add=_added(source, output or graph.output[0].name),
    )


def _inputs(source: Source, given: list[Any], graph: Any) -> tuple[DraftInput, ...]:
    if source.shapes and len(source.shapes) != len(given):
        raise SourceError(
            f"--shape is given {len(source.shapes)} times; {source.text} takes {[x.name for x in given]}, and one for "
            "each is accepted"
        )
    said = [given_shape(text) for text in source.shapes]
    named = {one.name: one for one in said if one.name is not None}
    return tuple(
        _input(source, value, named.get(value.name) or (said[place] if said else None), graph)
        for place, value in enumerate(given)
    )


def _input(source: Source, value: Any, said: GivenShape | None, graph: Any) -> DraftInput:
    kind = value.type.tensor_type
    dtype = _DTYPES.get(onnx.TensorProto.DataType.Name(kind.elem_type).lower())
    if dtype is None:
        raise SourceError(
            f"the input {value.name!r} of {source.text} is of the kind "
            f"{onnx.TensorProto.DataType.Name(kind.elem_type)}; {', '.join(_DTYPES.values())} are accepted"
        )
    shape = said.shape if said else _shape(source, value)
    words = _words(value.name, graph) if "int" in dtype else None
    return DraftInput(value.name, shape, dtype, *((0, words - 1) if words else (None, None)))


def _shape(source: Source, value: Any) -> tuple[int | str, ...]:
    """The sizes of a row, as the graph has them."""
    if not value.type.tensor_type.HasField("shape"):
        raise SourceError(
            f"{source.text} does not say the shape of {value.name!r}; --shape 3,224,224 says that of a row"
        )
    sizes = [each.dim_value or each.dim_param or None for each in value.type.tensor_type.shape.dim][1:]
    if all(isinstance(size, int) or size in source.sizes for size in sizes):
        return tuple(sizes)  # type: ignore[arg-type]
    shown = ",".join(str(size or "?") for size in sizes)
    names = [str(size or "tokens") for size in sizes if not isinstance(size, int)]
    raise SourceError(
        f"{source.text} leaves open how large {value.name!r} is ({shown}); --shape with numbers says that of each row, "
        f"such as --shape {','.join(str(size if isinstance(size, int) else 128) for size in sizes)}, or, where rows "
        f"differ, --shape {','.join(str(size or 'tokens') for size in sizes)} --sizes {names[0]}=1:128"
    )


def _words(name: str, graph: Any) -> int | None:
    """How many rows the table has that an input looks up; None where it looks up none."""
    sizes = {each.name: each.dims for each in graph.initializer}
    same, found = {name}, []
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in same:
            same.add(node.output[0])
        if node.op_type == "Gather" and node.input[1] in same and node.input[0] in sizes:
            found.append(int(sizes[node.input[0]][0]))
    return min(found, default=None)


def _output(source: Source, graph: Any, ask: Ask) -> tuple[str | None, tuple[int, ...] | None]:
    """What of the outputs counts, and its shape, the rows first; None where the graph does not say it."""
    shapes = {each.name: _known(each) for each in graph.output}
    names = list(shapes)
    if source.output is not None and source.output not in names:
        raise SourceError(
            f"--output is {source.output!r}; {source.text} has {', '.join(names)}, of which one is accepted"
        )
    if len(names) == 1:
        return None, shapes[names[0]]
    if source.output is None and source.task == "regression" and len(names) == 2:
        return None, shapes[names[0]]
    default = next((name for name in _ANSWERS if name in names), next(iter(_numbers(graph)), names[0]))
    chosen = source.output or ask(
        Question(f"It has the outputs {', '.join(names)}. Which is the answer?", "--output", default, tuple(names))
    )
    return chosen, shapes[chosen]


def _added(source: Source, output: str) -> dict[str, float]:
    """The dropout that is to be added: behind the node whose value the last linear layer takes."""
    if source.inject is None:
        return {}
    try:
        place = before_last_linear(from_model(read_model(source.path)), output)
    except UnsupportedModelError as error:
        raise SourceError(str(error)) from error
    if place is None:
        raise SourceError(
            f"--inject is {source.inject:g}, and {source.text} has no layer before a last linear one to put it behind; "
            "`dropout: add:` in a model.yaml of your own names any node"
        )
    return {place: source.inject}


def _check_tensors(source: Source, graph: Any) -> None:
    """Raise SourceError for an output that is a list of mappings, as scikit-learn's classifiers give by default.

    Those beside the one that is chosen may be what they like.
    """
    for value in graph.output:
        kind = value.type.WhichOneof("value")
        if source.output in (None, value.name) and kind not in (None, "tensor_type"):
            raise SourceError(
                f"{source.text} gives {value.name!r} as a {kind.removesuffix('_type')} and "
                "not as a tensor; a tensor is accepted (from scikit-learn: to_onnx(..., options={'zipmap': False}))"
            )


def _numbers(graph: Any) -> list[str]:
    """The outputs that are floating-point numbers."""
    return [each.name for each in graph.output if each.type.tensor_type.elem_type in _FLOATS]


def _known(value: Any) -> tuple[int, ...] | None:
    sizes = [each.dim_value for each in value.type.tensor_type.shape.dim]
    return (_ROWS, *sizes[1:]) if sizes and all(sizes[1:]) else None


def _task(source: Source, graph: Any, shape: tuple[int, ...] | None, ask: Ask) -> Any:
    return task_of(shape or (_ROWS, 2), source, ask)


def _external(path: Path) -> dict[str, Write]:
    """The files beside it that hold its weights."""
    model = onnx.load(path, load_external_data=False)
    found: dict[str, Write] = {}
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                place = path.parent / entry.value
                if not place.is_file() or not place.resolve().is_relative_to(path.parent.resolve()):
                    raise SourceError(f"{path} holds weights in {entry.value!r}, which does not lie beside it")
                found[entry.value] = partial(shutil.copyfile, place)
    return found
