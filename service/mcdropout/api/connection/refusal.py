"""Refusals: answers to requests that no app is asked for."""

from typing import NamedTuple


class Refusal(NamedTuple):
    """An answer to a request that no app was asked for.

    Attributes:
        status: the HTTP status code.
        headers: each a line with its end.
        body: what they describe.
    """

    status: int
    headers: bytes
    body: bytes
