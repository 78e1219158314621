"""What every protocol does for a prediction: its body comes, its rows are answered, and the event loop goes on.

Errors are for `api/errors.py` to explain.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope

from mcdropout.api.encodings import accepts_gzip, decoded, gzipped
from mcdropout.api.errors import ProblemError
from mcdropout.api.formats import Written
from mcdropout.api.headers import header_of
from mcdropout.api.observe import Seen, Timeline
from mcdropout.api.room import Share
from mcdropout.api.services import Services
from mcdropout.engine.ragged import Rows
from mcdropout.predictions import Answered, Pause, Planned
from mcdropout.scheduling.answer import Answer, Shares
from mcdropout.scheduling.backlog import OverloadedError

INLINE_BYTES = 64 * 1024
"""Up to this size, in bytes, a body is parsed and an answer is written on the event loop; larger ones in a thread."""

# Most requests are answered before it is worth looking whether their client is still there.
_UNWATCHED_SECONDS = 0.05
# A thread that pauses for less finds the interpreter's lock free again before another has woken up.
_PAUSE_SECONDS = 0.0001

Receive = Callable[[], Awaitable[Any]]


async def answer_of(
    services: Services, planned: Planned, inputs: tuple[Rows, ...], receive: Receive | None, seen: Seen | None
) -> Answered:
    """The answer to rows, unless the client goes away before.

    Args:
        services: what answers.
        planned: what is asked for of them.
        inputs: `[rows, ...]` each, as the network takes them.
        receive: says when an HTTP client has gone away; None where the task is cancelled then.
        seen: what is seen of the request.

    Raises:
        ProblemError: 499 where the client went away.
    """
    future: asyncio.Future[Answer | Shares] = asyncio.get_running_loop().create_future()
    submitted, traced = time.perf_counter(), seen is not None and seen.is_traced
    seed = services.predictions.submit(planned, inputs, future, traced=traced)
    answered = Answered(planned.model, seed, await awaited(receive, future), planned.view, planned.p)
    if seen is not None:
        if traced:
            seen.timeline = Timeline.of(submitted, answered.answer)
        seen.rows, seen.seed, seen.passes, seen.p = answered.rows, seed, planned.plan.passes, planned.p
    return answered


async def awaited(receive: Receive | None, future: "asyncio.Future[Answer | Shares]") -> Answer | Shares:
    """The answer, unless the client goes away before: then nobody waits for it any more.

    Raises:
        ProblemError: 499 where the client went away.
    """
    if receive is None:
        return await future
    watch = _Watch(receive, future)
    beginning = asyncio.get_running_loop().call_later(_UNWATCHED_SECONDS, watch.begin)
    try:
        return await future  # which is cancelled with who awaits it
    except asyncio.CancelledError:
        if watch.saw_it_go:
            raise ProblemError(499, "the client went away before it was answered") from None
        raise
    finally:
        beginning.cancel()
        watch.end()


class _Watch:
    """Over a client, while its answer is awaited: once it has gone away, the future is cancelled."""

    def __init__(self, receive: Receive, future: "asyncio.Future[Answer | Shares]") -> None:
        self._receive, self._future = receive, future
        self._task: asyncio.Task[None] | None = None
        self.saw_it_go = False

    def begin(self) -> None:
        """Watch from now on."""
        self._task = asyncio.create_task(self._watch())

    def end(self) -> None:
        """Watch no longer."""
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.saw_it_go = self._future.cancel()


async def body_of(services: Services, request: Request, share: Share, model: str) -> bytes:
    """The body of a request of a model, decompressed.

    Raises:
        ProblemError: it is larger than is accepted, or damaged, or the client went away in it.
        OverloadedError: there is no room for it.
    """
    try:
        return await _body(request, services.settings.max_body_bytes, share, services.at_once)
    except OverloadedError as error:
        services.predictions.refused(model, error)
        raise


async def _body(request: Request, limit: int, share: Share, at_once: CapacityLimiter) -> bytes:
    coding = header_of(request.scope, b"content-encoding")
    if int(header_of(request.scope, b"content-length") or 0) > limit:
        raise _too_large(limit)
    parts: list[bytes] = []
    size = 0

    def take(part: bytes) -> None:
        nonlocal size
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        share.take(len(part))
        parts.append(part)

    try:
        if coding is None:  # a generator would take longer than a small body does
            more = True
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                take(message.get("body", b""))
                more = message.get("more_body", False)
        else:
            async for part in decoded(coding, request.stream(), at_once):
                take(part)
    except ClientDisconnect as error:
        raise ProblemError(400, f"the client went away after {size} bytes of its body") from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(limit: int) -> ProblemError:
    return ProblemError(413, f"the body is larger than {limit} bytes; at most that many are accepted")


async def where_it_belongs(at_once: CapacityLimiter, size: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call `function` at once where `size`, in bytes, is small, else in a thread that leaves the event loop free.

    Its last argument is what to call between its parts: a thread that never waits holds the interpreter's lock for
    milliseconds, which everybody else needs for microseconds.
    """
    if size <= INLINE_BYTES:
        return function(*arguments, _no_pause)
    return await to_thread.run_sync(partial(function, *arguments, _pause), limiter=at_once)


def _no_pause() -> None:
    pass


def _pause() -> None:
    """Let other threads go on."""
    time.sleep(_PAUSE_SECONDS)


def compressed(written: Written, scope: Scope, pause: Pause) -> Written:
    """An answer as gzip, where it is large and the client takes it so; else as it is."""
    if len(written.content) <= INLINE_BYTES or not accepts_gzip(header_of(scope, b"accept-encoding")):
        return written
    headers = {**written.headers, "Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    return Written(gzipped(written.content, pause), headers, written.media_type)
