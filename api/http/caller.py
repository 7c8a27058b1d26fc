"""Identifies the caller of a request by a digest of its API key.

Rule 1: a key is the same caller in whichever header it comes; requests without a key are one caller.
Rule 2: the key itself is neither logged nor stored nor sent. Only the store of responses keeps the digest, in a file
that only this user can read and that holds the responses themselves; so the digest needs no salt, and it is the same
in every api process.
"""

import re
from hashlib import blake2b

from falcon.asgi import Request

DIGEST_SIZE = 16  # bytes
ANONYMOUS = ""
_BEARER = re.compile(r"^bearer(?:\s+|$)", re.IGNORECASE)


def caller(request: Request) -> str:
    """The digest of the key in ``Authorization``, with or without "Bearer", else in ``x-api-key``, else ANONYMOUS."""
    key = _BEARER.sub("", request.auth or "") or request.get_header("x-api-key") or ""
    return blake2b(key.encode(), digest_size=DIGEST_SIZE).hexdigest() if key else ANONYMOUS
