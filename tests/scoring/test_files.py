"""The files that are scored, and those that come of it: each kind says the same."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from PIL import Image

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
