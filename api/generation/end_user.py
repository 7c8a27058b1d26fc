"""For whom a request is, where no API key says it: by the fields that clients have for that. Pure.

Callers take turns in the queue and in the batch. Without keys each HTTP request is a caller of its own, so a client
with hundreds of requests would be hundreds of callers. One that names its users or conversations is as many callers as
it names. Nothing else depends on it: not the prefix cache, not stored responses, not what is allowed.
"""

from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from hashlib import blake2b

FIELDS = ("safety_identifier", "user", "prompt_cache_key")  # OpenAI's, the most telling first

# Of the request that is being answered; empty where it names nobody.
current_end_user: ContextVar[str] = ContextVar("current_end_user", default="")


def end_user(body: Mapping[str, object]) -> str:
    """A digest, or an empty text. The values are neither checked nor stored: a value of another kind names nobody."""
    named = next((value for value in _values(body) if isinstance(value, str) and value.strip()), "")
    return blake2b(named.encode(), digest_size=8).hexdigest() if named else ""


def _values(body: Mapping[str, object]) -> Iterator[object]:
    yield from (body.get(field) for field in FIELDS)
    metadata = body.get("metadata")
    if isinstance(metadata, dict):
        yield metadata.get("user_id")  # Anthropic's
