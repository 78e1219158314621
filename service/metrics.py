"""Metrics: what Prometheus reads, in base units."""

from collections.abc import Iterable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

# A time of creation beside every series would double what Prometheus stores, and nothing here reads it.
disable_created_metrics()  # type: ignore[no-untyped-call]

_LATENCY_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
_ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_STEP_BUCKETS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_PASSES_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_ENTROPY_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 2.5, 3.0, 5.0, 7.0)


class Metrics:
    """One process's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        by_request = ("model", "mode", "status")

        def histogram(name: str, text: str, labels: Iterable[str], buckets: Iterable[float]) -> Histogram:
            return Histogram(f"mcdropout_{name}", text, labels, buckets=tuple(buckets), registry=self.registry)

        def counter(name: str, text: str, labels: Iterable[str]) -> Counter:
            return Counter(f"mcdropout_{name}", text, labels, registry=self.registry)

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
        self.passes = counter("passes", "Passes run, each of one row; a deterministic one counts.", ("model",))
        self.rows = counter("rows", "Rows predicted.", ("model",))
        self.passes_used = histogram("row_passes", "Passes that a row used.", ("model",), _PASSES_BUCKETS)
        self.step_rows = histogram("step_rows", "Rows that were in a step.", ("model",), _ROW_BUCKETS)
        self.step_passes = histogram("step_passes", "Passes, each of one row, of a step.", ("model",), _ROW_BUCKETS)
        self.step_duration = histogram(
            "step_duration_seconds",
            'Time of a step, by stage: "prefix", "masks", "suffix", "statistics".',
            ("model", "stage"),
            _STEP_BUCKETS,
        )
        self.refused = counter("refused", "Requests that were not taken, or not to the end.", ("model", "reason"))
        self.cancelled = counter("cancelled", "Requests whose client went away.", ("model",))
        self.step_failures = counter("step_failures", "Steps that raised an error.", ("model",))
        self.queue_rows = Gauge(
            "mcdropout_queue_rows", "Rows that were taken and are not answered yet.", registry=self.registry
        )
        self.queue_bytes = Gauge(
            "mcdropout_queue_bytes", "Memory of the inputs of those rows, in bytes.", registry=self.registry
        )
        self.predictive_entropy = histogram(
            "predictive_entropy_nats", "Predictive entropy of each row.", ("model",), _ENTROPY_BUCKETS
        )
        self.mutual_information = histogram(
            "mutual_information_nats", "Mutual information of each row.", ("model",), _ENTROPY_BUCKETS
        )
        self.model_ready = Gauge(
            "mcdropout_model_ready",
            "1 where the model is loaded, verified and warm, else 0.",
            ("model",),
            registry=self.registry,
        )

    def exposition(self) -> tuple[bytes, str]:
        """The metrics in Prometheus's text format, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
