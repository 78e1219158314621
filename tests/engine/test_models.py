"""The engine on the repository's own trained networks."""

from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import pytest
import torch

from service.bundle import Bundle
from service.engine import ClassificationPrediction, Engine, native
from service.networks import load_network
from tests.conftest import MODELS

RUNTIMES = ("onnx", "torch", "eager")


def digits(seven: npt.NDArray[np.float64], rows: int) -> npt.NDArray[np.float32]:
    noise = np.random.default_rng(3).integers(0, 200, (rows, *seven.shape[1:]))
    return (np.minimum(seven + noise, 255) / 255).astype(np.float32)


@pytest.mark.parametrize("model", ["mnist-cnn", "mnist-mlp"])
def test_every_runtime_gives_the_same_statistics_for_the_same_seed(seven: npt.NDArray[np.float64], model: str) -> None:
    network, x = load_network(Bundle(MODELS / model)), digits(seven, 4)
    runtimes = (*RUNTIMES, "sparse") if model == "mnist-mlp" and native.available else RUNTIMES
    answers: list[ClassificationPrediction] = []
    for runtime in runtimes:
        prediction = Engine.from_module(network, x, runtime=runtime).predict(x, passes=30, seed=9)
        assert isinstance(prediction, ClassificationPrediction)
        answers.append(prediction)
    for answer in answers[1:]:
        for name, value in asdict(answer).items():
            assert np.abs(np.subtract(value, getattr(answers[0], name))).max() < 1e-5, name


def test_batch_norm_does_not_move_by_a_bit_in_1000_requests(seven: npt.NDArray[np.float64]) -> None:
    network, x = load_network(Bundle(MODELS / "mnist-cnn")), digits(seven, 2)
    engine = Engine.from_module(network, x, runtime="eager")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert any("running_mean" in name for name in before)
    for seed in range(1000):
        engine.predict(x, passes=1, seed=seed)
    served = engine._runtime._network.module.state_dict()  # type: ignore[attr-defined]
    for name, value in before.items():
        assert torch.equal(network.state_dict()[name], value), name
        assert torch.equal(served[name], value), name
