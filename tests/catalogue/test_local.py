"""Bundles in Python: `mcdropout.load`, and those that `Engine.save_bundle` writes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import mcdropout
from mcdropout import BundleError, Engine, InvalidInputError
from mcdropout.catalogue.manifest import COMPILED
from mcdropout.engine import bundled
from tests.exporting import export_quickly
from tests.servers import serving

MODELS = Path(__file__).resolve().parents[2] / "models"
ROWS = np.random.default_rng(2).random((4, 5), np.float32)


def example_of(name):
    return json.loads((MODELS / name / "example.json").read_text())["inputs"]


class TestLoading:
    def test_a_bundle_answers_as_its_server_does_with_its_preprocessing_and_labels(self, server):
        inputs = example_of("mnist-cnn")
        url = "/models/mnist-cnn/predict?mc=20&seed=7"
        (row,) = server.client.post(url, json={"inputs": inputs}).json()["predictions"]
        loaded = mcdropout.load(MODELS / "mnist-cnn")
        for given in (inputs, np.asarray(inputs), torch.tensor(inputs), {"image": np.asarray(inputs)}):
            found = loaded.predict(given, 20, 7)
            assert found.label.tolist() == [row["label"]] == ["7"]
            np.testing.assert_allclose(found.mean[0], row["mean"], rtol=1e-6)
        assert (loaded.name, loaded.task, loaded.labels[7]) == ("mnist-cnn", "classification", "7")

    def test_texts_tables_and_images_are_what_clients_may_send(self, tmp_path):
        pandas, image = pytest.importorskip("pandas"), pytest.importorskip("PIL.Image")
        texts = mcdropout.load(MODELS / "sentiment-cnn").predict(["a warm, funny film", "dreadful!"], 5, 1)
        assert texts.mean[0] > texts.mean[1]
        concrete = mcdropout.load(MODELS / "concrete-mlp")
        rows = np.asarray(example_of("concrete-mlp"))
        columns = concrete.model.takes[0].columns
        frame = pandas.DataFrame(rows, columns=columns)[columns[::-1]]
        np.testing.assert_array_equal(concrete.predict(frame, 5, 1).mean, concrete.predict(rows, 5, 1).mean)
        pixels = np.asarray(example_of("mnist-cnn"), np.uint8).reshape(28, 28)
        image.fromarray(pixels).save(tmp_path / "seven.png")
        digits = mcdropout.load(MODELS / "mnist-cnn")
        for given in (tmp_path / "seven.png", [image.fromarray(pixels)]):
            assert digits.predict(given, 5, 1).label.tolist() == ["7"]

    def test_what_cannot_be_used_is_refused_as_a_server_refuses_it(self):
        loaded = mcdropout.load(MODELS / "mnist-cnn")
        for given, told in (
            (np.zeros((2, 5)), r"has the shape \[2, 5\]; \[1, 28, 28\]"),
            (np.full((1, 28, 28), 300.0), "300"),
            (object(), "an object of object"),
            ("seven", "inputs"),
        ):
            with pytest.raises(InvalidInputError, match=told):
                loaded.predict(given)
        with pytest.raises(BundleError, match=r"model.yaml: is missing"):
            mcdropout.load(MODELS)


@pytest.fixture(scope="module")
def engine():
    export_quickly()
    torch.manual_seed(4)
    network = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 3))
    return Engine.from_module(network, torch.rand(3, 5), temperature=2.0)


class TestSaving:
    def test_what_is_saved_is_served_and_answers_as_the_engine(self, engine, tmp_path):
        inputs = {"flower": {"columns": list("abcde"), "minimum": -10}}
        saved = engine.save_bundle(tmp_path / "models", "iris", labels=["x", "y", "z"], inputs=inputs, passes=(20, 40))
        assert saved == tmp_path / "models" / "iris"
        wanted = engine.predict(ROWS, 20, 7)
        with serving(saved.parent, tmp_path, "--no-compile") as server:
            server.wait_until_ready()
            rows = [dict(zip("abcde", map(float, row), strict=True)) for row in ROWS]
            answer = server.client.post("/predict?seed=7", json={"inputs": rows}).json()
            example = server.client.post("/predict", json=json.loads((saved / "example.json").read_text()))
        assert (answer["mc"], example.status_code) == (20, 200)
        np.testing.assert_allclose([row["mean"] for row in answer["predictions"]], wanted.mean, rtol=1e-6)
        assert [row["label"] for row in answer["predictions"]] == ["xyz"[label] for label in wanted.label]
        np.testing.assert_allclose(mcdropout.load(saved).predict(ROWS, 20, 7).mean, wanted.mean, rtol=1e-6)

    def test_a_regression_of_rows_of_any_length_is_too(self, tmp_path):
        export_quickly()

        class Words(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding, self.dropout, self.head = nn.Embedding(20, 8), nn.Dropout(0.3), nn.Linear(8, 1)

            def forward(self, ids):
                return self.head(self.dropout(self.embedding(ids)).mean(1))

        sizes = {"tokens": (1, 6)}
        example = {"ids": torch.randint(20, (3, 4))}
        made = Engine.from_module(
            Words(), example, "regression", shapes={"ids": ("tokens",)}, sizes=sizes, interval=None
        )
        made.save_bundle(tmp_path / "words")
        rows = [[1, 2, 3], [4]]
        found = mcdropout.load(tmp_path / "words").predict(rows, 10, 1)
        np.testing.assert_allclose(found.mean, made.predict({"ids": rows}, 10, 1).mean, rtol=1e-6)
        assert found.interval is None

    def test_what_does_not_fit_the_engine_is_refused(self, engine, tmp_path):
        for said, told in (
            ({"labels": ["x"]}, "labels has 1 entries; 3, one for each class"),
            ({"name": "a b"}, "the bundle would be called 'a b'"),
            ({"label": "x"}, "label is no argument of save_bundle; version, labels"),
            ({"inputs": {"a": {}, "b": {}}}, "inputs has the names"),
            ({"preprocess": "nothing.py"}, "path/to/file.py:function is accepted"),
        ):
            with pytest.raises(InvalidInputError, match=told):
                engine.save_bundle(tmp_path / "iris", **said)
        engine.save_bundle(tmp_path / "iris")
        with pytest.raises(InvalidInputError, match="is a bundle already; overwrite=True"):
            engine.save_bundle(tmp_path / "iris")
        engine.save_bundle(tmp_path / "iris", overwrite=True)

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"input": {"shape": [4]}}, "those that were compiled"),
            ({"dropout": {"exclude": ["2"]}}, "dropout or output is given with model: compiled"),
        ],
    )
    def test_a_manifest_that_is_changed_to_what_was_not_compiled_is_refused(self, engine, tmp_path, changes, told):
        saved = engine.save_bundle(tmp_path / "iris")
        fields = yaml.safe_load((saved / "model.yaml").read_text())
        (saved / "model.yaml").write_text(yaml.safe_dump(fields | changes))
        with pytest.raises(BundleError, match=told):
            mcdropout.load(saved)

    def test_the_engine_and_the_catalogue_call_it_alike(self):
        assert bundled.COMPILED == COMPILED
