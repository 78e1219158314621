"""What the tests of ONNX models share: making them with the ONNX helpers, and running every program that they give."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mcdropout.engine.masks import MaskSource
from mcdropout.engine.onnx.cut.split import split
from mcdropout.engine.onnx.dataflow import sources
from mcdropout.engine.onnx.model import understand
from mcdropout.engine.runtimes.onnx import OnnxRuntime
from mcdropout.engine.verify import EVAL_TOLERANCE, check_network, check_program, take_reference

F, I64, I32, BOOL, F16, F64 = (
    TensorProto.FLOAT,
    TensorProto.INT64,
    TensorProto.INT32,
    TensorProto.BOOL,
    TensorProto.FLOAT16,
    TensorProto.DOUBLE,
)
node = helper.make_node


def value(name, shape, kind=F):
    return helper.make_tensor_value_info(name, kind, shape)


def numbers(*shape, seed=0, kind=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(kind)


def dropout(source, output, name="drop", ratio="ratio", mode="on", **more):
    return node("Dropout", [source, ratio, mode], [output], name=name, **more)


def model(nodes, inputs, outputs, opset=17, functions=(), ir=8, domains=(), **weights):
    """A model; weights by name, among which, where they are used, `ratio` is 0.5 and `on` is True."""
    used = {name for x in nodes for name in sources(x)}
    common = {"ratio": np.float32(0.5), "on": np.bool_(True)}
    weights = {name: x for name, x in common.items() if name in used} | weights
    graph = helper.make_graph(
        nodes,
        "graph",
        inputs,
        outputs,
        [numpy_helper.from_array(np.asarray(x), name) for name, x in weights.items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=ir)


def saved(made, folder, name="model.onnx"):
    path = folder / name
    onnx.save(made, path)
    return path


def understood(made, folder, x, **options):
    return understand(saved(made, folder), x, **options)


def every_cut(subject):
    """The ways to cut a model, by name."""
    values = subject._is.values
    return {
        name: split(subject.flow, len(subject.inputs), values, **options)
        for name, options in (("split", {}), ("unmerged", {"merged": False}), ("whole", {"whole": True}))
    }


def serves(subject):
    """Run all checks of every program that a model gives; the programs."""
    source = MaskSource(subject.sites)
    rows = len(subject.arrays[0])
    wanted = subject.eval_outputs()
    kept = [] if source.has_raw_sites else source.keep_everything(rows)
    found = check_network(subject.plain, kept, subject.arrays, wanted)
    assert found.passed, found
    reference = take_reference(subject.eager, source, subject.arrays, wanted, max(EVAL_TOLERANCE, subject.tolerance))
    cuts = every_cut(subject)
    for name, cut in cuts.items():
        runtime = OnnxRuntime(cut.halves().write(subject.sites))
        baseline = runtime
        if source.has_raw_sites:
            quiet = split(subject._quiet, len(subject.inputs), subject._is.values)
            baseline = OnnxRuntime(quiet.halves().write(()))
        try:
            check_program(runtime, baseline, source, reference)
        except Exception as error:
            raise AssertionError(f"{name}: {error}") from error
    return cuts


def frontier(cut):
    return [(*x.shape, "shared") if not x.per_row else x.shape for x in cut.outline.frontier]
