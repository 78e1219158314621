"""Wire formats, one a file, and the table of them: a body is read by its content type, an answer written as accepted.

Another is added by `register(Format(...))`: requests may come and go in it from then on, and the descriptions of the
API and of the models name it.
"""

from collections.abc import Callable, Sequence
from functools import partial

from mcdropout.api.formats import arrow, images, json, raw, tensors
from mcdropout.api.formats.format import Format as Format
from mcdropout.api.formats.format import Header as Header
from mcdropout.api.formats.format import Written as Written
from mcdropout.catalogue.hooks import Hook
from mcdropout.catalogue.inputs import Input
from mcdropout.engine.ragged import Rows

DEFAULT = json.FORMAT
"""What answers are written in where a request does not name another one that there is."""

TABLE: dict[str, Format] = {}
"""The formats by media type."""


LACKING: dict[str, str] = {}
"""By media types that this installation cannot read or write, what they take."""


class MediaTypeError(ValueError):
    """A body is of a media type that no format has. The message names it, and those that are accepted."""


class NotAcceptableError(ValueError):
    """An answer is asked for in what this installation lacks alone. The message names it, and what is accepted."""


def register(format: Format) -> None:
    """Read and write a format from now on."""
    TABLE.update((media_type, format) for media_type in format.media_types)


def of_content(content_type: str) -> Format:
    """The format of a body.

    What is told apart by a suffix, as `application/x+json`, is read as what the suffix names (RFC 6839).

    Args:
        content_type: the header, empty where there is none.

    Raises:
        MediaTypeError: there is no such format.
    """
    found = TABLE.get(content_type)  # as nearly all write it
    lacks = ""
    if found is None:
        media_type = content_type.partition(";")[0].strip().lower()
        lacks = _lacks(media_type)
        kind, _, rest = media_type.partition("/")
        found = TABLE.get(media_type) or TABLE.get(f"{kind}/{rest.rpartition('+')[2]}")
    if found is None or found.read is None:
        raise MediaTypeError(
            f"the content type is {content_type or 'not given'!r}{lacks}; {' or '.join(media_types_of_bodies())} is "
            "accepted"
        )
    return found


def reader_of(
    format: Format, header: Callable[[bytes], str | None], hook: Hook | None = None
) -> Callable[..., tuple[Rows, ...]]:
    """What reads a body, with the headers that say what it holds, and what makes rows of it.

    Args:
        format: of the body.
        header: a request's header by its name in lower case; None where there is none.
        hook: the model's; None where it has none.
    """
    assert format.read is not None
    if format.is_prepared and hook is not None:
        return partial(format.read, hook=hook)
    if not format.headers:
        return format.read
    values = ((one.name, header(one.name.lower().encode())) for one in format.headers)
    return partial(format.read, headers={name: value for name, value in values if value is not None})


def media_types_of_bodies(inputs: Sequence[Input] | None = None) -> list[str]:
    """The media types of the bodies that a model of such inputs takes; where these are not given, that any may take."""
    known = ((name, format) for name, format in TABLE.items() if format.read is not None)
    return [name for name, format in known if inputs is None or format.takes(inputs)]


def of_answer(accept: str | None) -> Format:
    """The format that a client would have most, by its Accept header; the default where it leaves that open.

    One that there is not, or of any name, as `*/*`, leaves it open.

    Raises:
        NotAcceptableError: it names nothing else than what another installation has.
    """
    if accept is None or accept == "*/*":
        return DEFAULT
    ranges = sorted(map(_range, accept.split(",")), key=lambda one: -one[1])
    wanted = next((name for name, quality in ranges if quality > 0 and (_is_written(name) or name.endswith("/*"))), "")
    if not wanted and ranges and all(name in LACKING for name, _ in ranges):
        accepted = [name for name in TABLE if _is_written(name)]
        raise NotAcceptableError(
            f"an answer as {ranges[0][0]} is asked for{_lacks(ranges[0][0])}; {' or '.join(accepted)} is accepted"
        )
    return TABLE.get(wanted, DEFAULT)


def _lacks(media_type: str) -> str:
    """What a message says of a media type that takes what is not installed."""
    return f", for which this server lacks {LACKING[media_type]}" if media_type in LACKING else ""


def _is_written(media_type: str) -> bool:
    return media_type in TABLE and TABLE[media_type].write is not None


def _range(text: str) -> tuple[str, float]:
    """A media range and its quality (RFC 9110, 12.5.1); 0 where that is no number."""
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    quality = next((value[2:] for value in parameters if value.startswith("q=")), "1")
    try:
        return name, float(quality)
    except ValueError:
        return name, 0.0


for _format in (DEFAULT, tensors.NPY, tensors.NPZ, raw.FORMAT, images.PNG, images.JPEG):
    register(_format)
for _format in (arrow.STREAM, arrow.FILE):
    if arrow.is_installed():
        register(_format)
    else:
        LACKING |= dict.fromkeys(_format.media_types, "pyarrow (pip install 'mcdropout[arrow]')")
