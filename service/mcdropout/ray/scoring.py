"""Scoring on Ray Data: each actor loads the bundle once, and predicts parts of a file, which it writes itself.

A part's rows keep their indices in the file, and so their masks: which actor predicts it, and when, changes nothing.
The data, the bundle and the output lie where all machines of the cluster see them under the same paths.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError

from mcdropout import log
from mcdropout.engine.threads import use_threads
from mcdropout.scoring.errors import ScoringError
from mcdropout.scoring.job import Job
from mcdropout.scoring.parts import Parts
from mcdropout.scoring.run import Summary, Watch, Work, finished, opened, prepared

_SAME = ("model_version", "model_sha256", "data")

Batch = dict[str, npt.NDArray[Any]]


class PartScorer:
    """An actor: a model that predicts parts of a file."""

    def __init__(self, job: Job, parts: Parts, record: Mapping[str, Any], threads: int) -> None:
        """
        Args:
            job: which file, and how.
            parts: where they go; the seed and the number of rows in each.
            record: what the one who asks found the model and the file to be.
            threads: that compute.
        """
        log.configure("console", "error")
        use_threads(threads)
        self._job, self._parts, self._record = job, parts, record

    @cached_property
    def _work(self) -> Work:
        """The model and the file, loaded and opened once.

        Raises:
            ScoringError: here they are others.
        """
        found = opened(self._job)
        for name in _SAME:
            if found.record[name] != self._record[name]:
                raise ScoringError(
                    f"a machine of the cluster has another {name}, {found.record[name]} and not {self._record[name]}; "
                    "the same files, under the same paths, are accepted"
                )
        return found.work(self._parts)

    def __call__(self, batch: Batch) -> Batch:
        """Predict the parts that begin with these rows. What fails is returned, as Ray would try it again."""
        rows, failed = [], []
        for first in batch["first"].tolist():
            try:
                work = self._work
                part = work.score(next(iter(work.source.chunks(first, self._parts.batch_rows))))
                rows.append(part.stop - part.first)
                failed.append("")
            except ScoringError as error:
                rows.append(0)
                failed.append(str(error))
        return {"rows": np.array(rows), "failed": np.array(failed)}


def run_on_ray(job: Job, watch: Watch, threads: int) -> Summary:
    """Predict the rows of a file, or those that are left, on the cluster that there is, or else on this machine.

    Args:
        job: which file, and how.
        watch: sees what is done.
        threads: that compute in each actor, and the cores that it takes.

    Raises:
        ScoringError: the file, the model, or what is asked for cannot be used.
    """
    job = replace(job, data=job.data.absolute(), output=job.output.absolute(), model=job.model.absolute())
    with prepared(job) as work:
        began = time.perf_counter()
        done = {part.first: part.stop - part.first for part in work.parts.done()}
        before, total = sum(done.values()), _total(work)
        missing = [first for first in range(0, total, work.parts.batch_rows) if first not in done]
        if missing:
            _score(job, work, missing, watch, before, total, threads)
        return finished(job, work, before, began)


def _score(job: Job, work: Work, missing: list[int], watch: Watch, before: int, total: int, threads: int) -> None:
    ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="error")
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    most = max(1, min(len(missing), int(ray.cluster_resources().get("CPU", 1)) // threads))
    answers = ray.data.from_items([{"first": first} for first in missing]).map_batches(
        PartScorer,
        batch_size=1,
        compute=ActorPoolStrategy(min_size=1, max_size=most),
        num_cpus=threads,
        num_gpus=float(job.device != "cpu"),
        fn_constructor_args=(job, work.parts, work.record, threads),
    )
    rows = before
    try:
        for answer in answers.iter_rows():
            if answer["failed"]:
                raise ScoringError(answer["failed"])
            rows += answer["rows"]
            watch(rows, rows / total)
    except RayError as error:
        raise ScoringError(f"Ray ended the work: {_cause(error)}") from error


def _cause(error: RayError) -> str:
    """The last line of an error, which is what an actor raised, behind where it did."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _total(work: Work) -> int:
    """How many rows there are, which some files say only once they have been read."""
    if work.source.total is not None:
        return work.source.total
    return sum(chunk.count for chunk in work.source.chunks(0, work.parts.batch_rows))
