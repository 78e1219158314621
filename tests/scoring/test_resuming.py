"""What stopped goes on: after SIGKILL, after Ctrl-C, and not from what is made of something else."""

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcdropout.machine import locked
from mcdropout.scoring.errors import ScoringError
from mcdropout.scoring.job import Job
from mcdropout.scoring.parts import folder_of
from mcdropout.scoring.run import prepared, run
from mcdropout.scoring.scorer import Scored
from tests.conftest import MODELS
from tests.patience import patience, wait_until
from tests.scoring.running import COMMAND, nuclei, score, table

ROWS = 60


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.save(tmp_path / "rows.npy", nuclei(ROWS))
    return tmp_path / "rows.npy"


def stopped(data: Path, output: Path, parts: int = 3, **options: Any) -> None:
    """Leave so many parts of two rows, as what is killed then does."""
    job = Job(data, output, MODELS / "tumour-mlp", **{"seed": 7, "mc": 20, "batch_rows": 2, **options})
    with prepared(job) as work:
        for chunk, _ in zip(work.missing(), range(parts), strict=False):
            work.score(chunk)


@contextmanager
def running(data: Path, output: Path, *flags: str) -> Iterator["subprocess.Popen[str]"]:
    """The command, once some parts are done and others are not."""
    slow = ["--mc", "10000", "--seed", "7", "--batch-rows", "1"]
    arguments = [data, "-o", output, "--model", MODELS / "tumour-mlp", *slow, *flags]
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: len(list(folder_of(output).glob("0*"))) >= 3, 60)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.wide
@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".csv", ".npz"])
def test_what_was_killed_goes_on_and_gives_the_bytes_of_an_unbroken_run(
    data: Path, tmp_path: Path, suffix: str
) -> None:
    output, unbroken = tmp_path / f"out{suffix}", tmp_path / f"unbroken{suffix}"
    with running(data, output) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = len(list(folder_of(output).glob("0*")))
    assert 3 <= done < ROWS
    assert not output.exists()
    options = {"mc": 10000, "seed": 7, "batch_rows": 1}
    summary = score(data, output, "tumour-mlp", **options)
    assert (summary.rows, summary.scored) == (ROWS, ROWS - done)
    score(data, unbroken, "tumour-mlp", **options)
    assert output.read_bytes() == unbroken.read_bytes()
    assert not folder_of(output).exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_says_how_to_go_on(data: Path, tmp_path: Path, number: signal.Signals) -> None:
    output = tmp_path / "out.parquet"
    with running(data, output) as process:
        process.send_signal(number)
        _, said = process.communicate(timeout=patience(30))
    assert process.returncode == 130
    assert said.strip() == (
        f"interrupted; what is done is kept in {folder_of(output)}, and the same command goes on from there"
    )


def test_the_seed_that_was_drawn_stays(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    stopped(data, output, seed=None)
    seed = score(data, output, "tumour-mlp", mc=20).seed
    score(data, tmp_path / "again.parquet", "tumour-mlp", mc=20, seed=seed, batch_rows=2)
    assert table(output).equals(table(tmp_path / "again.parquet"))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"seed": 8}, "another seed, 7 and not 8"),
        ({"mc": 10}, "another mc, 20 and not 10"),
        ({"fields": ("mean",)}, 'another fields, null and not ["mean"]'),
        ({"batch_rows": 3}, "another batch_rows, 2 and not 3"),
    ],
)
def test_parts_of_another_question_are_refused(
    data: Path, tmp_path: Path, changed: dict[str, Any], sentence: str
) -> None:
    output = tmp_path / "out.parquet"
    stopped(data, output)
    with pytest.raises(ScoringError) as refused:
        score(data, output, "tumour-mlp", **{"seed": 7, "mc": 20, **changed})
    assert sentence in str(refused.value)
    assert "--no-resume begins anew" in str(refused.value)


def test_parts_of_a_file_that_changed_are_refused(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    stopped(data, output)
    np.save(data, nuclei(ROWS + 1))
    with pytest.raises(ScoringError, match="another data"):
        score(data, output, "tumour-mlp", seed=7, mc=20)


def test_parts_of_a_model_that_changed_are_refused(data: Path, tmp_path: Path) -> None:
    output, model = tmp_path / "out.parquet", tmp_path / "models" / "tumour-mlp"
    shutil.copytree(MODELS / "tumour-mlp", model)
    job = Job(data, output, model, mc=20, seed=7, batch_rows=2)
    with prepared(job) as work:
        work.score(next(iter(work.missing())))
    manifest = model / "model.yaml"
    manifest.write_text(manifest.read_text().replace("threshold: 0.1", "threshold: 0.2"))
    with pytest.raises(ScoringError, match="another model_sha256"):
        score(data, output, model, mc=20, seed=7)


def test_without_resuming_it_begins_anew(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    stopped(data, output)
    summary = score(data, output, "tumour-mlp", mc=20, seed=8, resume=False)
    assert (summary.rows, summary.scored, summary.seed) == (ROWS, ROWS, 8)


def test_a_part_that_is_missing_between_others_is_scored(data: Path, tmp_path: Path) -> None:
    output, unbroken = tmp_path / "out.parquet", tmp_path / "unbroken.parquet"
    stopped(data, output, parts=5)
    sorted(folder_of(output).glob("0*"))[1].unlink()
    seen: list[int] = []
    run(Job(data, output, MODELS / "tumour-mlp", mc=20), lambda rows, share: seen.append(rows))
    assert seen == list(range(10, ROWS + 1, 2))  # 8 rows were done
    score(data, unbroken, "tumour-mlp", mc=20, seed=7, batch_rows=2)
    assert output.read_bytes() == unbroken.read_bytes()


def test_a_part_that_was_not_finished_counts_for_nothing(data: Path, tmp_path: Path) -> None:
    output, unbroken = tmp_path / "out.parquet", tmp_path / "unbroken.parquet"
    stopped(data, output, parts=2)
    (folder_of(output) / "unfinished-000000000004-000000000006-0.arrow").write_bytes(b"half")
    assert score(data, output, "tumour-mlp", mc=20).scored == ROWS - 4
    score(data, unbroken, "tumour-mlp", mc=20, seed=7, batch_rows=2)
    assert output.read_bytes() == unbroken.read_bytes()


def test_a_part_that_the_disk_has_no_room_for_is_not_there(data: Path, tmp_path: Path) -> None:
    class Full:
        suffix = ".arrow"

        def write(self, scored: Scored, path: Path) -> None:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def join(self, parts: Sequence[Path], path: Path) -> None:
            raise AssertionError("there is nothing to join")

    output = tmp_path / "out.parquet"
    stopped(data, output, parts=2)
    with prepared(Job(data, output, MODELS / "tumour-mlp", mc=20)) as work:
        chunk = next(iter(work.missing()))
        with pytest.raises(OSError, match="No space left"):
            replace(work, output=Full()).score(chunk)
        assert [part.first for part in work.parts.done()] == [0, 2]


def test_two_at_once_are_refused(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    stopped(data, output)
    with locked(folder_of(output)), pytest.raises(ScoringError, match="another process is at it"):
        score(data, output, "tumour-mlp", mc=20)


def test_a_folder_that_holds_something_else_is_left_as_it_is(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    folder_of(output).mkdir()
    (folder_of(output) / "thesis.txt").write_text("years of work")
    with pytest.raises(ScoringError, match="is no part of an output"):
        score(data, output, "tumour-mlp", mc=20)
    assert (folder_of(output) / "thesis.txt").read_text() == "years of work"


def test_an_output_that_is_there_is_replaced_only_where_that_is_asked_for(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    output.write_text("mine")
    with pytest.raises(ScoringError, match="exists already; another name, or --overwrite, is accepted"):
        score(data, output, "tumour-mlp", mc=20)
    assert output.read_text() == "mine"
    score(data, output, "tumour-mlp", mc=20, overwrite=True)
    assert len(output.read_text().splitlines()) == ROWS + 1


def test_what_was_skipped_before_is_not_taken_for_an_answer(tmp_path: Path) -> None:
    rows = nuclei(ROWS)
    rows[1] = np.nan
    np.save(tmp_path / "rows.npy", rows)
    stopped(tmp_path / "rows.npy", tmp_path / "out.csv", skip_bad=True)
    with pytest.raises(ScoringError, match="some rows were skipped; --skip-bad is accepted to go on"):
        score(tmp_path / "rows.npy", tmp_path / "out.csv", "tumour-mlp", mc=20)
    assert score(tmp_path / "rows.npy", tmp_path / "out.csv", "tumour-mlp", mc=20, skip_bad=True).skipped == 1


def test_what_is_read_is_never_written_over(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", nuclei=nuclei(3))
    before = (tmp_path / "rows.npz").read_bytes()
    with pytest.raises(ScoringError, match="is what is to be predicted; another name is accepted"):
        score(tmp_path / "rows.npz", tmp_path / "rows.npz", "tumour-mlp", mc=20, overwrite=True)
    assert (tmp_path / "rows.npz").read_bytes() == before
