"""Certificates: what a server shows its clients over TLS, and has them show. Read again when the files change."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import structlog

from mcdropout.access.stamps import Stamp, stamp_of
from mcdropout.repeating import Repeating
from mcdropout.settings import Settings

_log = structlog.get_logger("access")

_LOOK_SECONDS = 1.0  # between looks at the files


class TlsError(Exception):
    """A certificate or key cannot be used. The message says which, and why."""


@dataclass(frozen=True)
class Loaded:
    """What the files held when they were read.

    Attributes:
        context: for connections that begin now; one of its own, so that no session of an earlier one goes on in it.
        certificate: the server's, and those that it was issued by, as PEM.
        key: the certificate's private key, as PEM.
        authorities: those whose certificates clients must show, as PEM; None where they need not show any.
    """

    context: ssl.SSLContext
    certificate: bytes
    key: bytes
    authorities: bytes | None


class Certificates:
    """What the files hold, followed from a thread.

    Files are replaced one after another: a change is acted upon when two looks in a row find the same. Files that
    cannot be used leave what was loaded as it is.

    Attributes:
        loaded: what connections that begin now take.
    """

    def __init__(self, certificate: Path, key: Path | None, password: str | None, authorities: Path | None) -> None:
        """
        Args:
            certificate: of the server, and of those that it was issued by, as PEM.
            key: the certificate's, as PEM; in the certificate's file if None.
            password: of the key's file, where it has one.
            authorities: those whose certificates clients must show, as PEM.

        Raises:
            TlsError: the files cannot be used.
        """
        self._certificate, self._key, self._password = certificate, key or certificate, password
        self._authorities = authorities
        self._files = [file for file in (certificate, key, authorities) if file is not None]
        self._read = self._last = self._stamps()
        self.loaded = self._load()
        self._following = Repeating("certificates", _LOOK_SECONDS, self.look)

    @classmethod
    def of(cls, settings: Settings) -> "Certificates | None":
        """Those of a server; None where it serves without TLS.

        Raises:
            TlsError: the files cannot be used.
        """
        if settings.tls_certificate is None:
            return None
        return cls(settings.tls_certificate, settings.tls_key, settings.tls_key_password, settings.tls_client_ca)

    def start(self) -> None:
        """Follow the files from now on."""
        self._following.start()

    def stop(self) -> None:
        """Follow the files no more."""
        self._following.stop()

    def look(self) -> None:
        """Look once, and act upon what is as it was at the last look."""
        last, self._last = self._last, self._stamps()
        if self._last != last or self._last == self._read:
            return
        self._read = self._last
        files = [str(file) for file in self._files]
        try:
            self.loaded = self._load()
        except TlsError as error:
            _log.error("certificates cannot be used, and stay as they were", files=files, error=str(error))
        else:
            _log.info("certificates read", files=files)

    def _load(self) -> Loaded:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        password = self._password or ""  # or it would be asked for at the terminal
        try:
            for file in self._files:
                if not file.is_file():
                    raise TlsError(f"there is no file {file}; a certificate and a key as PEM are accepted")
            context.load_cert_chain(self._certificate, self._key, password)
            if self._authorities is not None:
                context.load_verify_locations(self._authorities)
                context.verify_mode = ssl.CERT_REQUIRED
            authorities = None if self._authorities is None else self._authorities.read_bytes()
            return Loaded(context, self._certificate.read_bytes(), self._key.read_bytes(), authorities)
        except (ssl.SSLError, OSError) as error:
            named = " and ".join(map(str, self._files))
            raise TlsError(f"{named}: {error}; a certificate and its own key as PEM are accepted") from error

    def _stamps(self) -> list[Stamp]:
        return [stamp_of(file) for file in self._files]
