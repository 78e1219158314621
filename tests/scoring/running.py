"""`mcdropout score` for tests: in this process, or as one of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mcdropout.scoring.job import Job
from mcdropout.scoring.run import Summary, run
from tests.bundles import write_bundle
from tests.compilations import compiled
from tests.conftest import MODELS
from tests.patience import patience

COMMAND = [sys.executable, "-m", "mcdropout", "score"]
TOLERANCE = 1e-6  # within which sums of floats differ by their order


def score(data: Path, output: Path, model: str | Path, **options: Any) -> Summary:
    """Score in this process, by a bundle of the repository or a folder's."""
    return run(Job(data, output, MODELS / model, **options))


def command(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    """What the command does as a process."""
    started = [*COMMAND, *map(str, arguments)]
    environment = os.environ | environment
    return subprocess.run(started, capture_output=True, text=True, timeout=patience(120), env=environment)


def example(model: str) -> npt.NDArray[np.float64]:
    """The rows of a bundle's example, as a client sends them."""
    rows = np.asarray(json.loads((MODELS / model / "example.json").read_text())["inputs"], np.float64)
    shape = {"tumour-mlp": 2, "concrete-mlp": 2}.get(model, 4)
    return rows if rows.ndim == shape else rows[None]


def nuclei(rows: int) -> npt.NDArray[np.float64]:
    """`[rows, 30]` of tumour-mlp's input, no two alike."""
    generator, known = np.random.default_rng(5), example("tumour-mlp")
    found: npt.NDArray[np.float64] = known[generator.integers(0, len(known), rows)]
    return found * generator.uniform(0.8, 1.2, (rows, 30))


def table(path: Path) -> pa.Table:
    """What a Parquet file holds."""
    return pq.read_table(path)


def column(path: Path, name: str) -> npt.NDArray[Any]:
    """A column of a Parquet file."""
    found: npt.NDArray[Any] = table(path).column(name).to_numpy()
    return found


def clinic_in(models: Path) -> Path:
    """A bundle whose input has columns, one of them of names."""
    patient = {
        "name": "patient",
        "shape": [4],
        "columns": ["age", "ward", "pulse", "dose"],
        "categories": {"ward": ["A", "B"]},
        "minimum": 0,
    }
    return compiled(write_bundle(models, "clinic", input=patient))
