"""The service's metrics among Ray's, which Prometheus reads from an agent on each machine.

`GET /metrics` through Ray reaches one replica, whichever it is. What each replica measures goes to Ray too, as
`ray_mcdropout_...` with the labels `deployment` and `replica`; `deploy/ray/prometheus.yml` takes the prefix off again.
"""

import threading
import time

import structlog
from prometheus_client import CollectorRegistry
from ray.serve import metrics

_log = structlog.get_logger("metrics")
_SECONDS = 10.0  # as often as Ray reports to its agents


class Export:
    """Exports the values of a registry's series, from a thread of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._gauges: dict[str, metrics.Gauge] = {}
        threading.Thread(target=self._work, name="metrics", daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                self.export()
            except Exception:  # of Ray's, and no reason not to serve
                _log.exception("metrics were not exported to Ray")
            time.sleep(_SECONDS)

    def export(self) -> None:
        """Export all of them: counters and histograms too are gauges to Ray, which has no other way to take a total."""
        for family in self._registry.collect():
            for sample in family.samples:
                gauge = self._gauges.get(sample.name)
                if gauge is None:
                    gauge = metrics.Gauge(sample.name, family.documentation, tuple(sample.labels))
                    self._gauges[sample.name] = gauge
                gauge.set(sample.value, tags=sample.labels)
