"""`mcdropout score` as a process: what it prints, its exit status, its memory, and what it needs to be installed."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import MODELS
from tests.patience import patience
from tests.scoring.running import COMMAND, command, nuclei

TUMOURS = ("--model", MODELS / "tumour-mlp", "--seed", 7)
KEPT = [f"k{number}" for number in range(20)]  # of the Parquet file alone
_MEASURED = """
import sys
from mcdropout.cli import app
try:
    app(sys.argv[1:])
finally:
    print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.save(tmp_path / "rows.npy", nuclei(1200))
    return tmp_path / "rows.npy"


def test_it_ends_with_a_line_of_rows_seconds_and_rate(data: Path, tmp_path: Path) -> None:
    done = command(data, "-o", tmp_path / "out.csv", *TUMOURS, "--mc", 5)
    assert (done.returncode, done.stderr) == (0, "")
    said = re.escape(str(tmp_path / "out.csv")) + r": 1,200 rows, in \d+\.\d s, [\d,]+ rows/s \(seed 7\)\n"
    assert re.fullmatch(said, done.stdout)


def test_progress_is_shown_where_somebody_looks_on(data: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    arguments = [data, "-o", tmp_path / "out.csv", *TUMOURS, "--batch-rows", 50]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=theirs, env=environment
    )
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 4096):
            seen += part
    except OSError:  # nobody writes to it any more
        pass
    finally:
        os.close(ours)
    assert process.wait(patience(60)) == 0
    assert re.search(rb"\d+ rows, [\d,]+ rows/s", seen), seen
    assert b"%" in seen


def test_what_is_refused_is_said_in_a_line_and_ends_with_1(data: Path, tmp_path: Path) -> None:
    done = command(data, "-o", tmp_path / "out.xlsx", *TUMOURS)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: {tmp_path / 'out.xlsx'}: a name that ends in .parquet, .arrow, .feather, .csv, .npz is accepted for "
        "the output\n"
    )
    done = command(data, "-o", tmp_path / "out.csv", *TUMOURS, "--mc", "many")
    assert (done.returncode, done.stderr) == (1, "error: mc is 'many'; a number of passes, or auto, is accepted\n")
    done = command(data, "-o", tmp_path / "out.csv", "--model", tmp_path)
    assert done.returncode == 1
    assert "model.yaml: is missing" in done.stderr


def test_skipped_rows_are_counted_in_the_line_at_the_end(tmp_path: Path) -> None:
    rows = nuclei(20)
    rows[3] = np.nan
    np.save(tmp_path / "rows.npy", rows)
    done = command(tmp_path / "rows.npy", "-o", tmp_path / "out.npz", *TUMOURS, "--skip-bad", "--threads", 1)
    assert "20 rows, 1 of them skipped, in" in done.stdout


def _written(path: Path, rows: int) -> None:
    values = np.tile(nuclei(1000), (rows // 1000, 1))
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez_compressed(path, nuclei=values)
    elif path.suffix == ".csv":
        lines = "\n".join(",".join(map(str, row)) for row in nuclei(1000).tolist()) + "\n"
        path.write_text(lines * (rows // 1000))
    else:
        columns = {f"c{place}": values[:, place] for place in range(30)}
        kept = {name: np.arange(rows) * 0.1 for name in KEPT}
        pq.write_table(pa.table(columns | kept), path, use_dictionary=False)


@pytest.mark.long
@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_ten_times_the_rows_take_no_more_memory(tmp_path: Path, suffix: str) -> None:
    peaks = []
    for rows in (40_000, 400_000):
        data, output = tmp_path / f"{rows}{suffix}", tmp_path / f"{rows}-out{suffix.replace('npy', 'npz')}"
        _written(data, rows)
        flags = ["--mc", "1", "--batch-rows", "2000", "--fields", "mean,entropy,variation_ratio"]
        flags += ["--keep", ",".join(KEPT)] if suffix == ".parquet" else []
        arguments = ["score", data, "-o", output, "--model", MODELS / "tumour-mlp", *flags]
        done = subprocess.run(
            [sys.executable, "-c", _MEASURED, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=patience(120),
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]))
    read_more = 360_000 * 30 * 8 / 1024  # KiB that the rows are
    assert peaks[1] - peaks[0] < read_more / 2


def test_numbers_and_csv_take_no_pyarrow_and_parquet_says_that_it_does(data: Path, tmp_path: Path) -> None:
    (tmp_path / "without" / "pyarrow").mkdir(parents=True)
    (tmp_path / "without" / "pyarrow" / "__init__.py").write_text("raise ModuleNotFoundError('none', name='pyarrow')")
    path = os.pathsep.join([str(tmp_path / "without"), os.environ.get("PYTHONPATH", "")])
    for suffix in (".npz", ".csv"):
        done = command(data, "-o", tmp_path / f"out{suffix}", *TUMOURS, PYTHONPATH=path)
        assert (done.returncode, done.stderr) == (0, "")
    done = command(data, "-o", tmp_path / "out.parquet", *TUMOURS, PYTHONPATH=path)
    assert done.returncode == 1
    assert done.stderr == (
        "error: Parquet, Arrow and Feather files take pyarrow (pip install 'mcdropout[score]'); .npy, .npz and .csv "
        "are accepted without\n"
    )
