"""Tasks over HTTP: small networks of every task, and loops written by hand that drop the same units."""

from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from mcdropout.engine.masks import MaskSource
from mcdropout.engine.sites import Site
from tests.api.documented import assert_documented
from tests.bundles import network_of, write_bundle
from tests.compilations import compiled
from tests.servers import Server, serving

PASSES, SEED = 40, 11
FEATURES, HIDDEN, PLACES = 4, 8, 6
DENSE = f"""
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.drop, self.last = nn.Conv2d(1, {HIDDEN}, 1), nn.Dropout(0.5), nn.Conv2d({HIDDEN}, 3, 1)

        def forward(self, x):
            return self.last(self.drop(self.first(x).relu()))
"""


def layers(outputs: int, end: str = "y") -> str:
    """Two layers with dropout between them, and what becomes of their output `y`."""
    return f"""
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.drop = nn.Linear({FEATURES}, {HIDDEN}), nn.Dropout(0.5)
            self.last = nn.Linear({HIDDEN}, {outputs})

        def forward(self, x):
            y = self.last(self.drop(self.first(x).relu()))
            return {end}
    """


IMAGE = {"input": {"shape": [1, PLACES, PLACES]}}
BUNDLES: dict[str, tuple[str, dict[str, Any]]] = {
    "binary": (layers(1), {"task": "binary", "labels": ["no", "yes"], "threshold": 0.4}),
    "binary-of-a-sigmoid": (layers(1, "torch.sigmoid(y)[:, 0]"), {"task": "binary"}),
    "multilabel": (layers(3), {"task": "multilabel", "labels": ["a", "b", "c"]}),
    "softmax": (layers(3, "y.softmax(1)"), {}),
    "steps": (layers(6, "y.reshape(-1, 2, 3)"), {"output": {"classes": -1}, "labels": ["x", "y", "z"]}),
    "std": (
        layers(2, "(y[:, :1], torch.exp(y[:, 1:]))"),
        {"task": "regression", "output": {"mean": 0, "std": 1}},
    ),
    "variance": (
        layers(2, "(y[:, :1], torch.exp(y[:, 1:]))"),
        {"task": "regression", "output": {"mean": 0, "variance": 1}},
    ),
    "quantiles": (
        layers(3, "torch.stack([y[:, 0] - y[:, 1].exp(), y[:, 0], y[:, 0] + 2 * y[:, 2].exp()], 1)"),
        {"task": "regression", "output": {"quantiles": [0.1, 0.5, 0.9]}},
    ),
    "map": (DENSE, IMAGE),
    "map-of-labels": (DENSE, {**IMAGE, "task": "multilabel"}),
    "map-of-values": (DENSE, {**IMAGE, "task": "regression"}),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks") / "models"
    for name, (code, fields) in BUNDLES.items():
        compiled(write_bundle(folder, name, code, **fields))
    return folder


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(models, tmp_path_factory.mktemp("server")) as running:
        running.wait_until_ready()
        yield running


def rows_of(name: str) -> npt.NDArray[np.float32]:
    shape = (1, PLACES, PLACES) if name.startswith("map") else (FEATURES,)
    return np.random.default_rng(3).normal(size=(3, *shape)).astype(np.float32)


def ask(server: Server, name: str, **query: Any) -> list[dict[str, Any]]:
    body = {"inputs": rows_of(name).tolist()}
    response = server.client.post(f"/models/{name}/predict", params={"seed": SEED, **query}, json=body)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert_documented(server.client, answer, whole=not {"fields", "reduce"} & set(query))
    rows: list[dict[str, Any]] = answer["predictions"]
    return rows


def outputs_by_hand(models: Path, name: str) -> list[npt.NDArray[np.float64]]:
    """The network's outputs `[rows, passes, ...]`, pass by pass, its own module multiplied by masks by hand."""
    network, x = network_of(models / name), torch.from_numpy(rows_of(name))
    shape = (HIDDEN, PLACES, PLACES) if name.startswith("map") else (HIDDEN,)
    source = MaskSource([Site("drop", 0, "element", 0.5, "row", shape, 0)])
    passes = []
    for number in range(PASSES):
        (mask,) = source.draw([SEED] * 3, range(3), number, 1)
        network.drop = Multiplied(torch.from_numpy(mask))
        with torch.no_grad():
            found = network(x)
        passes.append(found if isinstance(found, tuple) else (found,))
    return [np.stack([one[i].double().numpy() for one in passes], axis=1) for i in range(len(passes[0]))]


class Multiplied(nn.Module):
    """What a dropout leaves of its input under a mask that is given."""

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.mask


def entropy(p: npt.NDArray[np.float64], axis: int) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = -(p * np.log(p)).sum(axis=axis)
    return found


def h(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return -(p * np.log(p) + (1 - p) * np.log(1 - p))


def distributions_of(quantiles: npt.NDArray[np.float64], levels: list[float]) -> Any:
    """Mean and variance of what goes straight from quantile to quantile over a Gaussian's, by adding up its density."""
    scores = np.array([NormalDist().inv_cdf(level) for level in levels])
    z = np.linspace(-10, 10, 40_001)
    density = np.exp(-z * z / 2) / np.sqrt(2 * np.pi) * (z[1] - z[0])
    piece = np.clip(np.searchsorted(scores, z) - 1, 0, len(levels) - 2)
    part = (z - scores[piece]) / (scores[piece + 1] - scores[piece])
    found = quantiles[..., piece] * (1 - part) + quantiles[..., piece + 1] * part
    mean = found @ density
    return mean, np.square(found - mean[..., None]) @ density


def wanted(name: str, outputs: list[npt.NDArray[np.float64]]) -> dict[str, npt.NDArray[Any]]:
    """Every field, from all outputs at once, in plain NumPy."""
    task = BUNDLES[name][1].get("task", "classification")
    if name == "quantiles":
        means, noises = distributions_of(np.sort(outputs[0]), [0.1, 0.5, 0.9])
        epistemic, noise = means.var(axis=1, ddof=1), noises.mean(axis=1)
        return {
            "mean": means.mean(axis=1),
            "quantiles": outputs[0].mean(axis=1),
            "epistemic_variance": epistemic,
            "std_error": np.sqrt(epistemic / PASSES),
            "aleatoric_variance": noise,
            "variance": noise + epistemic,
            "entropy": 0.5 * np.log(2 * np.pi * np.e * (noise + epistemic)),
        }
    if task == "regression":
        mean, epistemic = outputs[0].mean(axis=1), outputs[0].var(axis=1, ddof=1)
        found = {"mean": mean, "epistemic_variance": epistemic, "std_error": np.sqrt(epistemic / PASSES)}
        if len(outputs) > 1:
            noise = (outputs[1] ** 2 if name == "std" else outputs[1]).mean(axis=1)
            total = noise + epistemic
            entropy_of_gaussian = 0.5 * np.log(2 * np.pi * np.e * total)
            found |= {"aleatoric_variance": noise, "variance": total, "entropy": entropy_of_gaussian}
        return found
    if task == "classification":
        axis = {"steps": 3}.get(name, 2)
        odds = outputs[0] if name == "softmax" else np.exp(outputs[0])
        p = odds / odds.sum(axis=axis, keepdims=True)
        mean, expected = p.mean(axis=1), entropy(p, axis).mean(axis=1)
        total = entropy(mean, axis - 1)
    else:
        p = outputs[0] if name.endswith("sigmoid") else 1 / (1 + np.exp(-outputs[0]))
        p = p[:, :, 0] if name == "binary" else p
        mean, expected = p.mean(axis=1), h(p).mean(axis=1)
        total = h(mean)
    variance = p.var(axis=1, ddof=1)
    return {
        "mean": mean,
        "variance": variance,
        "std_error": np.sqrt(variance / PASSES),
        "entropy": total,
        "expected_entropy": expected,
        "mutual_information": total - expected,
    }


@pytest.mark.wide
@pytest.mark.parametrize("name", BUNDLES)
def test_every_field_is_that_of_a_loop_written_by_hand(server: Server, models: Path, name: str) -> None:
    rows = ask(server, name, mc=PASSES)
    for field, values in wanted(name, outputs_by_hand(models, name)).items():
        np.testing.assert_allclose([row[field] for row in rows], values, rtol=1e-6, atol=1e-6, err_msg=field)


def test_labels_are_answered_as_each_task_has_them(server: Server) -> None:
    (one, *_) = ask(server, "binary", mc=PASSES)
    assert one["label"] == ("yes" if one["mean"] >= 0.4 else "no")
    for row in ask(server, "binary-of-a-sigmoid", mc=PASSES):
        assert row["label"] == int(row["mean"] >= 0.5)
    for row in ask(server, "multilabel", mc=PASSES):
        assert row["label"] == [p >= 0.5 for p in row["mean"]]
        assert row["joint_mutual_information"] >= max(row["mutual_information"]) - 1e-9
    for row in ask(server, "steps", mc=PASSES):
        assert row["label"] == [["x", "y", "z"][int(np.argmax(p))] for p in row["mean"]]


@pytest.mark.parametrize("name", BUNDLES)
def test_every_task_stops_by_itself_keeps_deadlines_and_has_a_baseline(server: Server, name: str) -> None:
    for row in ask(server, name, mc="auto", tolerance=0.05):
        assert np.max(row["std_error"]) <= 0.05 or row["passes"] == 1000
        assert row["passes"] >= 8
    for row in ask(server, name, mc=1000, deadline_ms=60_000):
        assert row["passes"] == 1000
    for row in ask(server, name, mc=0):
        assert row["std_error"] is None
        assert row["mean"] is not None


@pytest.mark.parametrize("name", BUNDLES)
def test_a_model_tells_how_its_outputs_are_read(server: Server, name: str) -> None:
    output = server.client.get(f"/models/{name}").json()["output"]
    task = BUNDLES[name][1].get("task", "classification")
    assert output["task"] == task
    if name == "softmax":
        assert output["as"] == "log_probabilities"
        assert "softmax at its end" in output["because"]
    if name == "steps":
        assert output["classes"] == 2
    if name in ("std", "variance"):
        assert output["noise"] == name
    if name == "quantiles":
        assert output["quantiles"] == [0.1, 0.5, 0.9]
        assert output["along"] == 1
    if task in ("binary", "multilabel"):
        assert output["threshold"] == (0.4 if name == "binary" else 0.5)


class TestFields:
    @pytest.mark.parametrize(("name", "fields"), [("map", "label,entropy"), ("binary", "mean"), ("std", "interval")])
    def test_that_are_named_are_answered_and_no_others(self, server: Server, name: str, fields: str) -> None:
        for row, whole in zip(ask(server, name, mc=9, fields=fields), ask(server, name, mc=9), strict=True):
            assert set(row) == {*fields.split(","), "passes"}
            assert all(row[field] == whole[field] for field in row)

    @pytest.mark.parametrize(
        ("query", "said"),
        [
            ({"fields": "mean,colour"}, "fields names 'colour'; of classification, label, mean"),
            ({"fields": ""}, "fields"),
            ({"reduce": "median"}, "reduce is 'median'; mean, max, min, sum, a percentile such as p95"),
            ({"reduce": "p101"}, "reduce is 'p101'"),
            ({"reduce": "volume>"}, "reduce is 'volume>'"),
            ({"regions": "2x2"}, "without reduce"),
            ({"reduce": "max", "regions": "0x2"}, "regions is '0x2'; numbers of parts such as 4x4"),
            ({"reduce": "max", "regions": "7x2"}, "regions is 7x2; as many parts as there are places, 6x6"),
            ({"reduce": "max", "regions": "2x2x2"}, "regions is 2x2x2"),
            ({"reduce": "max", "regions": "99999999"}, "regions is '99999999'"),
            ({"reduce": "max", "fields": "label"}, "fields names 'label', which reduce cannot reduce"),
        ],
    )
    def test_that_cannot_be_answered_are_refused(self, server: Server, query: dict[str, str], said: str) -> None:
        response = server.client.post("/models/map/predict", params=query, json={"inputs": rows_of("map").tolist()})
        assert response.status_code == 422
        assert said in response.json()["detail"]

    def test_of_one_place_have_nothing_to_reduce(self, server: Server) -> None:
        body = {"inputs": rows_of("softmax").tolist()}
        response = server.client.post("/models/softmax/predict", params={"reduce": "max"}, json=body)
        assert response.status_code == 422
        assert "one place a row" in response.json()["detail"]


REDUCTIONS = {
    "mean": lambda x: x.mean(),
    "max": lambda x: x.max(),
    "min": lambda x: x.min(),
    "sum": lambda x: x.sum(),
    "p95": lambda x: np.percentile(x, 95),
    "p12.5": lambda x: np.percentile(x, 12.5),
    "volume>0.5": lambda x: (x > 0.5).sum(),
    "volume>1e-3": lambda x: (x > 1e-3).sum(),
}


class TestReductions:
    @pytest.mark.parametrize("how", REDUCTIONS)
    @pytest.mark.parametrize("name", ["map", "map-of-labels", "map-of-values", "steps"])
    def test_make_one_number_of_all_places(self, server: Server, name: str, how: str) -> None:
        rows, wholes = ask(server, name, mc=9, reduce=how), ask(server, name, mc=9)
        assert ("label" in rows[0]) == (name == "map-of-labels")
        for row, whole in zip(rows, wholes, strict=True):
            for field in row.keys() - {"passes"}:
                if whole[field] is None:
                    assert row[field] is None
                    continue
                values = np.asarray(whole[field], float)
                if name == "steps" and field in ("mean", "variance", "std_error"):
                    values = values.T
                per_class = (name != "map-of-values" and values.ndim == 3) or (name == "steps" and values.ndim == 2)
                if field == "interval":
                    wanted: Any = [REDUCTIONS[how](values[..., end]) for end in (0, 1)]
                elif field.startswith("joint") and values.ndim == 2:
                    wanted = REDUCTIONS[how](values)
                else:
                    wanted = [REDUCTIONS[how](one) for one in values] if per_class else REDUCTIONS[how](values)
                np.testing.assert_allclose(row[field], wanted, rtol=1e-9, err_msg=field)

    @pytest.mark.parametrize("how", REDUCTIONS)
    @pytest.mark.parametrize("name", ["map", "map-of-values"])
    def test_leave_out_what_one_pass_cannot_tell(self, server: Server, name: str, how: str) -> None:
        for row in ask(server, name, mc=1, reduce=how, fields="mean,variance,std_error"):
            assert None not in np.ravel(row["mean"])
            assert set(np.ravel(row["variance"])) == {None}
            assert set(np.ravel(row["std_error"])) == {None}

    def test_make_one_number_of_each_region(self, server: Server) -> None:
        rows, wholes = ask(server, "map", mc=9, reduce="max", regions="2x3"), ask(server, "map", mc=9)
        for row, whole in zip(rows, wholes, strict=True):
            blocks = np.asarray(whole["entropy"]).reshape(2, 3, 3, 2)
            np.testing.assert_allclose(row["entropy"], blocks.max(axis=(1, 3)))
            classes = np.asarray(whole["mean"]).reshape(3, 2, 3, 3, 2)
            np.testing.assert_allclose(row["mean"], classes.max(axis=(2, 4)))
        strips = ask(server, "map-of-values", mc=9, reduce="sum", regions="2")
        for row, whole in zip(strips, ask(server, "map-of-values", mc=9), strict=True):
            ends = np.asarray(whole["interval"]).reshape(3, PLACES, 2, 3, 2)
            np.testing.assert_allclose(row["interval"], ends.sum(axis=(0, 1, 3)))
