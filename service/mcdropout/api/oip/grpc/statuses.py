"""Statuses: what an error comes to over gRPC, by what it comes to over HTTP."""

from dataclasses import dataclass

import grpc

from mcdropout.api.errors import Explanation

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_MOST_CHARACTERS = 2000  # of a message: it goes as a header, of which clients take 8 KiB together
_WAIT, _PUSHBACK = "retry-after", "grpc-retry-pushback-ms"


@dataclass(frozen=True)
class Status:
    """What a call ends with: `metadata` goes behind it."""

    code: grpc.StatusCode
    details: str
    metadata: tuple[tuple[str, str], ...]


def status_of(explained: Explanation, request_id: str) -> Status:
    """The status of an error.

    Where it says when to try again, so does the metadata: in seconds, and as clients with a policy of retries heed it
    (gRFC A6).
    """
    metadata = [("x-request-id", request_id)]
    wait = explained.headers.get("Retry-After")
    if wait is not None:
        metadata += [(_WAIT, wait), (_PUSHBACK, str(1000 * int(wait)))]
    code = _CODES.get(explained.status, grpc.StatusCode.INTERNAL)
    return Status(code, explained.detail[:_MOST_CHARACTERS], tuple(metadata))
