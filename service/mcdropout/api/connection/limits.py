"""Limits of connections: how large a head may be, and how long a client may take."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a connection may take of the server.

    Attributes:
        head_bytes: the largest head of a request: its first line and its fields.
        head_fields: the most fields of a head.
        head_seconds: the time from the first byte of a head, or from when the connection began, to the head's last; and
            that of a TLS handshake.
        body_seconds: the time from there to the last byte of the body.
        write_seconds: the time for which a client may read nothing of an answer that it is sent.
        unread_bytes: the memory of all answers that clients were sent and have not read; beyond it the connection that
            holds most is cut.
        linger_seconds: the time that a connection that is to end, behind a request that was not read to its end, is
            still read: the answer would be lost on the way to a client that is still sending. Over TLS, the time that
            its client may take to end it, too.
        connections: the most connections at once, those in a TLS handshake among them.
    """

    head_bytes: int = 64 * 1024
    head_fields: int = 100
    head_seconds: float = 10.0
    body_seconds: float = 60.0
    write_seconds: float = 30.0
    unread_bytes: int = 256 * 2**20
    linger_seconds: float = 2.0
    connections: int = 1024
