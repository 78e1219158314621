"""The guard: who a request is from, and whether that may ask for this, here.

A key comes as `Authorization: Bearer KEY` (RFC 6750). Without keys all that reach the server may ask for everything.
"""

import ipaddress
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from mcdropout.access import Key, Keyring, Role
from mcdropout.access.rates import Rates
from mcdropout.api.errors import ProblemError, explain
from mcdropout.api.headers import header_of
from mcdropout.api.observe import seen_of
from mcdropout.metrics import Metrics
from mcdropout.scheduling.clients import Client
from mcdropout.settings import Settings

_FOUND = "mcdropout.caller"  # of a request's scope: who it is from, or why it is denied
_SCHEME = "bearer "
_CHANGES = ("/load", "/unload", "/reload")
_HEALTH = (
    *("/health/", "/v2/health/"),
    *("/inference.GRPCInferenceService/ServerLive", "/inference.GRPCInferenceService/ServerReady"),
)
_FOR_ALL = (*_HEALTH, "/docs", "/page/", "/openapi.json")
_NETWORK_BITS = 64  # of an IPv6 address: what one client has the rest of


@dataclass(frozen=True)
class Caller:
    """Who a request is from.

    Attributes:
        client: who shares the machine with others.
        key: the name of its key; None where it showed none.
    """

    client: Client
    key: str | None = None


class Guard:
    """Lets requests through, or raises `ProblemError`."""

    def __init__(self, keyring: Keyring, metrics: Metrics, ports: Mapping[int, Role], processes: int = 1) -> None:
        """
        Args:
            keyring: the keys.
            metrics: where those that are denied are counted.
            ports: those that are for one role alone, whose requests are then accepted nowhere else.
            processes: how many share each key's rate.
        """
        self._keyring, self._metrics, self._ports = keyring, metrics, dict(ports)
        self._rates = Rates(processes)

    @classmethod
    def of(cls, settings: Settings, keyring: Keyring, metrics: Metrics) -> "Guard":
        """That of a server."""
        given = {settings.admin_port: Role.ADMIN, settings.metrics_port: Role.METRICS}
        ports = {port: role for port, role in given.items() if port is not None}
        return cls(keyring, metrics, ports, settings.workers)

    @property
    def has_keys(self) -> bool:
        """Whether there are keys, so that not everybody may ask for everything."""
        return self._keyring.is_used

    def check(self, scope: Scope) -> Caller:
        """Who a request is from, which may ask for this.

        Raises:
            ProblemError: 401 where it shows no key that is accepted; 403 where that is for something else; 429 where it
                makes more requests than it may; 404 where what it asks for is answered at another port.
        """
        if not self._keyring.is_used and not self._ports:  # its address may change: a proxy says whose it is
            return _anybody(_address_of(scope))
        found: Caller | ProblemError | None = scope.get(_FOUND)
        if found is None:
            try:
                found = self._checked(scope)
            except ProblemError as error:
                found = error
            scope[_FOUND] = found
        if isinstance(found, ProblemError):
            raise found
        return found

    def _checked(self, scope: Scope) -> Caller:
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        wanted = role_of(scope["method"], path)
        self._check_port(scope, path, wanted)
        if wanted is None or not self._keyring.is_used:
            return _anybody(_address_of(scope))
        key = self._key_of(scope)
        if key.rate is not None:
            wait = self._rates.wait(key.name, key.rate, time.monotonic())
            if wait > 0.0:
                self._metrics.denied.labels("rate").inc()
                raise ProblemError(
                    429,
                    f"the key {key.name!r} may make {key.rate:g} requests a second, and makes more",
                    {"Retry-After": str(math.ceil(wait))},
                )
        if key.roles.isdisjoint(_sufficient(scope["method"], wanted)):
            self._metrics.denied.labels("role").inc()
            has = " and ".join(sorted(key.roles))
            raise ProblemError(403, f"the key {key.name!r} is for {has}; one for {wanted} is accepted")
        return Caller(Client(f"key {key.name}", key.share), key.name)

    def _key_of(self, scope: Scope) -> Key:
        shown = header_of(scope, b"authorization")
        if shown is None:
            raise self._denied("missing", "no key is shown")
        if shown[: len(_SCHEME)].lower() != _SCHEME:
            raise self._denied("missing", "the field Authorization shows no bearer's key")
        key = self._keyring.find(shown[len(_SCHEME) :].strip())
        if key is None:
            raise self._denied("unknown", "the key is not known")
        if key.has_expired(datetime.now(UTC)):
            raise self._denied("expired", f"the key {key.name!r} has expired")
        return key

    def _denied(self, reason: str, detail: str) -> ProblemError:
        self._metrics.denied.labels(reason).inc()
        return ProblemError(
            401,
            f"{detail}; Authorization: Bearer KEY is accepted, with a key that the server knows",
            {"WWW-Authenticate": 'Bearer realm="mcdropout"'},
        )

    def _check_port(self, scope: Scope, path: str, wanted: Role | None) -> None:
        """Raise where what a request asks for is answered at another port."""
        if not self._ports or path.startswith(_HEALTH):
            return
        server = scope.get("server")
        here = self._ports.get(server[1]) if server else None
        elsewhere = wanted in self._ports.values() and here is not wanted
        if elsewhere or (here is not None and not _is_answered_at(here, scope["method"], wanted)):
            raise ProblemError(404, f"there is nothing at {path} of this port")


class GuardMiddleware:
    """Answers requests that the guard does not let through, and notes who the others are from."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app, self._guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = seen_of(scope)
        try:
            caller = self._guard.check(scope)
        except ProblemError as error:
            await explain(Request(scope), error)(scope, receive, send)
            return
        if seen is not None:
            seen.key = caller.key
        await self._app(scope, receive, send)


def role_of(method: str, path: str) -> Role | None:
    """The role that a request takes; None where everybody may ask."""
    if path == "/" or path.startswith(_FOR_ALL):
        return None
    if path == "/metrics":
        return Role.METRICS
    return Role.ADMIN if method == "POST" and path.endswith(_CHANGES) else Role.PREDICT


def _sufficient(method: str, wanted: Role) -> frozenset[Role]:
    """The roles of which one is enough: who operates the server may read what there is, too."""
    if wanted is Role.METRICS or (wanted is Role.PREDICT and method in ("GET", "HEAD")):
        return frozenset({wanted, Role.ADMIN})
    return frozenset({wanted})


def _is_answered_at(port: Role, method: str, wanted: Role | None) -> bool:
    """Whether a port that is for one role answers what takes another."""
    if wanted is None:
        return False
    return port is wanted or (port is Role.ADMIN and port in _sufficient(method, wanted))


def _address_of(scope: Scope) -> str:
    client = scope.get("client")
    return _network_of(client[0]) if client else ""


@lru_cache(maxsize=4096)
def _anybody(address: str) -> Caller:
    return Caller(Client(address))


@lru_cache(maxsize=4096)
def _network_of(address: str) -> str:
    """An address; of IPv6 the network in which a client may take any."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], _NETWORK_BITS), strict=False))
    except ValueError:
        return address
