"""Keys: a client's name, the hash of its secret, and what it may do.

A secret is 256 random bits, which nobody guesses, whatever the hash; so SHA-256 is enough, and no slow hash of
passwords is needed. Only hashes are kept, so that who reads the file has no key.
"""

import hashlib
import secrets
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from mcdropout.catalogue.problems import described

_PREFIX = "mcd_"  # by which scanners of leaked secrets may know one
_BYTES = 32


class KeysError(Exception):
    """Keys cannot be read. The message says which, and what is accepted."""


class Role(StrEnum):
    """What a key is for."""

    PREDICT = "predict"
    ADMIN = "admin"
    METRICS = "metrics"


@dataclass(frozen=True)
class Key:
    """A key that a client may show.

    Attributes:
        name: what the client is called in the log.
        sha256: the hash of the secret, 32 bytes.
        roles: what it is for.
        expires: from when on it is not accepted; None for never.
        rate: how many requests a second it may make; None for any number.
        share: how much of the machine it gets where others want it too, as a multiple of what they get.
    """

    name: str
    sha256: bytes
    roles: frozenset[Role]
    expires: datetime | None = None
    rate: float | None = None
    share: float = 1.0

    def has_expired(self, now: datetime) -> bool:
        """Whether it is not accepted any more."""
        return self.expires is not None and self.expires <= now


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[\w.@-]{1,64}$")
    sha256: str = Field(pattern=r"^[0-9a-fA-F]{64}$")
    roles: list[Role] = Field([Role.PREDICT], min_length=1)
    expires: datetime | date | None = None
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    share: float = Field(1.0, gt=0, le=1000, allow_inf_nan=False)

    def key(self) -> Key:
        return Key(
            self.name,
            bytes.fromhex(self.sha256),
            frozenset(self.roles),
            None if self.expires is None else _moment(self.expires),
            self.rate,
            self.share,
        )


_ENTRIES = TypeAdapter(list[_Entry])


def keys_of(document: Any) -> tuple[Key, ...]:
    """The keys that a document lists, each a mapping of a `Key`'s fields.

    Raises:
        KeysError: it is no such list, or two have one name or one secret.
    """
    try:
        keys = tuple(entry.key() for entry in _ENTRIES.validate_python(document))
    except ValidationError as error:
        problems = described(error.errors(), document)
        raise KeysError("; ".join(f"{where} {what}".strip() for where, what in problems.items())) from None
    for what, values in (("name", [key.name for key in keys]), ("secret", [key.sha256 for key in keys])):
        if keys and (most := Counter(values).most_common(1)[0])[1] > 1:
            named = next(key.name for key in keys if most[0] in (key.name, key.sha256))
            raise KeysError(f"{most[1]} keys have the {what} of {named!r}; each has its own")
    return keys


def new_secret() -> str:
    """A secret that nobody knows."""
    return _PREFIX + secrets.token_urlsafe(_BYTES)


def hash_of(secret: str) -> bytes:
    """The hash by which a secret is kept, 32 bytes."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def _moment(when: datetime | date) -> datetime:
    """A time, or the beginning of a day, in UTC where no zone is given."""
    if not isinstance(when, datetime):
        return datetime.combine(when, time(), UTC)
    return when if when.tzinfo else when.replace(tzinfo=UTC)
