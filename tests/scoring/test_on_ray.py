"""`mcdropout score --ray`: the bytes that one process gives, in the order of the file, whichever actor does what."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from mcdropout.engine.threads import thread_count
from mcdropout.scoring.job import Job
from mcdropout.scoring.parts import folder_of
from mcdropout.scoring.run import prepared
from tests.conftest import MODELS
from tests.scoring.running import command, nuclei, score
from tests.scoring.test_resuming import stopped

ROWS = 60
# A cluster of its own, of this machine alone.
ALONE = {"RAY_ADDRESS": "local", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
TUMOURS = ("--model", MODELS / "tumour-mlp", "--seed", 7, "--mc", 20, "--batch-rows", 2, "--ray")


@pytest.mark.long
def test_the_bytes_are_those_of_one_process_of_which_parts_are_taken_over(tmp_path: Path) -> None:
    data, output, alone = tmp_path / "rows.csv", tmp_path / "out.parquet", tmp_path / "alone.parquet"
    rows = pa.table({f"c{place}": nuclei(ROWS)[:, place] for place in range(30)})
    pa.csv.write_csv(rows, data)
    stopped(data, output)
    done = command(data, "-o", output, *TUMOURS, **ALONE)
    assert done.returncode == 0, done.stderr
    assert f"{ROWS} rows, 6 of them before, in" in done.stdout
    score(data, alone, "tumour-mlp", mc=20, seed=7, batch_rows=2)
    assert output.read_bytes() == alone.read_bytes()
    assert not folder_of(output).exists()


def test_a_machine_that_has_another_bundle_refuses(tmp_path: Path) -> None:
    from mcdropout.ray.scoring import PartScorer

    np.save(tmp_path / "rows.npy", nuclei(ROWS))
    job = Job(tmp_path / "rows.npy", tmp_path / "out.parquet", MODELS / "tumour-mlp")
    with prepared(job) as work:
        failed = []
        for digest in (work.record["model_sha256"], "0"):
            scorer = PartScorer(job, work.parts, {**work.record, "model_sha256": digest}, thread_count())
            failed += scorer({"first": np.array([0])})["failed"].tolist()
    assert failed[0] == ""
    assert re.fullmatch(r"a machine of the cluster has another model_sha256, .* and not 0; the same .*", failed[1])
