"""Which replica a request goes to: one that holds the model that it asks for, the less busy of two such.

Ray sends this to its proxies, which need not have the service installed.
"""

import pickle
import random
import re

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

_PATH = re.compile(r"/models/([^/]+)(?:/predict)?")


def model_named(path: str) -> str | None:
    """The model that a request's path names; None where it names none."""
    found = _PATH.fullmatch(path)
    return None if found is None else found[1]


class ByModel(RequestRouter):
    """Replicas that hold the model first, then those that hold the fewest; of each kind, the less busy of two.

    A replica that has as many requests as it may is passed over: a model that is asked for more than its replicas
    answer spreads to others.
    """

    def initialize_state(self, default: str | None = None) -> None:
        """
        Args:
            default: the model that is on every replica.
        """
        self._default = default

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The replicas to try, those of one list at the same time."""
        name = None if pending_request is None else model_named(_path(pending_request))
        if name is None or name == self._default:
            return [_two(candidate_replicas)]
        holders = [replica for replica in candidate_replicas if name in replica.multiplexed_model_ids]
        others = [replica for replica in candidate_replicas if name not in replica.multiplexed_model_ids]
        fewest = min((len(replica.multiplexed_model_ids) for replica in others), default=0)
        emptiest = [replica for replica in others if len(replica.multiplexed_model_ids) == fewest]
        return [_two(some) for some in (holders, emptiest, candidate_replicas) if some]


def _two(replicas: list[RunningReplica]) -> list[RunningReplica]:
    return random.sample(replicas, min(2, len(replicas)))


def _path(request: PendingRequest) -> str:
    """The path of a request that a proxy took, which it hands on pickled."""
    (handed, *_) = request.args or [None]
    if isinstance(handed, bytes):
        handed = pickle.loads(handed)
    scope = getattr(handed, "asgi_scope", None)
    return "" if scope is None else str(scope["path"])
