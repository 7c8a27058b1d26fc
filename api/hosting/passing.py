"""What passes of a hosted server's answer: each event or object with the name that the client asked for. Pure.

Rule 1: no other byte is changed.
Rule 2: what passes is looked at for the tokens it tells, and for the event by which a stream of its endpoint ends.
Rule 3: whatever an answer has in it, reading it raises ValueError at most.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json

from api.hosting.lines import Lines
from api.hosting.renaming import PLACES, renamed
from shared.hosting import STREAMED, Endpoint

DONE = b"[DONE]"
_LAST_TYPES = (
    "response.completed",
    "response.failed",
    "response.incomplete",
    "message_stop",
    "error",
)
"""The types of events by which a stream of responses or messages ends."""
_MOST_COUNTED = 1 << 53
_NAME = re.compile(rb'"model"\s*:\s*("[^"\\]*")')
_ESCAPED = rb"\u006"  # as each letter of "model" may be written
_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n")


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
        for place in (answer.get("response"), answer.get("message"), answer):
            if isinstance(place, dict) and isinstance(usage := place.get("usage"), dict):
                self._count(usage)

    def _count(self, usage: Mapping[str, Any]) -> None:
        self.prompt = _count(usage, "prompt_tokens", "input_tokens") or self.prompt
        self.out = _count(usage, "completion_tokens", "output_tokens") or self.out
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
        self.cached = _count(details, "cached_tokens") or self.cached
        self.told = True


def _count(usage: Any, *names: str) -> int:
    found = [usage[name] for name in names if isinstance(usage, dict) and type(usage.get(name)) is int]
    return min(max(0, found[0]), _MOST_COUNTED) if found else 0


@dataclass
class PassingEvents:
    """Server-sent events in pieces as they come. ``model``: the client's name of it."""

    endpoint: Endpoint
    model: str
    tokens: Tokens = field(default_factory=Tokens)
    ended: bool = False  # the event has come that ends such a stream
    _tail: bytes = b""  # the last bytes that have passed
    _lines: Lines = field(default_factory=Lines)
    _events: int = 0
    _quoted: bytes = b""
    _choices: dict[Any, bool] = field(default_factory=dict)  # whether each has told why it ended

    def __post_init__(self) -> None:
        self._quoted = json.dumps(self.model).encode()

    @property
    def complete(self) -> bool:
        """Some servers end a stream behind the reasons of all choices, without a last event."""
        return self.ended or (bool(self._choices) and all(self._choices.values()))

    def take(self, piece: bytes) -> bytes:
        """What may be passed on by now: whole lines. Raises TooLong."""
        out = self._passed(self._lines.take(piece))
        self._tail = (self._tail + out)[-4:]
        return out

    @property
    def between(self) -> bool:
        """Whether a comment may follow: what has passed ends with a whole event."""
        return not self._lines.waiting and (not self._tail or self._tail.endswith(_ENDS))

    def end(self) -> bytes:
        """The rest. Where no usage was told, each event with text counts as a token."""
        out = self._passed(self._lines.end())
        if not self.tokens.told:
            self.tokens.out = self._events
        self.ended = self.ended or self.endpoint not in STREAMED
        return out

    @property
    def texts(self) -> int:
        """Events with text so far."""
        return self._events

    def _passed(self, lines: bytes) -> bytes:
        if b"data:" not in lines:
            return lines
        return b"".join(map(self._line, lines.splitlines(keepends=True)))

    def _line(self, line: bytes) -> bytes:
        if not line.startswith(b"data:"):
            return line
        if line[5:].strip() == DONE:
            self.ended = True
            return line
        self._events += b'"content"' in line or b'"text"' in line or b'"delta"' in line
        try:
            event = read_json(line[5:])
            self._look(event)
            if b'"model"' not in line and _ESCAPED not in line:
                return line
            if found := _only_name(line, event):
                return line[: found.start(1)] + self._quoted + line[found.end(1) :]
            return b"data:" + renamed(line[5:].decode(), self.model, PLACES).encode()
        except ValueError:
            return line

    def _look(self, event: Any) -> None:
        if not isinstance(event, dict):
            return
        self.tokens.read(event)
        self.ended = self.ended or event.get("type") in _LAST_TYPES or bool(event.get("error"))
        choices = event.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and isinstance(index := choice.get("index", 0), int):
                self._choices[index] = self._choices.get(index, False) or bool(choice.get("finish_reason"))


def _only_name(line: bytes, event: Any) -> re.Match[bytes] | None:
    """Where the name stands, if no other place can be meant: reading the whole line takes ten times as long."""
    if isinstance(event, dict) and "model" in event and line.count(b'"model"') == 1 and _ESCAPED not in line:
        return _NAME.search(line)
    return None


def passed_object(data: bytes, model: str, tokens: Tokens) -> bytes:
    """A whole answer. Raises ValueError when it is no JSON object."""
    text = data.decode("utf-8-sig")
    tokens.read(read_json(text))
    return renamed(text, model, PLACES).encode()


def read_json(text: bytes | str) -> Any:
    """Raises ValueError."""
    try:
        return from_json(text)
    except ValueError:  # also of half a surrogate pair, which clients take
        try:
            return json.loads(text)
        except RecursionError:
            raise ValueError("it is nested too deep") from None
