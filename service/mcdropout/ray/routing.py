"""Which replica a request goes to: one that holds the model that it asks for, the less busy of two such.

Ray sends this to its proxies, which need not have the service installed.
"""

import pickle
import random
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, ReplicaResult, RequestRouter, RunningReplica

_REMEMBERED = 1000
_PATH = re.compile(r"/models/([^/]+)(?:/predict)?|/v2/models/([^/]+)(?:/versions/[^/]+)?(?:/ready|/infer)?")


def model_named(scope: Mapping[str, Any]) -> str | None:
    """The model that a request's path names, whatever prefix Ray has the app under; None where it names none."""
    path: str = scope.get("path", "")
    found = _PATH.fullmatch(path.removeprefix(scope.get("root_path", "").rstrip("/")))
    return None if found is None else found[1] or found[2]


class ByModel(RequestRouter):
    """Replicas that hold the model first, then those that hold the fewest; of each kind, the less busy of two.

    Where all that hold it are busy, the others come first: a model that is asked for often spreads to them.
    """

    def initialize_state(self, default: str | None = None, busy: int = 32) -> None:
        """
        Args:
            default: the model that is on every replica.
            busy: the requests that a replica has, above which it is busy.
        """
        self._default = default
        self._busy = busy
        self._sent: OrderedDict[str, ReplicaID] = OrderedDict()

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult) -> None:
        """Remember where a model was asked for: Ray's own record of it comes seconds later."""
        name = _model_of(pending_request)
        if name is not None:
            self._sent[name] = replica_id
            self._sent.move_to_end(name)
            if len(self._sent) > _REMEMBERED:
                self._sent.popitem(last=False)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The replicas to try, those of one list at the same time."""
        name = None if pending_request is None else _model_of(pending_request)
        if name is None or name == self._default:
            return [_two(candidate_replicas)]
        holders = [replica for replica in candidate_replicas if name in replica.multiplexed_model_ids]
        others = [replica for replica in candidate_replicas if name not in replica.multiplexed_model_ids]
        if not holders:
            holders = [replica for replica in others if replica.replica_id == self._sent.get(name)]
        fewest = min((len(replica.multiplexed_model_ids) for replica in others), default=0)
        emptiest = [replica for replica in others if len(replica.multiplexed_model_ids) == fewest]
        first, then = holders, emptiest
        if all((self.replica_queue_len_cache.get(replica.replica_id) or 0) > self._busy for replica in holders):
            first, then = emptiest, holders
        return [_two(some) for some in (first, then, candidate_replicas) if some]


def _two(replicas: list[RunningReplica]) -> list[RunningReplica]:
    return random.sample(replicas, min(2, len(replicas)))


def _model_of(request: PendingRequest) -> str | None:
    """The model that an HTTP request names, which Ray's proxy hands on pickled; None for what did not come by HTTP."""
    if not request.metadata.is_http_request:
        return None
    handed = request.args[0]
    if isinstance(handed, bytes):
        handed = pickle.loads(handed)
    return model_named(handed.asgi_scope)
