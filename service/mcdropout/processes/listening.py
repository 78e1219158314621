"""Sockets that listen, one for each address of a host; and when a server stops to."""

import errno
import signal
import socket

from mcdropout.settings import Settings

BACKLOG = 2048


def stop_signals() -> list[int]:
    """The signals at which a server ends what it has and stops: a terminal that is closed among them, where that is not
    to be ignored, as under nohup."""
    closed = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *closed]


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on each address of a host that this machine has; with port 0, on one free port.

    Raises:
        OSError: there is none, or one is in use.
    """
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = list(dict.fromkeys((family, address[:2]) for family, _, _, _, address in found))
    listeners: list[socket.socket] = []
    for family, address in addresses:
        try:
            listener = socket.create_server((str(address[0]), port), family=family, backlog=BACKLOG)
        except OSError as error:
            last = (family, address) == addresses[-1] and not listeners
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) and not last:  # as where there is no IPv6
                continue
            for other in listeners:
                other.close()
            raise
        listener.setblocking(False)
        listeners.append(listener)
        port = listener.getsockname()[1]
    return listeners


def scheme_of(settings: Settings) -> str:
    """That of a server's addresses."""
    return "http" if settings.tls_certificate is None else "https"


def address_of(listener: socket.socket, scheme: str = "http") -> str:
    """Where a socket listens, as a URL."""
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
