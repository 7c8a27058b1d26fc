"""Asks a hosted server by HTTP whether it can serve, what it calls its model, and which endpoints it has.

A request whose body is no JSON can start nothing: a server that has the endpoint objects to the body, one that lacks it
says 404, 405 or 501.
"""

import http.client
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pydantic_core import from_json

from shared.hosting import ENDPOINTS, PATHS, Endpoint

READY_PATHS = ("/health", "/v1/models")
_PATIENCE = 5.0  # seconds
_ABSENT = (404, 405, 501)
_MOST = 1 << 20  # bytes of an answer


def status_of(port: int, path: str, body: bytes | None = None) -> int | None:
    """None: no answer."""
    answer = _ask(port, path, body)
    return answer[0] if answer else None


def ready(port: int, path: str | None, status: int) -> bool:
    """``path`` None: any of READY_PATHS."""
    return any(status_of(port, one) == status for one in ((path,) if path else READY_PATHS))


def model_names(port: int) -> list[str]:
    """Those that /v1/models lists; none where there is no such list."""
    answer = _ask(port, "/v1/models")
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        listed: Any = from_json(answer[1]) if answer else {}
        return [model["id"] for model in listed["data"] if isinstance(model["id"], str)]
    return []


def endpoints(port: int) -> list[Endpoint]:
    return [endpoint for endpoint in ENDPOINTS if _has(port, PATHS[endpoint])]


def _has(port: int, path: str) -> bool:
    status = status_of(port, path, b"{")
    return status is not None and status not in _ABSENT


def _ask(port: int, path: str, body: bytes | None = None) -> tuple[int, bytes] | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
    headers = {"content-type": "application/json"} if body else {}
    try:
        connection.request("POST" if body else "GET", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(_MOST)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def spoken(port: int, said: Sequence[Endpoint]) -> list[Endpoint]:
    """``said`` by the operator, else what it is found to have."""
    return list(said) or endpoints(port)
