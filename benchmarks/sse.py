"""Server-sent events of a completion, read as cheaply as a client can. Pure.

With 128 streams on the machine that also serves, every microsecond here is taken from the server: most events are
only searched, not parsed.
"""

import json
import re
from typing import Any

DONE = b"[DONE]"

_GIVES_TEXT = re.compile(rb'"(?:content|text|reasoning|reasoning_content)":\s*"[^"]')
_GIVES_USAGE = re.compile(rb'"usage":\s*\{')
_GIVES_ERROR = re.compile(rb'^\s*\{\s*"error"')


class EventReader:
    """Bytes, however they were cut, to the data of whole events; comments and other fields are dropped."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> list[bytes]:
        *whole, self._held = (self._held + data).split(b"\n\n")
        return [event[5:].strip() for event in whole if event.startswith(b"data:")]


def gives_text(event: bytes) -> bool:
    return _GIVES_TEXT.search(event) is not None


def usage_of(event: bytes) -> dict[str, Any] | None:
    if not _GIVES_USAGE.search(event):
        return None
    usage: dict[str, Any] = json.loads(event)["usage"]
    return usage


def error_of(event: bytes) -> str | None:
    return event.decode("utf-8", "replace")[:300] if _GIVES_ERROR.search(event) else None


def text_of(event: bytes) -> str:
    """What the event adds to the first choice."""
    for choice in json.loads(event).get("choices", []):
        return str(choice.get("delta", {}).get("content") or choice.get("text") or "")
    return ""
