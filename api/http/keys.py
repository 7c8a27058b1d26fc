"""Checks the API key of each request, once there are keys; before the body is read.

Rule 1: without keys anyone is served. Once there are keys, only OPEN paths are served without one.
Rule 2: administration needs a key that may administrate. The token of the run directory is such a key: who can read it
owns the stack, and so the commands on this machine need no other.
Rule 3: the key of a request is known to all that works for it (``current_key``), so that no route can forget to ask
which models it may use.
"""

import hmac
from contextvars import ContextVar
from pathlib import Path

from api.http.allowed_hosts import ADMIN, METRICS, is_admin
from api.http.caller import ANONYMOUS, Headers, key_in
from api.http.errors import RequestError
from shared.api_keys import ApiKey
from shared.errors import ServingError
from shared.settings import Settings

OPEN = frozenset({"/", "/health", "/ready", "/docs", "/openapi.json", "/ui"})
PAGES = ("/docs/", "/ui/")  # the files of pages, which hold nothing of this server
OWNER = ApiKey(name="owner", digest="0" * 64, admin=True)

current_key: ContextVar[ApiKey | None] = ContextVar("current_key", default=None)


class ModelNotAllowed(ServingError):
    """The request's key is for other models."""

    status = 403
    code = "model_not_allowed"


class Keys:
    def __init__(self, settings: Settings) -> None:
        """Raises KeysUnusable."""
        self._ring = settings.key_ring()
        self._token_file = settings.token_file

    def check(self, path: str, headers: Headers) -> ApiKey | None:
        """The key, if there are keys. Raises RequestError, 401 or 403."""
        if path in OPEN or path.startswith(PAGES) or not self._ring.required:
            return None
        key = key_in(headers)
        found = self._ring.find(key) or (OWNER if _is_token(key, self._token_file) else None)
        if found is None:
            said = "This is not a key that holds here." if key else "This server asks for an API key."
            raise RequestError(
                401,
                f"{said} Send one as `Authorization: Bearer KEY` or `x-api-key: KEY`; the operator makes keys with "
                "`mlx-server keys create`.",
                {"www-authenticate": "Bearer"},
                code="invalid_api_key",
            )
        if is_admin(path) and not found.admin:
            area = METRICS if path == METRICS else ADMIN
            raise RequestError(403, f"{area} needs a key that may administrate.", code="admin_key_required")
        return found


def prompt_namespace(key: ApiKey | None, caller: str, *, shared: bool) -> str:
    """Of a key of ours the digest that stands in the file of keys, so that its prompts can be deleted by its name."""
    if shared:
        return ANONYMOUS
    return key.digest if key else caller


def _is_token(key: str, file: Path) -> bool:
    try:
        token = file.read_text().strip()
    except OSError:
        return False
    return bool(token) and hmac.compare_digest(key.encode(), token.encode())
