"""The keyring: the keys that are accepted now. Those of a file are read again when it changes."""

import hmac
import threading
import time
from pathlib import Path
from typing import Any

import structlog

from mcdropout.access.keys import Key, KeysError, hash_of, keys_of
from mcdropout.access.stamps import stamp_of
from mcdropout.catalogue.document import DocumentError, parse_document, read_document

_log = structlog.get_logger("access")

_LOOK_SECONDS = 1.0  # between looks at the file


class Keyring:
    """Finds the key that a client shows. Safe from any thread.

    Attributes:
        is_used: whether there are keys, or there is a file that may come to hold some.
    """

    def __init__(self, file: Path | None = None, text: str = "") -> None:
        """
        Args:
            file: of YAML, a list of keys; None for none.
            text: more of them, as YAML.

        Raises:
            KeysError: one of them cannot be read.
        """
        self.is_used = file is not None or bool(text.strip())
        self._file, self._lock = file, threading.Lock()
        try:
            self._fixed: Any = parse_document(text) or []
            keys_of(self._fixed)
        except (DocumentError, KeysError) as error:
            raise KeysError(f"MCDROPOUT_KEYS: {error}") from error
        self._stamp = None if file is None else stamp_of(file)
        self._keys = self._read()
        self._looked = time.monotonic()

    def find(self, secret: str) -> Key | None:
        """The key of a secret; None where nobody has it. How long it takes does not depend on how much is right."""
        self._look()
        shown, found = hash_of(secret), None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, shown):
                found = key
        return found

    def _look(self) -> None:
        """Read the file again if it has changed. What cannot be read leaves the keys as they are."""
        if self._file is None or time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        with self._lock:
            self._looked = time.monotonic()
            stamp = stamp_of(self._file)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            try:
                self._keys = self._read()
            except KeysError as error:
                _log.error("keys cannot be read, and stay as they were", error=str(error))
            else:
                _log.info("keys read", keys=[key.name for key in self._keys])

    def _read(self) -> tuple[Key, ...]:
        if self._file is None:
            return keys_of(self._fixed)
        try:
            of_file = read_document(self._file) or []
            keys_of(of_file)
            return keys_of([*self._fixed, *of_file])
        except FileNotFoundError as error:
            raise KeysError(f"the file {self._file} of keys is missing") from error
        except (DocumentError, KeysError) as error:
            raise KeysError(f"the file {self._file} of keys: {error}") from error
