"""Identifies the caller of a request by a digest of its API key.

Rule 1: a key is the same caller in whichever header it comes; requests without a key are one caller.
Rule 2: the key itself is neither logged nor stored nor sent. Only the store of responses keeps the digest, in a file
that only this user can read and that holds the responses themselves; so the digest needs no salt, and it is the same
in every api process.
"""

import re
from collections.abc import Mapping
from hashlib import blake2b

from falcon.asgi import Request

Headers = Mapping[bytes, bytes]

DIGEST_SIZE = 16  # bytes
ANONYMOUS = ""
_BEARER = re.compile(r"^bearer(?:\s+|$)", re.IGNORECASE)


def key_in(headers: Headers) -> str:
    """The key in ``Authorization``, with or without "Bearer", else in ``x-api-key``, else an empty text."""
    authorization = _BEARER.sub("", headers.get(b"authorization", b"").decode("latin-1"))
    return authorization or headers.get(b"x-api-key", b"").decode("latin-1")


def caller(request: Request) -> str:
    """The digest of the request's key, or ANONYMOUS."""
    key = key_in(dict(request.scope["headers"]))
    return blake2b(key.encode(), digest_size=DIGEST_SIZE).hexdigest() if key else ANONYMOUS
