"""An exchange: requests as steps that a transport carries out, waits and tries between them included; knows no socket.

A call of the client is a generator, which yields steps and is sent the outcome of each. `Client` and `AsyncClient`
carry them out, one by blocking and the other by awaiting, and all that they decide is decided here.
"""

import random
import time
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlsplit

import orjson

from mcdropout.client.errors import ClientError, StatusError, UnexpectedAnswerError, UnreachableError, kind_of

T = TypeVar("T")

_RETRIED = (429, 503)
_FIRST_PAUSE_SECONDS = 0.1  # doubled by each try, where the server does not say when
_LONGEST_PAUSE_SECONDS = 5.0
_MOST_DOUBLINGS = 10  # by then it is the longest; far beyond, floats end
_JITTER = 0.25  # of a pause, at most, on top of it: clients that were refused together come back one by one
_SHOWN = 200  # characters of an answer that is no problem


@dataclass(frozen=True)
class Send:
    """A step: send a request.

    Attributes:
        method: such as GET.
        url: where to.
        headers: to send along.
        content: the body; None for none.
        seconds: how long it may take; None for as long as it takes.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    content: bytes | None = field(repr=False)
    seconds: float | None


@dataclass(frozen=True)
class Pause:
    """A step: wait for some seconds."""

    seconds: float


@dataclass(frozen=True)
class Received:
    """An outcome of `Send`: an answer came, whatever its status.

    Attributes:
        status: the HTTP status code.
        headers: by their names in lower case.
        content: the body.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True)
class Failed:
    """An outcome of `Send`: no answer came.

    Attributes:
        error: what the transport raised.
        in_time: whether it was before the time was over.
    """

    error: Exception
    in_time: bool


Step = Send | Pause
Outcome = Received | Failed | None
Steps = Generator[Step, Outcome, T]
"""A call of the client: what it yields is to be carried out, what it returns is the call's result."""


@dataclass(frozen=True)
class Service:
    """The service that a client calls, and how.

    Attributes:
        url: its address, without a slash at the end.
        headers: what goes with every request.
        timeout: the most seconds that a call takes, tries and pauses included; None for any.
        retries: how often a request is tried again at most.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)
    timeout: float | None
    retries: int


def service_at(url: str, key: str | None, timeout: float | None, retries: int) -> Service:
    """The service at an address.

    Raises:
        ValueError: the address, the key, the timeout or the number of retries cannot be used.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"url is {url!r}; an address such as http://127.0.0.1:8000 is accepted")
    if key is not None and not (key and key.isascii() and key.isprintable() and " " not in key):
        raise ValueError("key holds what a header cannot; printable ASCII characters without blanks are accepted")
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout is {timeout!r}; seconds above 0, or None for no limit, are accepted")
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise ValueError(f"retries is {retries!r}; a whole number from 0 on is accepted")
    headers = {"accept": "application/json"} | ({} if key is None else {"authorization": f"Bearer {key}"})
    return Service(url.rstrip("/"), headers, timeout, retries)


class Limit:
    """A limit of time that begins now."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._ends = None if seconds is None else time.monotonic() + seconds

    @property
    def left(self) -> float | None:
        """The seconds that are left; None where there is no limit."""
        return None if self._ends is None else self._ends - time.monotonic()

    def holds(self, seconds: float) -> bool:
        """Whether more than so many seconds are left."""
        left = self.left
        return left is None or left > seconds


def answered(
    service: Service,
    method: str,
    path: str,
    content: bytes | None = None,
    content_type: str = "application/json",
    *,
    limit: Limit,
    retries: int | None = None,
) -> Steps[Received]:
    """Send a request until it is answered with 200.

    It is tried again where no connection came about or it broke before the answer, and where the answer is 429 or 503:
    not before its Retry-After. A prediction has no side effects, and follows from its seed, so that to ask again is
    safe.

    Args:
        service: which service.
        method, path, content, content_type: the request.
        limit: how long it may take.
        retries: how often it is tried again at most; as often as the service says where not given.

    Raises:
        UnreachableError: there was no answer.
        StatusError: the answer is an error.
        UnexpectedAnswerError: the answer is neither that nor 200.
    """
    most = service.retries if retries is None else retries
    headers = {**service.headers, **({} if content is None else {"content-type": content_type})}
    attempt = 0
    while True:
        left = limit.left
        outcome = yield Send(method, service.url + path, headers, content, None if left is None else max(left, 0.001))
        if isinstance(outcome, Received) and outcome.status == HTTPStatus.OK:
            return outcome
        assert outcome is not None
        pause = _pause_before_next(outcome, attempt)
        if pause is None or attempt == most or not limit.holds(pause):
            cause = outcome.error if isinstance(outcome, Failed) else None
            raise _error_of(service, outcome, limit, attempt + 1) from cause
        attempt += 1
        yield Pause(pause)


def document_of(received: Received) -> dict[str, Any]:
    """The JSON object that an answer holds.

    Raises:
        UnexpectedAnswerError: it holds something else.
    """
    with suppress(orjson.JSONDecodeError):
        document = orjson.loads(received.content)
        if isinstance(document, dict):
            return document
    raise UnexpectedAnswerError(
        f"the answer is no JSON object but {_beginning(received)}; the address of an mcdropout service is accepted"
    )


def _pause_before_next(outcome: Received | Failed, attempt: int) -> float | None:
    """The seconds to wait before a request is tried again; None where it is not."""
    told = None
    if isinstance(outcome, Received):
        if outcome.status not in _RETRIED:
            return None
        told = retry_after(outcome.headers)
    if told is None:
        told = min(_FIRST_PAUSE_SECONDS * 2.0 ** min(attempt, _MOST_DOUBLINGS), _LONGEST_PAUSE_SECONDS)
    return told * (1.0 + _JITTER * random.random())


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a Retry-After asks for, from now on (RFC 9110, 10.2.3); None where there is none.

    A date is compared with the server's own, where the answer has it: the clocks of two machines differ.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    date = _date_of(text)
    if date is None:
        return None
    now = _date_of(headers.get("date", "")) or datetime.now(UTC)
    return max(0.0, (date - now).total_seconds())


def _date_of(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _error_of(service: Service, outcome: Received | Failed, limit: Limit, tries: int) -> ClientError:
    tried = f" in {tries} tries" if tries > 1 else ""
    if isinstance(outcome, Failed):
        if not outcome.in_time:
            within = "in time" if limit.seconds is None else f"within {limit.seconds:g} seconds"
            return UnreachableError(f"{service.url} did not answer {within}{tried}")
        reason = str(outcome.error) or type(outcome.error).__name__
        return UnreachableError(f"{service.url} cannot be reached{tried}: {reason}")
    if outcome.status < 400:
        to = outcome.headers.get("location")
        where = f" to {to!r}, which is not followed" if to else ""
        return UnexpectedAnswerError(f"{service.url} answered with the status {outcome.status}{where}; 200 is accepted")
    return _status_error(outcome)


def _status_error(received: Received) -> StatusError:
    """The error that an answer holds; a proxy's, which is no problem, as well."""
    problem: Any = None
    with suppress(orjson.JSONDecodeError):
        problem = orjson.loads(received.content)
    if not isinstance(problem, dict):
        problem = {"detail": _beginning(received)}
    with suppress(ValueError):
        problem.setdefault("title", HTTPStatus(received.status).phrase)
    request_id = problem.get("request_id") or received.headers.get("x-request-id")
    return kind_of(received.status)(
        received.status,
        str(problem.get("title", "Error")),
        str(problem.get("detail", _beginning(received))),
        None if request_id is None else str(request_id),
        retry_after(received.headers),
    )


def _beginning(received: Received) -> str:
    text = received.content[: 4 * _SHOWN].decode(errors="replace").strip()
    return repr(text[:_SHOWN] + ("..." if len(text) > _SHOWN else "")) if text else "nothing"
