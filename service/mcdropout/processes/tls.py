"""TLS: what uvicorn is given for it, tried before anything else starts."""

import ssl
from typing import Any

from mcdropout.settings import Settings


class TlsError(Exception):
    """A certificate or key cannot be used. The message says which, and why."""


def tls_options(settings: Settings) -> dict[str, Any]:
    """uvicorn's settings for HTTPS; none where there is no certificate."""
    if settings.tls_certificate is None:
        return {}
    wanted = ssl.CERT_NONE if settings.tls_client_ca is None else ssl.CERT_REQUIRED
    return {
        "ssl_certfile": settings.tls_certificate,
        "ssl_keyfile": settings.tls_key,
        "ssl_keyfile_password": settings.tls_key_password,
        "ssl_ca_certs": settings.tls_client_ca,
        "ssl_cert_reqs": wanted,
    }


def check_tls(settings: Settings) -> None:
    """Raise `TlsError` where the files cannot be used."""
    if settings.tls_certificate is None:
        return
    files = [settings.tls_certificate, settings.tls_key, settings.tls_client_ca]
    for file in files:
        if file is not None and not file.is_file():
            raise TlsError(f"there is no file {file}; a certificate and a key as PEM are accepted")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    password = settings.tls_key_password or ""  # or it would be asked for at the terminal
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, password)
        if settings.tls_client_ca is not None:
            context.load_verify_locations(settings.tls_client_ca)
    except (ssl.SSLError, OSError) as error:
        named = " and ".join(str(file) for file in files if file is not None)
        raise TlsError(f"{named}: {error}; a certificate and its own key as PEM are accepted") from error
