"""Wire formats, one a file, and the table of them: a body is read by its content type, an answer written as accepted.

Another is added by `register(Format(...))`: requests may come and go in it from then on, and the descriptions of the
API and of the models name it.
"""

from mcdropout.api.formats import json
from mcdropout.api.formats.format import Format as Format

DEFAULT = json.FORMAT
"""What answers are written in where a request does not name another one that there is."""

TABLE: dict[str, Format] = {}
"""The formats by media type."""


class MediaTypeError(ValueError):
    """A body is of a media type that no format has. The message names it, and those that are accepted."""


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
    if found is None:
        media_type = content_type.partition(";")[0].strip().lower()
        kind, _, rest = media_type.partition("/")
        found = TABLE.get(media_type) or TABLE.get(f"{kind}/{rest.rpartition('+')[2]}")
    if found is None:
        raise MediaTypeError(f"the content type is {content_type or 'not given'!r}; {' or '.join(TABLE)} is accepted")
    return found


def of_answer(accept: str | None) -> Format:
    """The format that a client would have most, by its Accept header; the default where it leaves that open.

    One that there is not, or of any name, as `*/*`, leaves it open.
    """
    if accept is None or accept == "*/*":
        return DEFAULT
    ranges = sorted(map(_range, accept.split(",")), key=lambda one: -one[1])
    wanted = next((name for name, quality in ranges if quality > 0 and (name in TABLE or name.endswith("/*"))), "")
    return TABLE.get(wanted, DEFAULT)


def _range(text: str) -> tuple[str, float]:
    """A media range and its quality (RFC 9110, 12.5.1); 0 where that is no number."""
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    quality = next((value[2:] for value in parameters if value.startswith("q=")), "1")
    try:
        return name, float(quality)
    except ValueError:
        return name, 0.0


register(DEFAULT)
