"""ONNX files as bundles: served without PyTorch with the numbers of the PyTorch network, and no harm by bad ones."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from tests.bundles import manifest, network_of, write_bundle
from tests.compilations import compiled
from tests.environments import environment, without_extras
from tests.patience import patience
from tests.servers import MCDROPOUT, Server, serving

ROWS = np.random.default_rng(2).normal(size=(5, 4)).round(3).tolist()


def exported(network: nn.Module, path: Path) -> None:
    """What the README tells users to do."""
    network.eval()
    for part in network.modules():
        if isinstance(part, nn.Dropout):
            part.train()
    torch.onnx.export(
        network,
        (torch.rand(1, 4),),
        path,
        dynamic_axes={"x": {0: "rows"}},
        input_names=["x"],
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
    )


def write_onnx_bundle(
    models: Path, name: str, model: onnx.ModelProto | None = None, fields_of_input: dict[str, object] | None = None
) -> Path:
    """A bundle of an ONNX model; of none yet where it is not given."""
    folder = models / name
    folder.mkdir(parents=True)
    given = {"shape": [4], **(fields_of_input or {})}
    fields = manifest(name, network=None, weights=None, model="model.onnx", input=given)
    (folder / "model.yaml").write_text(yaml.safe_dump(fields))
    if model is not None:
        (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder


def small(*before: onnx.NodeProto, taken: str = "x", weights: TensorProto | None = None) -> onnx.ModelProto:
    """`Dropout`, then a linear layer, behind other nodes."""
    weights = weights or numpy_helper.from_array(np.ones((4, 3), np.float32), "w")
    nodes = [*before, helper.make_node("Dropout", [taken], ["d"]), helper.make_node("MatMul", ["d", "w"], ["y"])]
    floats = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", w]) for n, w in (("x", 4), ("y", 3))]
    graph = helper.make_graph(nodes, "g", floats[:1], floats[1:], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def constant(name: str, values: list[int]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(values, np.int64)))


def outside() -> onnx.ModelProto:
    """Its weights are said to lie in a file of another bundle."""
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 3], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value="../same/model.onnx")
    weights.external_data.add(key="length", value="48")
    return small(weights=weights)


def huge() -> onnx.ModelProto:
    """It makes a tensor of 40 TB as it runs, of a size that no file tells."""
    return small(
        constant("million", [3_000_000]),
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Mul", ["whole", "zero"], ["nothing"]),
        constant("zero", [0]),
        helper.make_node("Add", ["nothing", "million"], ["side"]),
        helper.make_node("Concat", ["side", "side"], ["shape"], axis=0),
        helper.make_node("ConstantOfShape", ["shape"], ["much"]),
        helper.make_node("ReduceSum", ["much"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["z"]),
        taken="z",
    )


def sorted_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Constants first."""
    nodes = sorted(model.graph.node, key=lambda node: node.op_type != "Constant")
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def cycle() -> onnx.ModelProto:
    return small(helper.make_node("Add", ["x", "y"], ["z"]), taken="z")


def custom() -> onnx.ModelProto:
    return small(helper.make_node("Evil", ["x"], ["z"], domain="elsewhere"), taken="z")


def claimed() -> onnx.ModelProto:
    """Its weights are said to be larger than what is there."""
    model = small()
    model.graph.initializer[0].dims[0] = 2**40
    return model


BAD = {
    "outside": (outside, r"\.\./same/model\.onnx"),
    "huge": (lambda: sorted_nodes(huge()), "Failed to allocate memory.*of size 36000000000000"),
    "cycle": (cycle, "model.onnx"),
    "custom": (custom, "elsewhere::Evil"),
    "claimed": (claimed, "'w'"),
}


def taking(kind: int) -> onnx.ModelProto:
    """The same, of an input of another type."""
    made = small(helper.make_node("Cast", ["x"], ["xf"], to=TensorProto.FLOAT), taken="xf")
    made.graph.input[0].type.tensor_type.elem_type = kind
    return made


# What a file takes, what its bundle says that clients send, a row, and one that the file's type does not hold.
OTHER_DTYPES: dict[str, tuple[int, dict[str, object], list[float], list[float], str]] = {
    "f32": (
        1,
        {"dtype": "float64"},
        [1.5, 2, 3, 4],
        [1e39, 2, 3, 4],
        "1e+39, which preprocessing and float32 make inf",
    ),
    "f16": (
        10,
        {"dtype": "float32"},
        [1.5, 2, 3, 4],
        [7e4, 2, 3, 4],
        "70000, which preprocessing and float16 make inf",
    ),
    "f64": (11, {"dtype": "float32"}, [1.5, 2, 3, 4], [True, 2, 3, 4], "holds true; numbers are accepted"),
    "from_int": (10, {"dtype": "int64", "minimum": 0, "maximum": 9}, [1, 2, 3, 4], [10, 2, 3, 4], "0 to 9 is accepted"),
    "i8": (
        3,
        {"dtype": "int32", "minimum": -9, "maximum": 127},
        [-9, 2, 3, 4],
        [300, 2, 3, 4],
        "-9 to 127 is accepted",
    ),
    "i32": (6, {"dtype": "int64", "maximum": 9, "minimum": 0}, [1, 2, 3, 4], [10, 2, 3, 4], "0 to 9 is accepted"),
    "u8": (2, {"dtype": "uint8"}, [0, 2, 3, 255], [256, 2, 3, 4], "0 to 255 is accepted"),
    "wider_u8": (
        2,
        {"dtype": "int64", "minimum": 0, "maximum": 255},
        [0, 2, 3, 255],
        [-1, 2, 3, 4],
        "0 to 255 is accepted",
    ),
    "u16": (4, {"dtype": "uint16", "maximum": 9, "minimum": 0}, [1, 2, 3, 4], [10, 2, 3, 4], "0 to 9 is accepted"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without PyTorch on a PyTorch bundle, compiled, the same as ONNX, and files that are bad."""
    models = tmp_path_factory.mktemp("models")
    network = network_of(write_bundle(models, "pytorch"))
    compiled(models / "pytorch")
    exported(network, write_onnx_bundle(models, "same") / "model.onnx")
    for name, (make, _) in BAD.items():
        write_onnx_bundle(models, name, make())
    whole = (models / "same" / "model.onnx").read_bytes()
    for name, content in ("truncated", whole[: len(whole) // 2]), ("empty", b""), ("noise", bytes(range(256)) * 40):
        (write_onnx_bundle(models, name) / "model.onnx").write_bytes(content)
    for name, (kind, fields, *_) in OTHER_DTYPES.items():
        write_onnx_bundle(models, name, taking(kind), fields)
    removed = write_onnx_bundle(models, "removed") / "model.onnx"
    torch.onnx.export(network.eval(), (torch.rand(1, 4),), removed, dynamo=False)
    write_onnx_bundle(models, "nowhere")
    python = without_extras(tmp_path_factory.mktemp("plain") / "venv")
    limits = {"MCDROPOUT_COMPILE_MEMORY_BYTES": str(2**31), "MCDROPOUT_COMPILE_SECONDS": str(patience(60))}
    with serving(
        models,
        tmp_path_factory.mktemp("log"),
        "--default",
        "same",
        command=(str(python), "-m", "mcdropout"),
        **environment(python) | limits,
    ) as running:
        running.wait_until_ready()
        yield running


@pytest.mark.parametrize("query", ["mc=0", "mc=30&seed=4", "mc=200&seed=5"])
def test_an_onnx_file_answers_as_the_network_it_was_exported_from(server: Server, query: str) -> None:
    answers = []
    for model in ("pytorch", "same"):
        answer = server.client.post(f"/models/{model}/predict?{query}", json={"inputs": ROWS})
        assert answer.status_code == 200, answer.text
        answers.append(answer.json()["predictions"])
    for found, wanted in zip(*answers, strict=True):
        for name, value in wanted.items():
            if value is not None and name != "label":
                np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", OTHER_DTYPES)
def test_numbers_reach_a_file_in_the_type_that_it_takes(server: Server, name: str) -> None:
    _, _, row, beyond, told = OTHER_DTYPES[name]
    answer = server.client.post(f"/models/{name}/predict?mc=0", json={"inputs": [row, row]})
    assert answer.status_code == 200, answer.text
    np.testing.assert_allclose(answer.json()["predictions"][0]["mean"], [1 / 3] * 3, atol=1e-6)
    assert server.client.post(f"/models/{name}/predict?mc=20", json={"inputs": row}).status_code == 200
    refused = server.client.post(f"/models/{name}/predict", json={"inputs": [row, beyond]})
    assert (refused.status_code, told in refused.json()["detail"]) == (422, True), refused.text


def test_its_site_is_told_with_the_nodes_name(server: Server) -> None:
    (site,) = server.client.get("/models/same").json()["sites"]
    assert (site["p"], site["shape"], site["scope"], site["on"]) == (0.5, [8], "row", True)
    assert "Dropout" in site["path"]


@pytest.mark.parametrize("name", BAD)
def test_a_hostile_file_is_refused_by_what_is_wrong_with_it(server: Server, name: str) -> None:
    told = server.client.get(f"/models/{name}").json()
    assert told["state"] == "failed"
    assert told["error"]
    assert re.search(BAD[name][1], told["error"]), told["error"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("truncated", "model.onnx"),
        ("empty", "model.onnx"),
        ("noise", "model.onnx"),
        ("nowhere", "a file inside the bundle is accepted"),
        ("removed", "no dropout to switch on; exporters leave it out"),
    ],
)
def test_a_file_that_is_no_model_or_has_no_dropout_is_refused(server: Server, name: str, words: str) -> None:
    told = server.client.get(f"/models/{name}").json()
    assert told["state"] == "failed"
    assert words in told["error"]


def test_the_process_and_the_good_models_are_unharmed_by_all_of_them(server: Server) -> None:
    assert server.process.poll() is None
    states = server.client.get("/health/ready").json()["models"]
    assert {name for name, state in states.items() if state == "ready"} == {"pytorch", "same", *OTHER_DTYPES}
    resident = Path(f"/proc/{server.process.pid}/status").read_text()
    megabytes = next(int(line.split()[1]) / 1024 for line in resident.splitlines() if line.startswith("VmHWM"))
    assert megabytes < 400


def test_a_compiled_onnx_bundle_is_compiled_anew_when_its_external_data_change(tmp_path: Path) -> None:
    from mcdropout.catalogue.bundle import Bundle
    from mcdropout.catalogue.provenance import stale_parts

    folder = write_onnx_bundle(tmp_path, "outer")
    values = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    (folder / "weights.bin").write_bytes(values.tobytes())
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 3], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value="weights.bin")
    (folder / "model.onnx").write_bytes(small(weights=weights).SerializeToString())
    subprocess.run([MCDROPOUT, "compile", folder], check=True, timeout=patience(120))
    assert stale_parts(Bundle(folder)) == []
    (folder / "weights.bin").write_bytes((2 * values).tobytes())
    assert stale_parts(Bundle(folder)) == ["weights.bin changed"]
    shutil.rmtree(folder / "compiled")
