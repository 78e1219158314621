"""Hosts: the names by which clients may call this server.

A page of anybody's may let its own name lead to this machine, and its browser then takes what answers here for its own
(DNS rebinding). The name that it calls is in the field Host.
"""

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from mcdropout.settings import Settings, is_loopback

_OF_THIS_MACHINE = ("localhost", "127.0.0.1", "[::1]")
_PORT = re.compile(r":\d*\Z")


class Hosts:
    """Names that are accepted.

    Attributes:
        are_any: whether all are.
    """

    def __init__(self, names: Iterable[str]) -> None:
        """`names` are names and addresses without a port, "*.example.org" for all names below, "*" for any."""
        listed = [name.strip().lower() for name in names if name.strip()]
        self.are_any = "*" in listed
        self._names = frozenset(name for name in listed if not name.startswith("*"))
        self._below = tuple(name[1:] for name in listed if name.startswith("*."))

    @classmethod
    def of(cls, settings: Settings) -> "Hosts":
        """Those of a server: as listed; else those of this machine where nobody else reaches it, and any where
        others do, who know best what they call it."""
        if settings.allowed_hosts:
            return cls(settings.allowed_hosts.split(","))
        return cls(_OF_THIS_MACHINE if is_loopback(settings.host) else "*")

    def accept(self, host: bytes) -> bool:
        """Whether a field Host names one."""
        if self.are_any:
            return True
        name = _PORT.sub("", host.decode("latin-1").strip().lower())
        return name in self._names or name.endswith(self._below)

    def accept_page(self, origin: str, host: str | None) -> bool:
        """Whether a page of an origin, as the field Origin has it, may ask for what is not for everybody.

        It is one of this server's own, by a name that is known for this server's: not where any is accepted.
        """
        try:
            found = urlsplit(origin).netloc
        except ValueError:
            return False
        return not self.are_any and bool(found) and found == host and self.accept(found.encode())
