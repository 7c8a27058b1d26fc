"""Who asks, as far as a request says: the API key that it brings, as a digest.

Rule 1: whichever header brings it, one key is one caller; clients that bring none are one caller.
Rule 2: the key itself goes no further: not into a log, nor a journal, nor over the wire. The digest is not printed,
and written to one file only, the stored responses, which nobody else may open and which hold worse; so it needs no
salt, and the same key has the same one in every api process, also in the next.
"""

import re
from hashlib import blake2b

from falcon.asgi import Request

DIGEST_SIZE = 16  # bytes
NOBODY = ""
_BEARER = re.compile(r"^bearer(?:\s+|$)", re.IGNORECASE)


def caller(request: Request) -> str:
    """Of ``Authorization``, with or without "Bearer" before the key, else of ``x-api-key``; else NOBODY."""
    key = _BEARER.sub("", request.auth or "") or request.get_header("x-api-key") or ""
    return blake2b(key.encode(), digest_size=DIGEST_SIZE).hexdigest() if key else NOBODY
