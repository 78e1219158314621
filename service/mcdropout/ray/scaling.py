"""How many replicas there are to be: so many that few rows wait in each.

Ray sends this to its controller, which need not have the service installed.
"""

import math
from typing import Any

from ray.serve.config import AutoscalingContext

ROWS = "queue_rows"


class ByQueueRows:
    """As many replicas as it takes for each to have no more than so many rows in flight."""

    def __init__(self, rows_per_replica: float) -> None:
        self._rows_per_replica = rows_per_replica

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The number of replicas, which Ray keeps within bounds, and nothing to remember."""
        rows = sum((context.aggregated_metrics or {}).get(ROWS, {}).values())
        rows += context.total_queued_requests or 0.0  # at Ray's proxies, of a row each at least
        return math.ceil(rows / self._rows_per_replica), {}
