"""What a notebook shows of an engine and of its predictions, and passes that end by themselves."""

import inspect
import json
import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from torch import nn

from mcdropout import Engine, InvalidInputError, Prediction
from tests.conftest import MODELS
from tests.servers import Server

mpl.use("agg")


@pytest.fixture(scope="module")
def engine() -> Engine:
    torch.manual_seed(0)
    return Engine.from_module(
        nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 3)).eval(), torch.randn(3, 6)
    )


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)


class TestPassesThatEndByThemselves:
    def test_each_row_stops_when_its_error_is_small_enough(self, engine: Engine, x: np.ndarray) -> None:
        found = engine.predict(x, "auto", seed=3, tolerance=0.02)
        assert found.std_error.max() <= 0.02
        assert 8 <= found.passes.min() < found.passes.max() < 1000
        # Each has the mean of the passes that it had, whoever ran beside it.
        for row in (0, 7, 39):
            passes = engine.samples(x[: row + 1], int(found.passes[row]), seed=3)[:, row]
            assert found.mean[row] == pytest.approx(passes.mean(axis=0), abs=1e-6)

    def test_a_tighter_tolerance_takes_more_and_none_takes_more_than_the_most(
        self, engine: Engine, x: np.ndarray
    ) -> None:
        wide, tight = (engine.predict(x, "auto", seed=3, tolerance=one).passes for one in (0.05, 0.01))
        assert (tight >= wide).all()
        assert tight.sum() > 4 * wide.sum()
        assert set(engine.predict(x, "auto", seed=3, tolerance=1e-9, most=20).passes) == {20}

    def test_it_is_what_the_service_answers(self, server: Server) -> None:
        body = json.loads((MODELS / "mnist-cnn" / "example.json").read_text())
        turned = np.rot90(np.asarray(body["inputs"], np.float32), axes=(1, 2))
        query = {"mc": "auto", "tolerance": 0.03, "seed": 5}
        response = server.client.post("/predict", params=query, json={"inputs": turned.tolist()})
        (row,) = response.json()["predictions"]
        engine = Engine.load(MODELS / "mnist-cnn" / "compiled")
        found = engine.predict(turned[None] / 255, "auto", seed=5, tolerance=0.03, most=10000)
        assert found.passes.tolist() == [row["passes"]]
        assert found.mean[0] == pytest.approx(row["mean"], abs=1e-6)
        assert found.std_error[0] == pytest.approx(row["std_error"], abs=1e-6)

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"passes": "many"}, "passes is 'many'; an integer of 0 or more, or \"auto\", is accepted"),
            ({"passes": "auto", "tolerance": 0.0}, "tolerance is 0.0; a number above 0"),
            ({"passes": "auto", "most": 0}, "most is 0; an integer of 1 or more"),
            ({"passes": 5, "tolerance": 0.1}, 'tolerance is 0.1 and passes is 5; passes="auto" takes one'),
        ],
        ids=["word", "tolerance", "most", "both"],
    )
    def test_what_cannot_be_is_refused(self, engine: Engine, x: np.ndarray, given: dict, said: str) -> None:
        with pytest.raises(InvalidInputError, match=re.escape(said)):
            engine.predict(x, **given)


class TestAnEngine:
    def test_it_says_what_is_random_how_it_runs_and_what_was_checked(self, engine: Engine) -> None:
        for shown in (repr(engine), engine._repr_html_()):
            for word in ("classification", "element", "0.5", "64", engine.program.runtime, "checks passed"):
                assert word in shown

    def test_a_name_of_a_module_is_no_markup(self) -> None:
        class Odd(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.add_module("<b>", nn.Dropout(0.5))
                self.head = nn.Linear(6, 3)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                out: torch.Tensor = self.head(self.get_submodule("<b>")(x))
                return out

        shown = Engine.from_module(Odd().eval(), torch.randn(3, 6))._repr_html_()
        assert "&lt;b&gt;" in shown


class TestAPrediction:
    def test_it_is_a_line_a_row(self, engine: Engine, x: np.ndarray) -> None:
        found = engine.predict(x, 20, seed=3)
        lines = repr(found).splitlines()
        assert lines[0] == "Prediction(classification, 40 rows, passes=20, seed=3)"
        cells = lines[2].split()
        assert cells[1] == str(found.label[0])
        assert float(cells[2]) == pytest.approx(found.mean[0].max(), rel=1e-3)
        assert "... 30 more rows" in repr(found)
        assert found._repr_html_().count("<tr>") == 11
        assert len(found) == 40

    def test_a_frame_has_all_of_it(self, engine: Engine, x: np.ndarray) -> None:
        found = engine.predict(x, 20, seed=3)
        frame = found.to_pandas()
        assert frame.shape[0] == 40
        assert (frame["entropy"] == found.entropy).all()
        assert (frame[["mean.0", "mean.1", "mean.2"]].to_numpy() == found.mean).all()
        assert engine.predict(x, 0).to_pandas()["variance"].isna().all()

    def test_a_plot_draws_means_and_twice_the_deviation(self, engine: Engine, x: np.ndarray, tmp_path: Path) -> None:
        found = engine.predict(x[:2], 20, seed=3)
        axes = found.plot()
        bars = [bar.get_height() for bar in axes.patches]
        assert bars == pytest.approx(found.mean.ravel())
        axes.figure.savefig(tmp_path / "plot.png")
        regression = Prediction("regression", np.array([5, 5]), {"mean": np.array([1.0, 2.0]), "variance": None})
        assert regression.plot().get_ylabel() == "value"

    def test_a_dense_one_is_told_by_its_shape_and_cannot_be_drawn(self) -> None:
        maps = Prediction("classification", np.array([5]), {"mean": np.ones((1, 3, 4, 4)), "variance": None})
        assert "mean: [1, 3, 4, 4]" in repr(maps)
        with pytest.raises(ValueError, match=re.escape("mean has the shape [1, 3, 4, 4]")):
            maps.plot()


@pytest.mark.parametrize("name", ["from_module", "from_onnx", "predict", "samples", "outputs", "masks", "run"])
def test_a_signature_says_what_is_taken_and_not_what_that_is_made_of(name: str) -> None:
    shown = str(inspect.signature(getattr(Engine, name)))
    assert "'Inputs'" in shown or name in ("masks", "run")
    assert not re.search(r"numpy\._|Nested|ForwardRef", shown)


def test_a_bar_is_shown_once_it_takes_long(
    engine: Engine, x: np.ndarray, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.predict(x, 2000, seed=1, progress=True)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("mcdropout.engine.display.progress._PATIENCE_SECONDS", 0.0)
    engine.predict(x, 20000, seed=1, progress=True)
    assert "passes" in capsys.readouterr().err
    engine.predict(x, 20000, seed=1, progress=False)
    assert capsys.readouterr().err == ""
