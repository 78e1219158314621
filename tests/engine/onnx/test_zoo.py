"""The repository's networks as ONNX: the same sites, the same masks for the same seed, the same answers and cost."""

import importlib.util
import sys
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.modules.batchnorm import _BatchNorm

from mcdropout.catalogue.bundle import Bundle
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.onnx.cut.cost import cost_of
from mcdropout.engine.onnx.model import understand
from mcdropout.engine.preparation import prepare
from mcdropout.engine.pytorch.cut.cost import cost_of_whole
from mcdropout.engine.pytorch.module import understand as understand_module
from mcdropout.engine.runtimes import Target
from mcdropout.engine.verify import run_pairs
from tests.conftest import MODELS
from tests.engine.onnx.common import every_cut

# By which exporter, what runs it, and the values that cross. That without TorchScript loses dropout of attention and
# merges equal draws of mnist-lstm; TorchScript's cannot write dropout of channels.
ZOO = [
    ("concrete-mlp", True, "onnx", [(100,)]),
    ("digits-multilabel", False, "onnx", [(64,)]),
    ("digits-segmentation", True, "onnx", [(12, 48, 48), (24, 24, 24), (48, 12, 12)]),
    ("mnist-cnn", False, "onnx", [(128,)]),
    ("mnist-dropconnect", False, "onnx", [(784,)]),
    ("mnist-lstm", False, "onnx", [(28, 28)]),
    ("mnist-mlp", True, "sparse", [(784,)]),
    ("mnist-resnet", False, "onnx", [(12, 14, 14), (12, 14, 14)]),
    ("mnist-spatial", True, "onnx", [(12, 28, 28)]),
    ("mnist-vit", False, "onnx", [(17, 64), (4, 17, 16), (4, 17, 17)]),
    ("tumour-mlp", False, "onnx", [(32,)]),
]


def network_of(name):
    spec = importlib.util.spec_from_file_location(f"_zoo_{name.replace('-', '_')}", MODELS / name / "network.py")
    code = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = code
    spec.loader.exec_module(code)
    network = code.Network()
    network.load_state_dict(load_file(MODELS / name / "weights.safetensors"))
    return network.eval()


def exported(network, x, path, dynamo):
    for part in network.modules():
        part.training = not isinstance(part, _BatchNorm)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            torch.onnx.export(network, (x,), path, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), verbose=False)
        else:
            torch.onnx.export(
                network,
                (x,),
                path,
                dynamo=False,
                training=torch.onnx.TrainingMode.PRESERVE,
                do_constant_folding=False,
                input_names=["x"],
                dynamic_axes={"x": {0: "rows"}},
            )
    network.eval()


@pytest.mark.wide
@pytest.mark.parametrize(("name", "dynamo", "runs_on", "crosses"), ZOO, ids=[name for name, *_ in ZOO])
def test_a_network_of_the_zoo_is_the_same_as_onnx(tmp_path, name, dynamo, runs_on, crosses):
    network, manifest = network_of(name), Bundle(MODELS / name).manifest
    x = torch.rand(3, *manifest.input.shape, generator=torch.Generator().manual_seed(3))
    path = tmp_path / "model.onnx"
    exported(network, x, path, dynamo)
    module, subject = understand_module(network, x), understand(path, x)

    assert [(site.scope, site.shape) for site in subject.sites] == [(site.scope, site.shape) for site in module.sites]
    assert [site.p for site in subject.sites] == pytest.approx([site.p for site in module.sites], rel=1e-7)
    prepared = prepare(manifest.reading, subject, Target())
    program = prepared.program
    assert (program.strategy, program.runtime, program.reason) == ("split", runs_on, None)
    assert [value.shape for value in program.frontier] == crosses

    masks = MaskSource(subject.sites).draw([2016] * 3, range(3), 5, 1)
    for one, other in zip(masks, MaskSource(module.sites).draw([2016] * 3, range(3), 5, 1), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-7)
    outputs = run_pairs(prepared.runtime, module.arrays, masks)
    for one, other in zip(outputs, run_pairs(module.eager, module.arrays, masks), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)

    whole = cost_of_whole(module.network, MaskSource(module.sites), tuple(map(torch.from_numpy, module.arrays)))
    for cut in every_cut(subject).values():
        cost = cost_of(cut, subject._is.values)
        assert cost.prefix + cost.suffix == whole.suffix
