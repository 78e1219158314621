"""Metrics: what Prometheus reads, in base units."""

import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client import values as value_classes
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from mcdropout.machine import locked
from mcdropout.metrics.files import use_solid_files

# A time of creation beside every series would double what Prometheus stores, and nothing here reads it.
disable_created_metrics()  # type: ignore[no-untyped-call]

_LATENCY_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
_ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_STEP_BUCKETS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_PASSES_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_ENTROPY_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 2.5, 3.0, 5.0, 7.0)
# Of a target in whatever unit: two bounds for each power of ten of the variance, one of the standard deviation.
_VARIANCE_BUCKETS = tuple(base * 10.0**power for power in range(-8, 9) for base in (1.0, 3.0))
# The value of a gauge that is left out, where it cannot be taken out of a file; of several processes' the least counts.
_FORGOTTEN = math.inf
_FOLDER_PREFIX = "mcdropout-metrics-"
_ABANDONED_SECONDS = 60.0


_Metric = TypeVar("_Metric", Counter, Gauge, Histogram)


class _Folder:
    path: Path | None = None


_folder = _Folder()


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A folder for the metrics of several processes, gone afterwards.

    So are those of earlier ones that were killed before they could see to it.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*"):
        with suppress(OSError):
            # A new one is not locked at once.
            if left.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
                with locked(left):
                    shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=_FOLDER_PREFIX) as made, locked(Path(made)):
        yield Path(made)


def share(folder: Path, process: str) -> None:
    """Keep this process's metrics in files of `folder`, and expose those of all processes that do.

    To be called before the first metric is made.

    Args:
        folder: where; a process has some files of 64 KiB each, or of less than twice what they hold. What is counted
            first after the disk has become full is exposed by the process itself alone, or not at all.
        process: its name among them. Another process that is given the name after it continues its counters.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    use_solid_files()
    value_classes.ValueClass = value_classes.MultiProcessValue(lambda: process)  # type: ignore[no-untyped-call]
    _folder.path = folder


def forget_process(folder: Path, process: str) -> None:
    """Expose no more the state that a process was in which has ended; what it counted stays counted."""
    mark_process_dead(process, str(folder))  # type: ignore[no-untyped-call]


def restart_counter(workers: Iterable[str]) -> Counter:
    """How often the supervisor started each worker again."""
    counter = Counter(
        "mcdropout_worker_restarts",
        "Times that a worker was started again after it had ended.",
        ("worker",),
        registry=None,
    )
    for worker in workers:
        counter.labels(worker)
    return counter


def record_start(registry: CollectorRegistry | None = None) -> None:
    """Record that the server starts now: the process itself where it serves alone, else the supervisor."""
    start = Gauge(
        "mcdropout_start_time_seconds",
        "When the server started, in seconds since the epoch.",
        registry=registry,
        multiprocess_mode="livemin",
    )
    start.set(time.time())


class Metrics:
    """One process's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._series: dict[tuple[object, ...], Any] = {}
        self._finding = threading.Lock()
        self._by_model: list[tuple[Counter | Gauge | Histogram, tuple[str, ...]]] = []
        by_request = ("model", "mode", "status")

        def histogram(name: str, text: str, labels: Iterable[str], buckets: Iterable[float]) -> Histogram:
            made = Histogram(f"mcdropout_{name}", text, labels, buckets=tuple(buckets), registry=self.registry)
            self._by_model.append((made, tuple(labels)))
            return made

        def counter(name: str, text: str, labels: Iterable[str]) -> Counter:
            made = Counter(f"mcdropout_{name}", text, labels, registry=self.registry)
            self._by_model.append((made, tuple(labels)))
            return made

        self.denied = Counter(
            "mcdropout_requests_denied", "Requests denied by their key.", ("reason",), registry=self.registry
        )
        self.requests = counter("requests", "Prediction requests answered.", by_request)
        self.request_duration = histogram(
            "request_duration_seconds", "From a request's arrival to its answer.", by_request, _LATENCY_BUCKETS
        )
        self.queue_duration = histogram(
            "queue_duration_seconds", "Time that a request waited for the engine.", ("model",), _LATENCY_BUCKETS
        )
        self.compute_duration = histogram(
            "compute_duration_seconds", "Time that the engine took for a request's batch.", ("model",), _LATENCY_BUCKETS
        )
        self.pairs = counter("pairs", "Pairs of a row and a pass that were run; deterministic ones count.", ("model",))
        self.rows = counter("rows", "Rows predicted.", ("model",))
        self.passes_used = histogram("row_passes", "Passes that a row used.", ("model",), _PASSES_BUCKETS)
        self.step_rows = histogram("step_rows", "Rows that were in a step.", ("model",), _ROW_BUCKETS)
        self.step_pairs = histogram("step_pairs", "Pairs of a row and a pass in a step.", ("model",), _ROW_BUCKETS)
        self.step_duration = histogram(
            "step_duration_seconds",
            'Time of a step, by stage: "prefix", "masks" (but for those that a suffix draws), "suffix", "statistics".',
            ("model", "stage"),
            _STEP_BUCKETS,
        )
        self.refused = counter("refused", "Requests that were not taken, or not to the end.", ("model", "reason"))
        self.bad_requests = Counter(
            "mcdropout_bad_requests",
            "What was refused before anybody was asked: no HTTP, too large a head, too slow, or a connection too many.",
            ("status",),
            registry=self.registry,
        )
        self.connections_cut = Counter(
            "mcdropout_connections_cut",
            "Connections that were cut off: of clients that do not read, or do not end a TLS handshake, or idle ones "
            "where others wanted a place.",
            registry=self.registry,
        )
        self.log_lines_lost = Counter(
            "mcdropout_log_lines_lost",
            "Lines of the log that could not be written, or not as fast as they came.",
            registry=self.registry,
        )
        self.cancelled = counter("cancelled", "Requests whose client went away.", ("model",))
        self.step_failures = counter("step_failures", "Steps that raised an error.", ("model",))
        self.queue_rows = Gauge(
            "mcdropout_queue_rows",
            "Rows that were taken and are not answered yet.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.queue_rows_limit = Gauge(
            "mcdropout_queue_rows_limit",
            "Rows that may be on their way; requests beyond them are refused.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.queue_bytes = Gauge(
            "mcdropout_queue_bytes",
            "Memory of the inputs of those rows, in bytes.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.row_values = {
            name: histogram(f"{name}{unit}", text, ("model",), buckets)
            for name, unit, text, buckets in (
                ("predictive_entropy", "_nats", "Predictive entropy of each row.", _ENTROPY_BUCKETS),
                ("mutual_information", "_nats", "Mutual information of each row.", _ENTROPY_BUCKETS),
                ("predictive_variance", "", "Variance of each row's prediction, all of it.", _VARIANCE_BUCKETS),
                ("epistemic_variance", "", "Variance of each row's prediction over its passes.", _VARIANCE_BUCKETS),
            )
        }
        self.model_ready = Gauge(
            "mcdropout_model_ready",
            "1 where the model is loaded, verified and warm, else 0.",
            ("model",),
            registry=self.registry,
            multiprocess_mode="livemin",  # 1 where each living worker's is
        )
        self._by_model.append((self.model_ready, ("model",)))
        if _folder.path is None:
            record_start(self.registry)
        self.reloads = counter(
            "reloads", 'Models loaded or reloaded while serving: "succeeded", "refused".', ("model", "outcome")
        )

    def of(self, metric: "_Metric", *labels: str) -> "_Metric":
        """The series of one of these metrics with these labels; what `labels` returns, found sooner."""
        found: _Metric | None = self._series.get((metric, *labels))
        if found is None:
            with self._finding:  # or what is being forgotten might be kept
                found = self._series[metric, *labels] = metric.labels(*labels)
        return found

    def forget_readiness(self, model: str) -> None:
        """Expose no more whether a model is ready that is not meant to be."""
        if _folder.path is not None:
            self.model_ready.labels(model).set(_FORGOTTEN)
            return
        with suppress(KeyError):
            self.model_ready.remove(model)

    def forget(self, model: str) -> None:
        """Expose no more of a model that is gone: with ever new names, series would pile up.

        Where processes share their metrics, what was counted stays: files of Prometheus's client only grow.
        """
        if _folder.path is not None:
            self.forget_readiness(model)
            return
        with self._finding:
            self._forget(model)
            self._series.clear()

    def _forget(self, model: str) -> None:
        for metric, names in self._by_model:
            samples = [sample.labels for family in metric.collect() for sample in family.samples]
            for values in {tuple(labels[name] for name in names) for labels in samples if labels["model"] == model}:
                with suppress(KeyError):
                    metric.remove(*values)

    def exposition(self) -> tuple[bytes, str]:
        """The metrics in Prometheus's text format, and its content type; of all processes, where they share theirs."""
        exposed = self.registry if _folder.path is None else _Shared(_folder.path)
        return generate_latest(exposed), CONTENT_TYPE_LATEST


class _Shared(Collector):
    """The metrics of all processes, without what was forgotten."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        for metric in MultiProcessCollector(None, str(self._folder)).collect():  # type: ignore[no-untyped-call]
            if metric.type == "gauge":
                metric.samples = [sample for sample in metric.samples if sample.value != _FORGOTTEN]
            yield metric
