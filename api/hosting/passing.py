"""What passes of a hosted server's answer: each event or object with the name that the client asked for. Pure.

Rule 1: no other byte is changed.
Rule 2: what passes is looked at for the tokens it tells, and for the event by which a stream of its endpoint ends.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from api.hosting.renaming import PLACES, renamed
from shared.hosting import Endpoint

_LAST: dict[Endpoint, tuple[bytes, ...]] = {
    "chat": (b"[DONE]", b'"error"'),
    "completions": (b"[DONE]", b'"error"'),
    "responses": (
        b'"response.completed"',
        b'"response.failed"',
        b'"response.incomplete"',
        b'"error"',
        b"[DONE]",
    ),
    "messages": (b'"message_stop"', b'"error"'),
}
_KEPT = 4096  # bytes of an event in which its type is looked for


@dataclass
class Tokens:
    prompt: int = 0
    cached: int = 0
    out: int = 0
    told: bool = False

    def read(self, answer: Any) -> None:
        """``answer``: an object of any dialect; what it has of ``usage`` counts."""
        if not isinstance(answer, dict):
            return
        for inner in ("response", "message"):
            self.read(answer.get(inner))
        usage = answer.get("usage")
        if not isinstance(usage, dict):
            return
        self.prompt = _count(usage, "prompt_tokens", "input_tokens") or self.prompt
        self.out = _count(usage, "completion_tokens", "output_tokens") or self.out
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
        self.cached = _count(details, "cached_tokens") or self.cached
        self.told = True


def _count(usage: Any, *names: str) -> int:
    found = [usage[name] for name in names if isinstance(usage, dict) and type(usage.get(name)) is int]
    return max(0, found[0]) if found else 0


@dataclass
class PassingEvents:
    """Server-sent events in pieces as they come. ``model``: the client's name of it."""

    endpoint: Endpoint
    model: str
    tokens: Tokens = field(default_factory=Tokens)
    complete: bool = False  # the event has come that ends such a stream
    _rest: bytes = b""
    _events: int = 0

    def take(self, piece: bytes) -> bytes:
        """What may be passed on by now: whole lines."""
        lines, newline, self._rest = (self._rest + piece).rpartition(b"\n")
        return self._passed(lines + newline) if newline else b""

    def end(self) -> bytes:
        """The rest. Where no usage was told, each event with text counts as a token."""
        if not self.tokens.told:
            self.tokens.out = self._events
        rest, self._rest = self._rest, b""
        self.complete = self.complete or self.endpoint not in _LAST
        return self._passed(rest)

    def _passed(self, lines: bytes) -> bytes:
        if b"data:" not in lines:
            return lines
        return b"".join(map(self._line, lines.splitlines(keepends=True)))

    def _line(self, line: bytes) -> bytes:
        if not line.startswith(b"data:"):
            return line
        if any(mark in line[:_KEPT] for mark in _LAST.get(self.endpoint, ())):
            self.complete = True
        self._events += b'"content"' in line or b'"text"' in line or b'"delta"' in line
        if b'"usage"' in line:
            self._read(line)
        if b'"model"' not in line:
            return line
        try:
            text = renamed(line[5:].decode(), self.model, PLACES)
        except ValueError:
            return line
        return b"data:" + text.encode()

    def _read(self, line: bytes) -> None:
        try:
            self.tokens.read(json.loads(line[5:]))
        except ValueError:
            pass


def passed_object(data: bytes, model: str, tokens: Tokens) -> bytes:
    """A whole answer. Raises ValueError when it is no JSON object."""
    text = data.decode()
    tokens.read(json.loads(text))
    return renamed(text, model, PLACES).encode()
