"""The files that are scored, and those that come of it: each kind says the same."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mcdropout.catalogue.loading import Loading, load
from mcdropout.scoring.errors import ScoringError
from tests.bundles import CLASSIFIER, TOKEN_FIELDS, TOKENS, write_bundle
from tests.compilations import compiled
from tests.scoring.running import TOLERANCE, clinic_in, column, example, nuclei, score, table

ROWS = 50
IDS = [f"p{number}" for number in range(ROWS)]


def columns() -> dict[str, Any]:
    return {"id": IDS, **{f"c{place}": nuclei(ROWS)[:, place] for place in range(30)}}


def _npz(path: Path) -> None:
    np.savez_compressed(path, nuclei=nuclei(ROWS), id=np.array(IDS))


def _fortran(path: Path) -> None:
    np.save(path, np.asfortranarray(nuclei(ROWS)).astype(">f8"))


def _stream(path: Path) -> None:
    whole = pa.table(columns())
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, whole.schema) as writer:
        writer.write_table(whole, max_chunksize=8)


def _plain_csv(path: Path) -> None:
    np.savetxt(path, nuclei(ROWS), delimiter=",", fmt="%.17g")


WRITTEN = {
    "npy": ("rows.npy", lambda path: np.save(path, nuclei(ROWS)), False),
    "fortran": ("rows.npy", _fortran, False),
    "npz": ("rows.npz", _npz, True),
    "fortran npz": ("rows.npz", lambda path: np.savez(path, nuclei=np.asfortranarray(nuclei(ROWS))), False),
    "parquet": ("rows.parquet", lambda path: pq.write_table(pa.table(columns()), path, row_group_size=8), True),
    "feather": ("rows.feather", lambda path: pa.feather.write_feather(pa.table(columns()), str(path)), True),
    "stream": ("rows.arrow", _stream, True),
    "csv": ("rows.csv", lambda path: pa.csv.write_csv(pa.table(columns()), path), True),
    "plain csv": ("rows.csv", _plain_csv, False),
    "list": (
        "rows.parquet",
        lambda path: pq.write_table(pa.table({"id": IDS, "anything": nuclei(ROWS).tolist()}), path),
        True,
    ),
}


@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.parametrize("batch_rows", [7, 64])
def test_each_kind_of_file_is_read_alike(tmp_path: Path, kind: str, batch_rows: int) -> None:
    name, write, has_ids = WRITTEN[kind]
    write(tmp_path / name)
    np.save(tmp_path / "plain.npy", nuclei(ROWS))
    keep = ("id",) if has_ids else ()
    score(tmp_path / name, tmp_path / "out.parquet", "tumour-mlp", mc=10, seed=7, batch_rows=batch_rows, keep=keep)
    score(tmp_path / "plain.npy", tmp_path / "wanted.parquet", "tumour-mlp", mc=10, seed=7, batch_rows=batch_rows)
    found, wanted = (column(tmp_path / f"{of}.parquet", "mean") for of in ("out", "wanted"))
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE)
    if has_ids:
        assert column(tmp_path / "out.parquet", "id").tolist() == IDS


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_booleans_may_be_ones_and_zeros_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    code = CLASSIFIER.replace("self.layers(x)", "self.layers(x.float())")
    truths = {"name": "truths", "shape": [4], "dtype": "bool"}
    model = compiled(write_bundle(tmp_path / "models", "truths", code, input=truths))

    def scored(name: str, rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        frame, path = pd.DataFrame(rows, columns=list("abcd")), tmp_path / f"{name}.{suffix}"
        frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
        score(path, tmp_path / f"{name}.npz", model, mc=5, seed=3)
        with np.load(tmp_path / f"{name}.npz") as answer:
            found: npt.NDArray[np.float64] = answer["mean"]
        return found

    numbers = np.random.default_rng(1).integers(0, 2, (6, 4))
    np.testing.assert_array_equal(scored("numbers", numbers), scored("words", numbers.astype(bool)))
    numbers[3, 2] = 2
    with pytest.raises(
        ScoringError, match=r"row 3 of .* has 2 in the column 'c'; true or false, or 1 or 0, is accepted"
    ):
        scored("wrong", numbers)


@pytest.mark.parametrize("kind", ["npz", "parquet", "feather", "stream", "csv"])
def test_each_kind_of_file_goes_on_from_the_middle(tmp_path: Path, kind: str) -> None:
    from tests.scoring.test_resuming import stopped

    name, write, _ = WRITTEN[kind]
    write(tmp_path / name)
    stopped(tmp_path / name, tmp_path / "out.csv", parts=11, keep=("id",))
    score(tmp_path / name, tmp_path / "out.csv", "tumour-mlp", mc=20, keep=("id",))
    score(tmp_path / name, tmp_path / "whole.csv", "tumour-mlp", mc=20, seed=7, batch_rows=2, keep=("id",))
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather", ".csv"])
def test_each_kind_of_table_says_the_same(tmp_path: Path, suffix: str) -> None:
    np.save(tmp_path / "rows.npy", np.concatenate([example("mnist-cnn")] * 3))
    output = tmp_path / f"out{suffix}"
    score(tmp_path / "rows.npy", output, "mnist-cnn", mc=5, seed=7)
    score(tmp_path / "rows.npy", tmp_path / "out.npz", "mnist-cnn", mc=5, seed=7)
    read = {".parquet": pd.read_parquet, ".csv": pd.read_csv}.get(suffix, pd.read_feather)
    frame = read(output)
    with np.load(tmp_path / "out.npz") as arrays:
        assert list(frame.columns)[:2] == ["label", "passes"]
        for name in ("mean", "variance", "std_error"):
            wide = np.stack([frame[f"{name}.{place}"] for place in range(10)], axis=1)
            np.testing.assert_array_equal(wide, arrays[name])
        for name in ("passes", "entropy", "mutual_information"):
            np.testing.assert_array_equal(frame[name], arrays[name])
        assert frame["label"].astype(int).tolist() == arrays["label"].tolist() == [7, 7, 7]


def test_what_a_single_pass_cannot_tell_is_null(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", nuclei(3))
    score(tmp_path / "rows.npy", tmp_path / "out.parquet", "tumour-mlp", mc=1, seed=7)
    assert table(tmp_path / "out.parquet").column("variance").to_pylist() == [None] * 3
    score(tmp_path / "rows.npy", tmp_path / "none.parquet", "tumour-mlp", mc=0)
    assert "variance" not in table(tmp_path / "none.parquet").schema.names


def test_maps_in_csv_are_json(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", example("digits-segmentation"))
    score(tmp_path / "rows.npy", tmp_path / "out.csv", "digits-segmentation", mc=2, seed=7, fields=("entropy",))
    (row,) = csv.DictReader((tmp_path / "out.csv").open())
    assert np.shape(json.loads(row["entropy"])) == (48, 48)


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose input has columns, one of them of names."""
    return clinic_in(tmp_path_factory.mktemp("models"))


PATIENTS = {
    "id": [11, 12, 13],
    "dose": [0.5, 1.5, 2.5],
    "ward": ["A", "B", "A"],
    "age": [31, 47, 62],
    "pulse": [60.0, 70.0, 80.0],
}


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_columns_are_found_by_the_names_that_the_bundle_gives(tmp_path: Path, clinic: Path, suffix: str) -> None:
    data = tmp_path / f"rows{suffix}"
    (pq.write_table if suffix == ".parquet" else pa.csv.write_csv)(pa.table(PATIENTS), data)
    np.save(tmp_path / "rows.npy", np.array([[31, 0, 60, 0.5], [47, 1, 70, 1.5], [62, 0, 80, 2.5]]))
    score(data, tmp_path / "out.parquet", clinic, mc=10, seed=7, keep=("id",))
    score(tmp_path / "rows.npy", tmp_path / "wanted.parquet", clinic, mc=10, seed=7)
    assert table(tmp_path / "out.parquet").drop_columns("id").equals(table(tmp_path / "wanted.parquet"))
    assert list(map(int, column(tmp_path / "out.parquet", "id"))) == [11, 12, 13]


def test_images_of_a_folder_are_rows_in_the_order_of_their_paths(tmp_path: Path) -> None:
    seven = example("mnist-cnn")[0, 0].astype(np.uint8)
    for place, name in enumerate(["b/two.png", "a.png", "b/one.png"]):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(seven // (place + 1)).save(tmp_path / "images" / name)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    np.save(tmp_path / "rows.npy", np.stack([seven // 2, seven // 3, seven])[:, None])
    score(tmp_path / "images", tmp_path / "out.parquet", "mnist-cnn", mc=5, seed=7, batch_rows=2)
    score(tmp_path / "rows.npy", tmp_path / "wanted.parquet", "mnist-cnn", mc=5, seed=7, batch_rows=2)
    assert column(tmp_path / "out.parquet", "file").tolist() == ["a.png", "b/one.png", "b/two.png"]
    assert table(tmp_path / "out.parquet").drop_columns("file").equals(table(tmp_path / "wanted.parquet"))


def test_rows_of_arrays_may_be_nested_lists_or_flat_ones(tmp_path: Path) -> None:
    rows = np.concatenate([example("mnist-cnn"), example("mnist-cnn") * 0.5])
    nested, flat = rows.tolist(), rows.reshape(2, -1).tolist()
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(rows)
    for name, cells in (("nested", pa.array(nested)), ("flat", pa.array(flat)), ("tensors", tensors)):
        pq.write_table(pa.table({"image": cells}), tmp_path / f"{name}.parquet")
        score(tmp_path / f"{name}.parquet", tmp_path / f"{name}-out.parquet", "mnist-cnn", mc=5, seed=7)
    found = [table(tmp_path / f"{name}-out.parquet") for name in ("nested", "flat", "tensors")]
    assert found[0].equals(found[1])
    assert found[0].equals(found[2])


def test_several_inputs_are_arrays_or_columns_by_their_names(tmp_path: Path) -> None:
    model = compiled(write_bundle(tmp_path / "models", "tokens", TOKENS, **TOKEN_FIELDS))
    tokens = np.random.default_rng(1).integers(0, 20, (6, 5))
    mask = np.arange(5) < np.array([5, 4, 3, 2, 1, 5])[:, None]
    np.savez(tmp_path / "rows.npz", attention_mask=mask, input_ids=tokens, id=np.arange(6, dtype=">i8"))
    columns = {"id": range(6), "attention_mask": mask.tolist(), "input_ids": tokens.tolist()}
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), tmp_path / "rows.parquet")
    for suffix in ("npz", "parquet"):
        output = tmp_path / f"{suffix}.parquet"
        score(tmp_path / f"rows.{suffix}", output, model, mc=10, seed=7, batch_rows=4, keep=("id",))
    takes = {"input_ids": tokens, "attention_mask": mask}
    wanted = load(model, Loading()).engine.predict(takes, 10, seed=7)
    found = table(tmp_path / "npz.parquet")
    assert found.equals(table(tmp_path / "parquet.parquet"))
    np.testing.assert_allclose(found.column("mean.1").to_numpy(), wanted.mean[:, 1], atol=TOLERANCE)


def test_what_is_missing_is_an_empty_cell_a_null_or_nan(tmp_path: Path) -> None:
    code = """
        from torch import nn

        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))

            def forward(self, x):
                return self.layers(x.nan_to_num(2.5))
    """
    model = compiled(write_bundle(tmp_path / "models", "gaps", code, input={"shape": [4], "missing": "allowed"}))
    rows = np.random.default_rng(1).normal(size=(5, 4)).round(3)
    rows[[1, 3], [0, 2]] = np.nan
    cells = [[None if np.isnan(cell) else cell for cell in column] for column in rows.T.tolist()]
    gaps = pa.table({f"c{place}": column for place, column in enumerate(cells)})
    np.save(tmp_path / "rows.npy", rows)
    pq.write_table(gaps, tmp_path / "rows.parquet")
    pa.csv.write_csv(gaps, tmp_path / "rows.csv")
    found = []
    for suffix in ("npy", "parquet", "csv"):
        score(tmp_path / f"rows.{suffix}", tmp_path / f"{suffix}.parquet", model, mc=10, seed=7)
        found.append(table(tmp_path / f"{suffix}.parquet"))
    assert found[0].equals(found[1])
    assert found[0].equals(found[2])
    assert not found[0].column("mean.0").null_count
