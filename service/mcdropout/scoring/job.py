"""Jobs: what is to be scored, by which model, and how; and what that comes to once the model is known."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mcdropout.catalogue.model import Model
from mcdropout.engine.errors import InvalidInputError
from mcdropout.engine.masks import MAX_SEED
from mcdropout.engine.sizes import Named
from mcdropout.engine.statistics import ALL, Reduction, View
from mcdropout.engine.stopping import DEFAULT_TOLERANCE
from mcdropout.scoring.errors import ScoringError

_PART_BYTES = 2**24  # of what the rows of a part hold, read and answered
_PART_OPERATIONS = 2**38  # some ten seconds of a core
_MOST_PART_ROWS = 2**16


@dataclass(frozen=True)
class Job:
    """What is to be scored, and how.

    Attributes:
        data: the file, or a folder of images.
        output: where the predictions go.
        model: the bundle's folder.
        mc: the passes of each row, 0 for the deterministic baseline; "auto" for as many as each row needs; None for
            the model's default.
        tolerance: with mc "auto", the standard error of the mean that is small enough; None for the usual one.
        seed: what the masks are drawn from; None to have one drawn.
        fields: the names of the statistics that are wanted; None for all.
        reduce: what is to become of the places of a dense answer, such as "p95"; None to leave them.
        regions: for which regions, such as "4x4"; None for all places together.
        keep: columns of the file that the output keeps.
        skip_bad: whether rows that cannot be used are answered with nulls, instead of ending it.
        batch_rows: how many rows are read, predicted and written at a time; None for what fits the model.
        device: where PyTorch networks run: "cpu", "cuda" or "cuda:N".
        resume: whether parts of an earlier run are taken over.
        overwrite: whether an output that is there is replaced.
    """

    data: Path
    output: Path
    model: Path
    mc: int | Literal["auto"] | None = None
    tolerance: float | None = None
    seed: int | None = None
    fields: tuple[str, ...] | None = None
    reduce: str | None = None
    regions: str | None = None
    keep: tuple[str, ...] = ()
    skip_bad: bool = False
    batch_rows: int | None = None
    device: str = "cpu"
    resume: bool = True
    overwrite: bool = False

    def check(self) -> None:
        """Raise ScoringError for what is wrong whatever the model."""
        if self.seed is not None and not 0 <= self.seed <= MAX_SEED:
            raise ScoringError(f"seed is {self.seed}; an integer from 0 to {MAX_SEED} is accepted")
        if self.batch_rows is not None and self.batch_rows < 1:
            raise ScoringError(f"batch_rows is {self.batch_rows}; 1 or more is accepted")
        if self.tolerance is not None and self.mc != "auto":
            raise ScoringError(
                f"tolerance is {self.tolerance:g} and mc is {self.mc}; a tolerance is accepted with mc auto"
            )
        if self.tolerance is not None and not 0.0 < self.tolerance < math.inf:
            raise ScoringError(f"tolerance is {self.tolerance:g}; a finite number above 0 is accepted")
        if self.regions is not None and self.reduce is None:
            raise ScoringError(f"regions is {self.regions!r} without reduce; they are accepted together")
        if not self.data.exists():
            raise ScoringError(f"{self.data}: there is no such file; a file of rows or a folder of images is accepted")


@dataclass(frozen=True)
class Passes:
    """How many passes each row gets.

    Attributes:
        most: so many, or, with a tolerance, at most; 0 for the deterministic baseline.
        tolerance: a row stops when no standard error of its mean is above this; None for all passes.
    """

    most: int
    tolerance: float | None = None

    @property
    def mc(self) -> int | str:
        """As it was asked for."""
        return self.most if self.tolerance is None else "auto"


def passes_of(job: Job, model: Model) -> Passes:
    """How many passes each row gets of a model.

    Raises:
        ScoringError: more than the model gives.
    """
    allowed = model.bundle.manifest.passes
    if job.mc == "auto":
        return Passes(allowed.maximum, DEFAULT_TOLERANCE if job.tolerance is None else job.tolerance)
    passes = allowed.default if job.mc is None else job.mc
    if not 0 <= passes <= allowed.maximum:
        raise ScoringError(f"mc is {passes}; 0 to {allowed.maximum}, or auto, is accepted by {model.name}")
    return Passes(passes)


def view_of(job: Job, model: Model) -> View:
    """What of a model's predictions is shown.

    Raises:
        ScoringError: it does not give that.
    """
    if job.fields is None and job.reduce is None:
        return ALL
    try:
        view = View(job.fields, None if job.reduce is None else Reduction.of(job.reduce, job.regions))
        view.check(model.engine.reading, model.engine.places)
    except InvalidInputError as error:
        raise ScoringError(str(error)) from error
    return view


def part_rows(model: Model, passes: Passes, answered: int) -> int:
    """How many rows a part has where nobody says so: what fits the memory and is soon done, on any machine alike.

    Args:
        model: which predicts.
        passes: that each row gets.
        answered: how many numbers the answer to a row has.
    """
    read = sum(
        math.prod(size.most if isinstance(size, Named) else size for size in spec.dimensions) for spec in model.takes
    )
    of_bytes = _PART_BYTES // (8 * (read + answered))
    cost = model.engine.program.cost
    count = model.bundle.manifest.passes.default if passes.tolerance is not None else passes.most
    of_operations = _PART_OPERATIONS // max(1, cost.prefix + max(1, count) * cost.suffix)
    return max(1, min(of_bytes, of_operations, _MOST_PART_ROWS))
