"""The certificate that the server shows: whether it can be served with, and how commands of this machine trust it.

Rule 1: a pair of files is proved by a TLS handshake in memory, so a client's own library says what is wrong with it.
Rule 2: a command that has the server's certificate file trusts that certificate alone, whatever names are in it.
"""

import os
import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shared.dotenv import PREFIX
from shared.settings import Settings

CERTIFICATE, KEY, CA = (f"{PREFIX}TLS_{name}" for name in ("CERTIFICATE", "KEY", "CA"))
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_FLIGHTS = 4  # of a handshake, each of one side


class CertificateUnusable(Exception):
    """The message names the setting and says what to do."""


@dataclass(frozen=True)
class Proved:
    """``names``: hosts and addresses that a client may ask for. ``context``: what a server shows it with."""

    names: tuple[str, ...]
    until: datetime
    is_self_signed: bool
    context: ssl.SSLContext


def prove(certificate: Path, key: Path) -> Proved:
    """Raises CertificateUnusable."""
    trust = _only(certificate)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _load(server, certificate, key)
    try:
        found = _handshake(trust, server)
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", "") or error.reason
        raise CertificateUnusable(
            f"{CERTIFICATE}: {certificate} is refused by clients: {why}. Put a valid certificate there."
        ) from None
    names = tuple(name for _, name in found.get("subjectAltName", ()))
    until = datetime.fromtimestamp(ssl.cert_time_to_seconds(found["notAfter"]), UTC)
    return Proved(names, until, found["subject"] == found["issuer"], server)


def proved(settings: Settings) -> Proved | None:
    """None: the server has no certificate. Raises CertificateUnusable."""
    if settings.tls_certificate is None:
        return None
    return prove(settings.tls_certificate, settings.tls_key or settings.tls_certificate)


def unusable_certificate(settings: Settings) -> str | None:
    """Why the api cannot serve with its certificate, if it has one and cannot."""
    try:
        proved(settings)
    except CertificateUnusable as error:
        return str(error)
    return None


def client_context(settings: Settings) -> ssl.SSLContext | None:
    """How a command trusts the server; None: it speaks plain HTTP. Raises CertificateUnusable."""
    if settings.tls_certificate is not None:
        return _only(settings.tls_certificate)
    return authorities(settings)


def authorities(settings: Settings) -> ssl.SSLContext | None:
    """Trusts those of ``tls_ca`` alone, and checks names. Raises CertificateUnusable."""
    if settings.tls_ca is None:
        return None
    try:
        return ssl.create_default_context(cafile=settings.tls_ca)
    except ssl.SSLError:
        why = "it holds no certificate in PEM form"
    except OSError as error:
        why = str(error.strerror)
    raise CertificateUnusable(f"{CA}: {settings.tls_ca} cannot be used: {why}.")


def file_to_trust(settings: Settings) -> Path | None:
    """What a client that is no command of ours must be given, to trust the server; None: nothing we know of."""
    if settings.tls_ca is not None or settings.tls_certificate is None:
        return settings.tls_ca
    try:
        found = proved(settings)
    except CertificateUnusable:
        return None
    return settings.tls_certificate if found and found.is_self_signed else None


def known_as(settings: Settings, host: str) -> str:
    """``host`` if the certificate is for it, else a name of this machine for which it is."""
    try:
        found = proved(settings)
    except CertificateUnusable:
        return host
    names = [name for name in found.names if "*" not in name] if found else []
    return next((name for name in (host, "localhost", *names) if name in names), host)


def _only(certificate: Path) -> ssl.SSLContext:
    """Trusts the first certificate of the file alone: those behind it sign others', too. Raises CertificateUnusable."""
    found = _PEM.search(_text(certificate, CERTIFICATE))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=found[0] if found else "")
    except (ssl.SSLError, ValueError):
        raise CertificateUnusable(
            f"{CERTIFICATE}: {certificate} holds no certificate in PEM form, which begins with "
            "-----BEGIN CERTIFICATE-----."
        ) from None
    return context


def _load(server: ssl.SSLContext, certificate: Path, key: Path) -> None:
    setting = KEY if key != certificate else CERTIFICATE
    _text(key, setting)
    asked = list[bool]()

    def password() -> str:
        """Without it, OpenSSL would ask a terminal."""
        asked.append(True)
        return ""

    try:
        server.load_cert_chain(certificate, key, password)
    except ssl.SSLError as error:
        if asked:
            why = f"{setting}: {key} is encrypted; `openssl pkey -in {key} -out FILE` writes it without a password."
        elif error.reason == "KEY_VALUES_MISMATCH":
            why = f"{setting}: {key} is not the key of {certificate}; name the two that were made together."
        elif error.reason in ("EE_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"):
            why = (
                f"{CERTIFICATE}: {certificate} is too weak ({error.reason}); have one made with a larger key."
            )
        else:
            why = f"{setting}: {key} holds no private key in PEM form ({error.reason or 'unreadable'})."
        raise CertificateUnusable(why) from None


def _text(file: Path, setting: str) -> str:
    try:
        return file.read_text("ascii", errors="replace")
    except OSError as error:
        raise CertificateUnusable(
            f"{setting}: {file} cannot be read: {error.strerror}. The server reads it as user id "
            f"{os.getuid()}; name a file that this user may read."
        ) from None


def _handshake(client_trust: ssl.SSLContext, server: ssl.SSLContext) -> dict[str, Any]:
    """The certificate as the client sees it. Raises SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_trust.wrap_bio(to_client, to_server)
    sides = (client, server.wrap_bio(to_server, to_client, server_side=True))
    for _ in range(_FLIGHTS):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return client.getpeercert() or {}
