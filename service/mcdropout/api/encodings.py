"""Content codings (RFC 9110, 8.4): bodies that come compressed, and large answers that go so.

A body is decompressed as it comes, a piece at a time, so that what it grows to is bounded before it is there.
"""

import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, Protocol

from anyio import CapacityLimiter, to_thread

from mcdropout.api.errors import ProblemError

_IDENTITY = "identity"
_ALIASES = {"x-gzip": "gzip"}  # RFC 9110, 8.4.1.3
_PIECE_BYTES = 64 * 1024
# Decompressed on the event loop; what comes behind is in a thread, in larger pieces.
_INLINE_BYTES, _LARGE_PIECE_BYTES = 64 * 1024, 256 * 1024
_GZIP = 16 + zlib.MAX_WBITS  # as zlib calls its own format in gzip's envelope
_ZSTD_WINDOW_LOG = 23  # 8 MiB, the most that a frame may ask for over HTTP (RFC 9659)
_FASTEST = 1


class Decoder(Protocol):
    """One compressed body."""

    ended: bool
    """Whether its end has come."""
    left: int
    """How many bytes of what was given last lie behind that end."""

    def take(self, data: bytes, most: int) -> bytes:
        """What comes next, of so many bytes at most; fewer only where it needs more data. ValueError if damaged."""


class _Gzip:
    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_GZIP)
        self.ended, self.left = False, 0

    def take(self, data: bytes, most: int) -> bytes:
        try:
            piece = self._stream.decompress(self._stream.unconsumed_tail + data, most)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        self.ended, self.left = self._stream.eof, len(self._stream.unused_data)
        return piece


class _Zstd:
    def __init__(self, library: Any) -> None:
        self._errors = library.ZstdError
        window = {library.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
        self._stream = library.ZstdDecompressor(options=window)
        self.ended, self.left = False, 0

    def take(self, data: bytes, most: int) -> bytes:
        pieces: list[bytes] = []
        size = 0
        try:
            while size < most and not self._stream.eof:
                pieces.append(self._stream.decompress(data, most - size))
                size += len(pieces[-1])
                data = b""
                if self._stream.needs_input:
                    break
        except self._errors as error:
            raise ValueError(str(error)) from error
        self.ended, self.left = self._stream.eof, len(self._stream.unused_data)
        return b"".join(pieces)


def _zstd_library() -> Any:
    """Python's own from 3.14 on, and what stands for it before; None where neither is there."""
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        try:
            from backports import zstd
        except ImportError:
            return None
    return zstd


def known_decoders() -> dict[str, Callable[[], Decoder]]:
    """What this installation can decompress."""
    library = _zstd_library()
    return {"gzip": _Gzip} | ({} if library is None else {"zstd": partial(_Zstd, library)})


DECODERS: Mapping[str, Callable[[], Decoder]] = known_decoders()
"""By the names of the content codings that are accepted, what decompresses a body."""


def decoded(coding: str | None, parts: AsyncIterator[bytes], limiter: CapacityLimiter) -> AsyncIterator[bytes]:
    """A body as it was before it was compressed, in pieces, as its own parts come.

    Args:
        coding: the header Content-Encoding; None where there is none.
        parts: of the body.
        limiter: of the threads in which large ones are decompressed.

    Raises:
        ProblemError: 415 for another coding, 400 where the body is damaged, truncated, or goes on behind its end.
    """
    name = _IDENTITY if coding is None else coding.strip().lower()
    name = _ALIASES.get(name, name)
    if name == _IDENTITY:
        return parts
    if name not in DECODERS:
        raise _unknown(coding or "")
    return _decompressed(name, DECODERS[name](), parts, limiter)


def _unknown(coding: str) -> ProblemError:
    lacks = ""
    if coding.strip().lower() == "zstd":
        lacks = ", for which this server lacks backports.zstd (pip install 'mcdropout[zstd]')"
    accepted = ", ".join(DECODERS)
    return ProblemError(
        415,
        f"the content encoding is {coding!r}{lacks}; one of {accepted}, or a body as it is, {_IDENTITY}, is accepted",
        {"Accept-Encoding": accepted},
    )


async def _decompressed(
    name: str, decoder: Decoder, parts: AsyncIterator[bytes], limiter: CapacityLimiter
) -> AsyncIterator[bytes]:
    size = given = 0
    async for part in parts:
        given += len(part)
        data, most = part, 0
        piece = b""
        while data or len(piece) == most > 0:
            most = _PIECE_BYTES if size < _INLINE_BYTES else _LARGE_PIECE_BYTES
            try:
                if decoder.ended:
                    raise ValueError(f"there are {len(data)} bytes behind its end")
                if size < _INLINE_BYTES:
                    piece = decoder.take(data, most)
                else:
                    piece = await to_thread.run_sync(decoder.take, data, most, limiter=limiter)
                if decoder.left:
                    raise ValueError(f"there are {decoder.left} bytes behind its end")
            except ValueError as error:
                raise ProblemError(400, f"the body cannot be read as {name}: {error}; one whole is accepted") from error
            data = b""
            size += len(piece)
            if piece:
                yield piece
            if decoder.ended:
                break
    if not decoder.ended:
        raise ProblemError(
            400, f"the body is truncated: its {given} bytes are no whole {name}; one with its end is accepted"
        )


def accepts_gzip(header: str | None) -> bool:
    """Whether a client takes answers as gzip, by its header Accept-Encoding."""
    for one in (header or "").lower().split(","):
        name, _, quality = one.partition(";")
        if name.strip() in ("gzip", "x-gzip"):
            return quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def gzipped(content: bytes, pause: Callable[[], None]) -> bytes:
    """A body as gzip, as fast as that gets, with pauses."""
    stream = zlib.compressobj(_FASTEST, zlib.DEFLATED, _GZIP)
    parts: list[bytes] = []
    for start in range(0, len(content), _LARGE_PIECE_BYTES):
        parts.append(stream.compress(content[start : start + _LARGE_PIECE_BYTES]))
        pause()
    return b"".join([*parts, stream.flush()])
