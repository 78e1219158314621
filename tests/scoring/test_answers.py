"""Scored files: the engine's numbers, and the service's, for the same seed, whatever the parts that they come in."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mcdropout.catalogue.loading import Loading, load
from mcdropout.catalogue.model import Model
from tests.conftest import MODELS
from tests.scoring.running import TOLERANCE, column, example, nuclei, score, table
from tests.servers import Server


@pytest.fixture(scope="module")
def tumours() -> Model:
    return load(MODELS / "tumour-mlp", Loading())


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of 1 to 12 words, as a column of lists."""
    generator = np.random.default_rng(3)
    rows = [generator.integers(1, 4095, size).tolist() for size in (3, 1, 12, 3, 7, 1, 12, 5, 3)]
    path = tmp_path_factory.mktemp("sentences") / "sentences.parquet"
    pq.write_table(pa.table({"id": list(range(9)), "words": rows}), path)
    return path


def test_the_numbers_are_the_engines_for_the_same_seed(tmp_path: Path, tumours: Model) -> None:
    rows = nuclei(100)
    np.save(tmp_path / "rows.npy", rows)
    score(tmp_path / "rows.npy", tmp_path / "out.parquet", "tumour-mlp", mc=20, seed=7, batch_rows=30)
    found = tumours.engine.predict(tumours.takes[0].prepare(rows), 20, seed=7)
    for name in ("mean", "variance", "std_error", "entropy", "mutual_information", "variation_ratio"):
        np.testing.assert_allclose(column(tmp_path / "out.parquet", name), getattr(found, name), atol=TOLERANCE)
    assert (column(tmp_path / "out.parquet", "passes") == 20).all()
    labels = np.array(["benign", "malignant"])[found.label]
    assert (column(tmp_path / "out.parquet", "label") == labels).all()
    assert found.variance.max() > 1e-3  # masks say something here


@pytest.mark.parametrize("batch_rows", [1, 7, None])
def test_the_numbers_do_not_depend_on_how_many_rows_a_part_has(tmp_path: Path, batch_rows: int | None) -> None:
    np.save(tmp_path / "rows.npy", nuclei(40))
    score(tmp_path / "rows.npy", tmp_path / "whole.parquet", "tumour-mlp", mc=20, seed=7, batch_rows=40)
    score(tmp_path / "rows.npy", tmp_path / "parts.parquet", "tumour-mlp", mc=20, seed=7, batch_rows=batch_rows)
    for name in ("mean", "variance", "mutual_information"):
        whole, parts = (column(tmp_path / f"{of}.parquet", name) for of in ("whole", "parts"))
        np.testing.assert_allclose(parts, whole, atol=TOLERANCE)


def test_another_seed_gives_other_numbers_and_none_is_drawn_and_said(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", nuclei(10))
    seeds = set()
    for number in range(2):
        output = tmp_path / f"{number}.parquet"
        seeds.add(score(tmp_path / "rows.npy", output, "tumour-mlp", mc=20).seed)
    assert len(seeds) == 2
    assert not np.array_equal(*(column(tmp_path / f"{number}.parquet", "mean") for number in range(2)))
    assert int(table(tmp_path / "0.parquet").schema.metadata[b"mcdropout.seed"]) in seeds


@pytest.mark.parametrize("model", ["mnist-cnn", "mnist-dropconnect", "concrete-mlp", "digits-multilabel"])
@pytest.mark.parametrize("mc", [0, 10])
def test_the_numbers_are_those_of_one_request_for_the_whole_file(
    tmp_path: Path, server: Server, model: str, mc: int
) -> None:
    rows = (
        np.concatenate([example(model)] * 5)[:5]
        * np.array([1, 0.9, 0.8, 0.7, 0.6]).reshape(5, *[1] * 3)[(..., *[0] * (4 - example(model).ndim))]
    )
    np.save(tmp_path / "rows.npy", rows)
    score(tmp_path / "rows.npy", tmp_path / "out.npz", model, mc=mc, seed=7, batch_rows=2)
    answer = server.client.post(
        f"/models/{model}/predict?mc={mc}&seed=7",
        content=(tmp_path / "rows.npy").read_bytes(),
        headers={"content-type": "application/x-npy", "accept": "application/x-npz"},
    )
    assert answer.status_code == 200, answer.text
    (tmp_path / "answer.npz").write_bytes(answer.content)
    with np.load(tmp_path / "answer.npz") as wanted, np.load(tmp_path / "out.npz") as found:
        assert sorted(found.files) == sorted(wanted.files)
        for name in wanted.files:
            np.testing.assert_allclose(found[name], wanted[name], atol=1e-5, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("batch_rows", [1, 4, 100])
def test_rows_of_any_length_are_predicted_in_their_order(
    tmp_path: Path, server: Server, sentences: Path, batch_rows: int
) -> None:
    output = tmp_path / "out.parquet"
    score(sentences, output, "sentiment-cnn", mc=10, seed=7, batch_rows=batch_rows, keep=("id",))
    rows = table(sentences).column("words").to_pylist()
    answer = server.client.post("/models/sentiment-cnn/predict?mc=10&seed=7", json={"inputs": rows})
    wanted = answer.json()["predictions"]
    assert column(output, "id").tolist() == list(range(9))
    np.testing.assert_allclose(column(output, "mean"), [row["mean"] for row in wanted], atol=1e-5)
    np.testing.assert_allclose(column(output, "interval.lower"), [row["interval"][0] for row in wanted], atol=1e-5)
    assert len(set(column(output, "mean").tolist())) == 9


def test_auto_stops_each_row_where_a_request_does(tmp_path: Path, server: Server) -> None:
    rows = nuclei(60)
    np.save(tmp_path / "rows.npy", rows)
    score(
        tmp_path / "rows.npy",
        tmp_path / "out.parquet",
        "tumour-mlp",
        mc="auto",
        tolerance=0.02,
        seed=7,
        batch_rows=25,
    )
    answer = server.client.post(
        "/models/tumour-mlp/predict?mc=auto&tolerance=0.02&seed=7", json={"inputs": rows.tolist()}
    )
    wanted = answer.json()["predictions"]
    passes = column(tmp_path / "out.parquet", "passes")
    assert passes.tolist() == [row["passes"] for row in wanted]
    assert len(set(passes.tolist())) > 2
    for name in ("mean", "std_error"):
        found = column(tmp_path / "out.parquet", name)
        np.testing.assert_allclose(found, [row[name] for row in wanted], atol=TOLERANCE)


def canvas() -> npt.NDArray[np.float64]:
    return np.concatenate([example("digits-segmentation"), example("digits-segmentation") * 0.5])


@pytest.mark.long
def test_maps_are_lists_and_reduced_they_are_columns(tmp_path: Path, server: Server) -> None:
    np.save(tmp_path / "rows.npy", canvas())
    wide = tmp_path / "wide.parquet"
    score(tmp_path / "rows.npy", wide, "digits-segmentation", mc=3, seed=7, fields=("mean", "entropy"), reduce="p95")
    body = {"inputs": canvas().tolist()}
    url = "/models/digits-segmentation/predict?mc=3&seed=7&fields=mean,entropy"
    reduced = server.client.post(f"{url}&reduce=p95", json=body).json()["predictions"]
    assert table(wide).schema.names == ["passes", "mean.background", *(f"mean.{n}" for n in range(10)), "entropy"]
    np.testing.assert_allclose(column(wide, "mean.background"), [row["mean"][0] for row in reduced], atol=1e-5)
    np.testing.assert_allclose(column(wide, "entropy"), [row["entropy"] for row in reduced], atol=1e-5)
    maps = tmp_path / "maps.parquet"
    score(tmp_path / "rows.npy", maps, "digits-segmentation", mc=3, seed=7, fields=("mean", "entropy"), batch_rows=1)
    whole = server.client.post(url, json=body).json()["predictions"]
    for name in ("mean", "entropy"):
        found = np.array(table(maps).column(name).to_pylist())
        np.testing.assert_allclose(found, [row[name] for row in whole], atol=1e-5)
