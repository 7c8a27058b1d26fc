"""One request to the api of a running server, on this machine or another."""

import http.client
import json
import socket
import ssl
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from shared import exits
from shared.certificate import CertificateUnusable, authorities, client_context, known_as
from shared.settings import Settings


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes


def get(settings: Settings, path: str, timeout: float = 5.0, key: str = "") -> Answer | None:
    """``key``: an API key; ``/admin`` is asked as the server's owner. None: no HTTP server answers in time."""
    return _ask(settings, timeout, "GET", path, None, key)


def post(settings: Settings, path: str, body: Mapping[str, object], timeout: float) -> Answer | None:
    """Sends JSON. Returns None if no HTTP server answers in time."""
    return _ask(settings, timeout, "POST", path, json.dumps(body), "")


def delete(settings: Settings, path: str, timeout: float) -> Answer | None:
    """Returns None if no HTTP server answers in time."""
    return _ask(settings, timeout, "DELETE", path, None, "")


def owner_token(settings: Settings) -> str:
    """What shows the server that whoever asks owns it, where API keys are asked for; empty if that cannot be read.

    Only a server on this machine gets it.
    """
    if not _is_here(reachable(settings.host)):
        return ""
    try:
        return settings.token_file.read_text().strip()
    except OSError:
        return ""


def _is_here(host: str) -> bool:
    """Whether it is an address of this machine: no other can be bound to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def _ask(
    settings: Settings, timeout: float, method: str, path: str, body: str | None, key: str
) -> Answer | None:
    connection = _connection(settings, timeout)
    headers = {} if body is None else {"content-type": "application/json"}
    if key or (path.startswith("/admin") and (key := owner_token(settings))):
        headers["authorization"] = f"Bearer {key}"
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return Answer(response.status, response.read())
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _connection(settings: Settings, timeout: float) -> http.client.HTTPConnection:
    host, trusted = reachable(settings.host), trust(settings)
    if trusted is None:
        return http.client.HTTPConnection(host, settings.port, timeout=timeout)
    return http.client.HTTPSConnection(host, settings.port, timeout=timeout, context=trusted)


def trust(settings: Settings, *, anywhere: bool = False) -> ssl.SSLContext | None:
    """How its certificate is checked; None: the server has none, or (``anywhere``) the system's authorities decide.

    Exits 2 with one line when a file of the settings cannot be used.
    """
    try:
        return authorities(settings) if anywhere else client_context(settings)
    except CertificateUnusable as error:
        print(f"mlx-server: {error}", file=sys.stderr)
        raise SystemExit(exits.UNUSABLE) from None


def is_taken(settings: Settings) -> bool:
    """Whether something listens there, whatever it speaks."""
    try:
        socket.create_connection((reachable(settings.host), settings.port), timeout=1.0).close()
    except OSError:
        return False
    return True


def reachable(host: str) -> str:
    """The address to connect to: a server that listens on all addresses listens on 127.0.0.1."""
    return "127.0.0.1" if host in ("0.0.0.0", "") else host  # noqa: S104


def address(settings: Settings) -> str:
    """With a certificate, by a name that it is for."""
    host = reachable(settings.host)
    if settings.tls_certificate is None and settings.tls_ca is None:
        return f"http://{host}:{settings.port}"
    return f"https://{known_as(settings, host)}:{settings.port}"
