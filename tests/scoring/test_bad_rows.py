"""Files and rows that cannot be used: refused in a sentence, or, where that is asked for, answered with nulls."""

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mcdropout.scoring.errors import ScoringError
from tests.bundles import write_bundle
from tests.compilations import compiled
from tests.scoring.running import clinic_in, column, example, nuclei, score, table


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clinic_in(tmp_path_factory.mktemp("models"))


def patients(**changes: list[Any]) -> dict[str, list[Any]]:
    rows = {"age": [31, 47, 62], "ward": ["A", "B", "A"], "pulse": [60.0, 70.0, 80.0], "dose": [0.5, 1.5, 2.5]}
    return {**rows, **changes}


def written(path: Path, columns: dict[str, list[Any]]) -> Path:
    (pa.csv.write_csv if path.suffix == ".csv" else pq.write_table)(pa.table(columns), path)
    return path


BAD_CELLS = [
    ({"ward": ["A", "C", "A"]}, "row 1 of {data} has \"C\" in the column 'ward'; one of ['A', 'B'] is accepted"),
    ({"dose": [0.5, 1.5, -2.5]}, "row 2 of {data}, in the column 'dose', holds values from -2.5"),
    ({"pulse": [60.0, None, 80.0]}, "row 1 of {data} has null in the column 'pulse'; a number is accepted"),
    ({"age": [31, 47, float("inf")]}, "row 2 of {data}, in the column 'age', holds"),
]


@pytest.mark.wide
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize(("changes", "sentence"), BAD_CELLS)
@pytest.mark.parametrize("batch_rows", [1, 2, 100])
def test_a_cell_that_cannot_be_used_is_named_by_file_row_and_column(
    tmp_path: Path, clinic: Path, suffix: str, changes: dict[str, list[Any]], sentence: str, batch_rows: int
) -> None:
    data = written(tmp_path / f"rows{suffix}", patients(**changes))
    with pytest.raises(ScoringError) as refused:
        score(data, tmp_path / "out.parquet", clinic, mc=5, batch_rows=batch_rows)
    assert sentence.format(data=data) in str(refused.value)
    assert str(refused.value).endswith("accepted; --skip-bad answers such rows with nulls")


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize("batch_rows", [1, 2, 100])
def test_rows_that_cannot_be_used_are_null_where_they_are_skipped(
    tmp_path: Path, clinic: Path, suffix: str, batch_rows: int
) -> None:
    data = written(tmp_path / f"rows{suffix}", patients(ward=["A", "C", "A"]))
    good = written(tmp_path / "good.parquet", patients())
    summary = score(
        data, tmp_path / "out.parquet", clinic, mc=5, seed=7, batch_rows=batch_rows, skip_bad=True, keep=("dose",)
    )
    assert (summary.rows, summary.skipped) == (3, 1)
    score(good, tmp_path / "wanted.parquet", clinic, mc=5, seed=7)
    found, wanted = (table(tmp_path / f"{of}.parquet").to_pylist() for of in ("out", "wanted"))
    assert [float(row.pop("dose")) for row in found] == [0.5, 1.5, 2.5]
    assert set(found[1].values()) == {None}
    for row in (0, 2):
        assert found[row]["label"] == wanted[row]["label"]
        assert found[row]["mean.0"] == pytest.approx(wanted[row]["mean.0"], abs=1e-6)


def test_skipped_rows_are_counted_after_an_interruption_too(tmp_path: Path, clinic: Path) -> None:
    from mcdropout.scoring.job import Job
    from mcdropout.scoring.run import prepared

    data = written(tmp_path / "rows.csv", patients(ward=["C", "B", "C"]))
    options: dict[str, Any] = {"mc": 5, "seed": 7, "batch_rows": 1, "skip_bad": True}
    with prepared(Job(data, tmp_path / "out.csv", clinic, **options)) as work:
        assert work.score(next(iter(work.missing()))).skipped == 1
    summary = score(data, tmp_path / "out.csv", clinic, **options)
    assert (summary.rows, summary.skipped, summary.scored) == (3, 2, 2)
    assert [row["label"] for row in csv.DictReader((tmp_path / "out.csv").open())][0::2] == ["", ""]


def test_a_file_of_bad_rows_alone_is_all_nulls(tmp_path: Path, clinic: Path) -> None:
    data = written(tmp_path / "rows.parquet", patients(ward=["C", "D", "E"]))
    assert score(data, tmp_path / "out.parquet", clinic, mc=5, skip_bad=True).skipped == 3
    assert table(tmp_path / "out.parquet").column("label").to_pylist() == [None] * 3
    assert score(data, tmp_path / "out.npz", clinic, mc=5, skip_bad=True).skipped == 3
    with np.load(tmp_path / "out.npz") as arrays:
        assert np.isnan(arrays["mean"]).all()
        assert (arrays["label"].tolist(), arrays["passes"].tolist()) == ([-1] * 3, [0] * 3)


def test_a_line_of_too_few_cells_is_named(tmp_path: Path, clinic: Path) -> None:
    (tmp_path / "rows.csv").write_text("age,ward,pulse,dose\n31,A,60,0.5\n47,B\n")
    with pytest.raises(ScoringError, match=r"row 1 of .*rows.csv has 2 cells; 4, one for each column, are accepted"):
        score(tmp_path / "rows.csv", tmp_path / "out.csv", clinic, mc=5)


def test_a_number_of_an_array_is_named_by_its_row_and_place(tmp_path: Path) -> None:
    rows = nuclei(20)
    rows[13, 4] = np.nan
    np.save(tmp_path / "rows.npy", rows)
    with pytest.raises(ScoringError, match=r"row 13 of .*rows.npy in the column 4 holds NaN; finite numbers are acc"):
        score(tmp_path / "rows.npy", tmp_path / "out.csv", "tumour-mlp", mc=5)
    summary = score(tmp_path / "rows.npy", tmp_path / "out.parquet", "tumour-mlp", mc=5, skip_bad=True)
    assert summary.skipped == 1
    assert np.flatnonzero(np.isnan(column(tmp_path / "out.parquet", "mean"))).tolist() == [13]


def test_a_row_of_a_list_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"words": [[1, 2], [], [3], [5000], None]}), path)
    with pytest.raises(ScoringError, match=r"row 1 of .*rows.parquet, in the column 'words',.* shape \[0\]; \[tokens"):
        score(path, tmp_path / "out.parquet", "sentiment-cnn", mc=5)
    summary = score(path, tmp_path / "out.parquet", "sentiment-cnn", mc=5, skip_bad=True)
    assert summary.skipped == 3
    assert [mean is None for mean in table(tmp_path / "out.parquet").column("mean").to_pylist()] == [
        False,
        True,
        False,
        True,
        True,
    ]


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(example("mnist-cnn")[0, 0].astype(np.uint8)).save(folder / "a.png")
    (folder / "b.png").write_bytes(b"no image")
    with pytest.raises(ScoringError, match=r"row 1, .*images/b.png, cannot be read as PNG or JPEG"):
        score(folder, tmp_path / "out.csv", "mnist-cnn", mc=5)
    assert score(folder, tmp_path / "out.csv", "mnist-cnn", mc=5, skip_bad=True).skipped == 1


def test_a_row_that_the_network_answers_with_nothing_of_use_is_named(tmp_path: Path) -> None:
    code = """
        import torch
        from torch import nn

        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))

            def forward(self, x):
                return self.layers(x) * torch.exp(x.sum(1, keepdim=True))
    """
    model = compiled(write_bundle(tmp_path / "models", "growing", code))
    np.save(tmp_path / "rows.npy", np.array([[0.1] * 4, [1000.0] * 4, [0.2] * 4]))
    with pytest.raises(ScoringError, match=r"rows.npy: the network answered NaN or infinity for row 1"):
        score(tmp_path / "rows.npy", tmp_path / "out.csv", model, mc=5)
    assert score(tmp_path / "rows.npy", tmp_path / "out.csv", model, mc=5, skip_bad=True).skipped == 1


def _text_column(path: Path) -> Path:
    return written(path / "rows.parquet", patients(pulse=["60", "70", "80"]))


def _lacking(path: Path) -> Path:
    columns = patients()
    del columns["dose"]
    return written(path / "rows.parquet", columns)


def _narrow(path: Path) -> Path:
    np.save(path / "rows.npy", np.ones((5, 3)))
    return path / "rows.npy"


def _objects(path: Path) -> Path:
    np.save(path / "rows.npy", np.array([None, 1], object))
    return path / "rows.npy"


def _text_file(path: Path) -> Path:
    (path / "rows.parquet").write_text("no Parquet")
    return path / "rows.parquet"


def _of_another_kind(path: Path) -> Path:
    (path / "rows.xlsx").write_text("a sheet")
    return path / "rows.xlsx"


def _names_alone(path: Path) -> Path:
    (path / "rows.csv").write_text("age,ward,pulse,dose\n")
    return path / "rows.csv"


def _not_utf8(path: Path) -> Path:
    (path / "rows.csv").write_bytes("age,ward,pulse,dose\n31,\xe4,60,0.5\n".encode("latin-1"))
    return path / "rows.csv"


def _no_rows(path: Path) -> Path:
    return written(path / "rows.parquet", {"age": [], "ward": [], "pulse": [], "dose": []})


def _wrong_name(path: Path) -> Path:
    np.savez(path / "rows.npz", other=np.ones((5, 4)))
    return path / "rows.npz"


def _cut(path: Path) -> Path:
    np.savez(path / "whole.npz", patient=np.ones((5, 4)))
    shutil.copy(path / "whole.npz", path / "rows.npz")
    content = (path / "rows.npz").read_bytes()
    (path / "rows.npz").write_bytes(content[: len(content) // 2])
    return path / "rows.npz"


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (_text_column, "the column 'pulse' holds string; numbers are accepted"),
        (_lacking, "lacks the columns ['dose']"),
        (_narrow, "has the shape [5, 3]; [4] for one row, [rows, 4] for several is accepted"),
        (_objects, "what numpy.save writes of numbers is accepted"),
        (_text_file, "a Parquet file is accepted"),
        (_of_another_kind, ".npy, .npz, .csv, .parquet, .arrow, .feather, and folders of images, are accepted"),
        (_names_alone, "it holds names alone; a line for each row is accepted"),
        (_not_utf8, "CSV in UTF-8 is accepted"),
        (_wrong_name, "it holds the arrays ['other'], and lacks ['patient']"),
        (_cut, "what numpy.savez writes of numbers is accepted"),
        (lambda path: path / "none.csv", "there is no such file"),
        (lambda path: path, "model.yaml has no `image:`"),
    ],
)
def test_files_that_cannot_be_used_are_refused_in_a_sentence(
    tmp_path: Path, clinic: Path, write: Any, sentence: str
) -> None:
    data = write(tmp_path)
    with pytest.raises(ScoringError) as refused:
        score(data, tmp_path / "out.csv", clinic, mc=5)
    assert str(data) in str(refused.value)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mc": 100000}, "mc is 100000; 0 to"),
        ({"mc": 5, "tolerance": 0.1}, "a tolerance is accepted with mc auto"),
        ({"mc": "auto", "tolerance": 0.0}, "tolerance is 0; a finite number above 0 is accepted"),
        ({"fields": ("median",)}, "fields names 'median'; of classification, label, mean"),
        ({"mc": 0, "fields": ("variance",)}, "fields names 'variance', which is null for this model with mc 0"),
        ({"reduce": "p95"}, "reduce is accepted for maps"),
        ({"regions": "2x2"}, "without reduce; they are accepted together"),
        ({"seed": -1}, "seed is -1; an integer from 0 to"),
        ({"batch_rows": 0}, "batch_rows is 0; 1 or more is accepted"),
        ({"keep": ("name",)}, "it has no column 'name' to keep"),
        ({"device": "tpu"}, 'device is \'tpu\'; "cpu", "cuda"'),
    ],
)
def test_what_is_asked_for_and_cannot_be_had_is_refused(
    tmp_path: Path, clinic: Path, options: dict[str, Any], sentence: str
) -> None:
    data = written(tmp_path / "rows.parquet", patients())
    with pytest.raises(ScoringError) as refused:
        score(data, tmp_path / "out.csv", clinic, **options)
    assert sentence in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]


def test_a_kept_column_may_not_have_a_statistics_name(tmp_path: Path, clinic: Path) -> None:
    data = written(tmp_path / "rows.parquet", patients(label=[1, 2, 3]))
    with pytest.raises(ScoringError, match="keep names 'label', which is a column of the output too"):
        score(data, tmp_path / "out.csv", clinic, mc=5, keep=("label",))


def test_columns_are_as_many_as_the_input_takes(tmp_path: Path) -> None:
    data = written(tmp_path / "rows.parquet", {f"c{place}": [1.0, 2.0] for place in range(29)})
    with pytest.raises(ScoringError, match=r"29 columns of numbers.*; 30, in the order of the input 'nuclei'"):
        score(data, tmp_path / "out.csv", "tumour-mlp", mc=5)
