"""Sockets that listen, one for each address of a host; and when a server stops to."""

import errno
import os
import signal
import socket

import structlog

from mcdropout.settings import Settings

_log = structlog.get_logger("server")

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


def listeners_of(settings: Settings) -> list[socket.socket] | None:
    """Sockets that listen on each of a server's ports, that for predictions first.

    Returns:
        None, and why in the log, where one of the ports cannot be listened on, that of gRPC among them. Its server
        opens that one itself, and would share it with another's (SO_REUSEPORT).
    """
    opened: list[socket.socket] = []
    port = settings.port
    try:
        for port in settings.ports:
            opened += listen(settings.host, port)
        if settings.grpc_port is not None:
            port = settings.grpc_port
            for listener in listen(settings.host, port):
                listener.close()
    except OSError as error:
        for listener in opened:
            listener.close()
        why = os.strerror(error.errno) if isinstance(error.errno, int) and error.errno > 0 else str(error)
        _log.error("cannot listen", host=settings.host, port=port, error=f"{why}; another host or port is accepted")
        return None
    return opened


def scheme_of(settings: Settings) -> str:
    """That of a server's addresses."""
    return "http" if settings.tls_certificate is None else "https"


def address_of(listener: socket.socket, scheme: str = "http") -> str:
    """Where a socket listens, as a URL."""
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
