"""The engine on the repository's own trained networks."""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from mcdropout.catalogue.bundle import Bundle
from mcdropout.catalogue.code import load_network
from mcdropout.catalogue.loading import Loading, load
from mcdropout.catalogue.network import subject_of
from mcdropout.engine import Engine
from mcdropout.engine.native import library
from mcdropout.engine.runtimes import Target
from tests.conftest import MODELS

BUNDLES = sorted(path.parent.name for path in MODELS.glob("*/model.yaml"))
RUNTIMES = ("onnx", "torch", "eager")


def digits(seven: npt.NDArray[np.float64], rows: int) -> npt.NDArray[np.float32]:
    noise = np.random.default_rng(3).integers(0, 200, (rows, *seven.shape[1:]))
    return (np.minimum(seven + noise, 255) / 255).astype(np.float32)


@pytest.mark.wide
@pytest.mark.parametrize("model", BUNDLES)
def test_every_bundle_as_compiled_answers_what_pytorch_does_for_the_same_seed(model: str) -> None:
    bundle = Bundle(MODELS / model)
    compiled = load(bundle.folder, Loading(compiles=False)).engine
    pytorch = Engine.prepare(subject_of(bundle), bundle.manifest.reading, Target(runtime="torch"))
    assert (compiled.program.runtime, pytorch.program.runtime) in (("onnx", "torch"), ("sparse", "torch"))
    (example,) = bundle.examples(8)
    rows = 2 if compiled.places else 20  # maps take their time
    scale = np.random.default_rng(1).uniform(0.5, 1.0, (rows, *[1] * (example.ndim - 1)))
    x = (example[np.arange(rows) % len(example)] * scale).astype(example.dtype)
    for passes in (0, 50):
        found, wanted = compiled.predict(x, passes, seed=9), pytorch.predict(x, passes, seed=9)
        for name, value in wanted.values.items():
            if value is not None:
                np.testing.assert_allclose(getattr(found, name), value, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.wide
@pytest.mark.parametrize("model", ["mnist-cnn", "mnist-mlp"])
def test_every_runtime_gives_the_same_statistics_for_the_same_seed(seven: npt.NDArray[np.float64], model: str) -> None:
    network, x = load_network(Bundle(MODELS / model)), digits(seven, 4)
    runtimes = (*RUNTIMES, "sparse") if model == "mnist-mlp" and library.available() else RUNTIMES
    answers = [Engine.from_module(network, x, runtime=runtime).predict(x, passes=30, seed=9) for runtime in runtimes]
    for answer in answers[1:]:
        for name, value in answer.values.items():
            assert np.abs(np.subtract(value, answers[0].values[name])).max() < 1e-5, name


def test_batch_norm_does_not_move_by_a_bit_in_100_requests(seven: npt.NDArray[np.float64]) -> None:
    network, x = load_network(Bundle(MODELS / "mnist-cnn")), digits(seven, 2)
    engine = Engine.from_module(network, x, runtime="eager")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert any("running_mean" in name for name in before)
    for seed in range(100):
        engine.predict(x, passes=1, seed=seed)
    served = engine._runtime._network.module.state_dict()  # type: ignore[attr-defined]
    for name, value in before.items():
        assert torch.equal(network.state_dict()[name], value), name
        assert torch.equal(served[name], value), name
