"""Running a job: read, predict, and write, a part at a time."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mcdropout.catalogue.checks import RowsError
from mcdropout.catalogue.loading import Loading, load
from mcdropout.catalogue.manifest import BundleError
from mcdropout.catalogue.model import Model
from mcdropout.catalogue.stamps import sources, stamps_of
from mcdropout.digest import digest_of
from mcdropout.engine.errors import EngineError
from mcdropout.engine.masks import drawn_seed
from mcdropout.scoring.chunks import Chunk, Source
from mcdropout.scoring.errors import ScoringError
from mcdropout.scoring.job import Job, part_rows, passes_of, view_of
from mcdropout.scoring.layout import Layout, layout_of
from mcdropout.scoring.outputs import Output, check_output, output_of
from mcdropout.scoring.parts import Part, Parts, parts_of
from mcdropout.scoring.scorer import Scorer
from mcdropout.scoring.sources import open_source

Watch = Callable[[int, float | None], object]
"""Called with the rows that are done, and the share of the file that was read for them, where it is known."""


@dataclass(frozen=True)
class Summary:
    """What became of a job.

    Attributes:
        rows: how many the output has,
        skipped: and how many of them without an answer.
        scored: how many were predicted now; the others were so before.
        seconds: how long that took, without the loading of the model.
        seed: what the masks were drawn from.
    """

    rows: int
    skipped: int
    scored: int
    seconds: float
    seed: int


@dataclass(frozen=True)
class Work:
    """A job whose model is loaded and whose file is open.

    Attributes:
        scorer: predicts.
        source: what is read.
        output: what writes it.
        parts: what is done already, and where the rest goes.
        record: what the output is made of and how.
    """

    scorer: Scorer
    source: Source
    output: Output
    parts: Parts
    record: Mapping[str, Any]

    def missing(self) -> Iterator[Chunk]:
        """The chunks that are not done."""
        done = {part.first for part in self.parts.done()}
        first = 0
        while first in done:
            first += self.parts.batch_rows
        return (chunk for chunk in self.source.chunks(first, self.parts.batch_rows) if chunk.first not in done)

    def score(self, chunk: Chunk) -> Part:
        """Predict a chunk, and write its part.

        Raises:
            ScoringError: a row cannot be used.
        """
        try:
            return self.parts.write(self.output, self.scorer.score(chunk))
        except RowsError as error:
            raise ScoringError(f"{error}; --skip-bad answers such rows with nulls") from error


def run(job: Job, watch: Watch = lambda rows, share: None) -> Summary:
    """Predict the rows of a file, or, where it stopped before, those that are left.

    Args:
        job: which file, and how.
        watch: sees what is done.

    Raises:
        ScoringError: the file, the model, or what is asked for cannot be used.
    """
    with prepared(job) as work:
        began = time.perf_counter()
        before = rows = sum(part.stop - part.first for part in work.parts.done())
        for chunk in work.missing():
            part = work.score(chunk)
            rows += part.stop - part.first
            watch(rows, chunk.share)
        return finished(job, work, before, began)


def finished(job: Job, work: Work, before: int, began: float) -> Summary:
    """Put the parts together.

    Args:
        job: what they are of.
        work: that made them.
        before: how many rows were done when it began,
        began: by `time.perf_counter()`.
    """
    parts = work.parts.done()
    rows = sum(part.stop - part.first for part in parts)
    skipped = sum(part.skipped for part in parts)
    work.parts.join(work.output, job.output)
    return Summary(rows, skipped, rows - before, time.perf_counter() - began, work.parts.seed)


@dataclass(frozen=True)
class Opened:
    """A job whose model is loaded and whose file is open.

    Attributes:
        job: which.
        scorer: predicts, but for the seed.
        source: what is read.
        layout: the columns of the output.
    """

    job: Job
    scorer: Scorer
    source: Source
    layout: Layout

    @cached_property
    def record(self) -> dict[str, Any]:
        """What an output is made of and how; what goes on from it has to be the same."""
        job, model, passes = self.job, self.scorer.model, self.scorer.passes
        return {
            "model": model.name,
            "model_version": model.version,
            "model_sha256": _digest_of(model.bundle.folder),
            "data": {"name": job.data.name, **self.source.stamp},
            "seed": job.seed,
            "mc": passes.mc,
            "tolerance": passes.tolerance,
            "fields": None if job.fields is None else list(job.fields),
            "reduce": job.reduce,
            "regions": job.regions,
            "keep": list(job.keep),
            "batch_rows": job.batch_rows,
            "device": job.device,
        }

    def work(self, parts: Parts) -> Work:
        """The work that there is, with the seed that is settled.

        Raises:
            ScoringError: the output cannot hold that, or takes a package that is not installed.
        """
        model, mc = self.scorer.model, self.scorer.passes.mc
        about = {"model": model.name, "version": model.version, "mc": str(mc), "seed": str(parts.seed)}
        output = output_of(self.job.output, self.layout, about)
        return Work(replace(self.scorer, seed=parts.seed), self.source, output, parts, self.record)


def opened(job: Job) -> Opened:
    """Load a job's model, and open its file.

    Raises:
        ScoringError: the file, the model, or what is asked for cannot be used.
    """
    job.check()
    model = _loaded(job.model, job.device)
    source = open_source(job.data, model.takes, job.keep)
    scorer = Scorer(model, passes_of(job, model), 0, view_of(job, model), str(job.data), job.skip_bad)
    return Opened(job, scorer, source, layout_of(scorer, source.kept, job.fields))


@contextmanager
def prepared(job: Job) -> Iterator[Work]:
    """The work of a job, while no other process is at its output.

    Raises:
        ScoringError: the file, the model, or what is asked for cannot be used.
    """
    check_output(job.output)
    if job.output.exists() and not job.overwrite:
        raise ScoringError(f"{job.output}: it exists already; another name, or --overwrite, is accepted")
    if job.output.exists() and job.data.exists() and job.output.samefile(job.data):
        raise ScoringError(f"{job.output}: is what is to be predicted; another name is accepted for the output")
    found = opened(job)
    found.work(Parts(job.output, 0, 1))  # what the output cannot hold is said before anything is written
    rows = part_rows(found.scorer.model, found.scorer.passes, found.layout.numbers)
    with parts_of(job.output, found.record, resume=job.resume, drawn=drawn_seed(), rows=rows) as parts:
        if not job.skip_bad and any(part.skipped for part in parts.done()):
            raise ScoringError(
                f"{parts.folder}: of what is done already, some rows were skipped; --skip-bad is accepted to go on, "
                "and --no-resume begins anew"
            )
        yield found.work(parts)


def _loaded(folder: Path, device: str) -> Model:
    try:
        return load(folder, Loading(device=device))
    except (BundleError, EngineError) as error:
        raise ScoringError(str(error)) from error
    except ModuleNotFoundError as error:
        raise ScoringError(
            f"{folder}: loading it takes {error.name}, which is not installed; pip install 'mcdropout[torch]' mends it"
        ) from error


def _digest_of(folder: Path) -> str:
    """A digest of a bundle's files, but for what compiling it writes."""
    known = hashlib.sha256()
    for name in sorted(sources(stamps_of(folder))):
        known.update(f"{name}\0{digest_of(folder / name)}\0".encode(errors="surrogateescape"))
    return known.hexdigest()
