"""Tool calls out of the text: a pure filter behind the thinking, one per choice.

Rule 1: the same text gives the same calls, however it is cut; every decision hangs on what has come so far, never on
where a piece of it ended.
Rule 2: what turns out not to be a call is given back as text; nothing here raises.
Rule 3: blanks before and between calls belong to the calls.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from shared.protocol import CallPiece
from workers.output.reasoning import overlap
from workers.output.tool_formats import Family

LOOK = 512  # characters in which a streamed call's head, or what is behind its arguments, must be seen

# mlx-lm's parsers are made for well-formed calls and raise whatever Python raises on others.
_MALFORMED: tuple[type[Exception], ...] = (
    *(ArithmeticError, AttributeError, LookupError, MemoryError),
    *(RecursionError, SyntaxError, TypeError, ValueError),
)

_SURROGATES = re.compile("[\ud800-\udfff]")  # halves of pairs, which UTF-8 cannot say; JSON can, escaped


@dataclass(frozen=True)
class Calling:
    """How calls look and which may be made. ``tools``: as the parsers want them, by OpenAI's schema."""

    family: Family
    names: frozenset[str]
    tools: Sequence[dict[str, Any]] = ()
    parallel: bool = True


@dataclass
class Found:
    text: str = ""
    calls: list[CallPiece] = field(default_factory=list)


class CallFilter:
    """``key`` names the choice of the request: the calls' ids are made of it, so a resumed choice has the same."""

    def __init__(self, calling: Calling, key: str) -> None:
        self._calling = calling
        self._family = calling.family
        self._key = key
        self._state: Callable[[], bool] = self._outside  # works on what is undecided; whether to go on
        self._rest = ""  # undecided
        self._blank = ""  # before the call that has begun
        self._object = JsonObject()
        self._found = Found()
        self._begun = 0
        self._complete = 0

    @property
    def called(self) -> bool:
        return self._begun > 0

    @property
    def inside(self) -> bool:
        """Between the marks of a call, as far as is known yet."""
        return self._state != self._outside

    @property
    def satisfied(self) -> bool:
        """No call may follow the one that came."""
        return self._complete > 0 and not self._calling.parallel

    def push(self, text: str) -> Found:
        self._rest += text
        while not self.satisfied and self._state():
            pass
        return self._take_found()

    def flush(self, *, closed: bool) -> Found:
        """``closed``: the model ended here by itself, so a call without its end mark may be whole."""
        rest, self._rest = self._rest, ""
        if self.satisfied:
            return self._take_found()
        if self._state == self._inside:
            if not closed or not self._whole(rest):
                self._give_back(rest)
        elif self._state == self._behind:
            self._found.text += self._unexpected(rest)
        elif rest.strip() or not self.called:
            self._found.text += rest
        return self._take_found()

    # ------------------------------------------------------------ states

    def _outside(self) -> bool:
        before, found, after = self._rest.partition(self._family.start)
        if found:
            shown = before.rstrip()
            self._blank, self._rest = before[len(shown) :], after
            self._state = self._inside
        else:
            shown = before[: len(before) - overlap(before, self._family.start)].rstrip()
            self._rest = before[len(shown) :]
        self._found.text += shown
        return bool(found)

    def _inside(self) -> bool:
        if self._begin_stream():
            return True
        end = self._family.end
        if not end or end not in self._rest:
            return False
        body, _, self._rest = self._rest.partition(end)
        if not self._whole(body):
            self._give_back(body + end)
        self._state = self._outside
        return True

    def _arguments(self) -> bool:
        size = self._object.read(self._rest)
        piece, self._rest = self._rest[:size], self._rest[size:]
        if piece:
            self._found.calls.append(CallPiece(index=self._begun - 1, arguments=piece))
        if not self._object.closed:
            return False
        self._complete += 1
        self._state = self._behind
        return True

    def _behind(self) -> bool:
        """After streamed arguments: the end mark, or another call."""
        assert self._family.stream
        look = self._rest[:LOOK]
        end, tail = self._family.end, self._family.stream.tail.match(look)
        at = tail.end() if tail else 0
        if end and look.startswith(end, at):
            self._rest = self._rest[at + len(end) :]
            self._state = self._outside
            return True
        if self._begin_stream(at):
            return True
        if len(self._rest) < LOOK:
            return False
        self._state = self._outside
        return True

    def _unexpected(self, rest: str) -> str:
        """What of the text behind a call is neither its end nor the beginning of that."""
        assert self._family.stream
        tail = self._family.stream.tail.match(rest)
        behind = rest[tail.end() :] if tail else rest
        return "" if self._family.end.startswith(behind) else behind

    # ------------------------------------------------------------ calls

    def _begin_stream(self, at: int = 0) -> bool:
        stream = self._family.stream
        head = stream.head.match(self._rest[:LOOK], at) if stream else None
        if not head or head["name"] not in self._calling.names:
            return False
        self._rest = self._rest[head.end() :]
        self._object = JsonObject()
        self._begin(head["name"], "")
        self._state = self._arguments
        return True

    def _begin(self, name: str, arguments: str) -> None:
        index = self._begun
        self._begun += 1
        piece = CallPiece(index=index, id=call_id(self._key, index), name=name, arguments=arguments)
        self._found.calls.append(piece)

    def _whole(self, body: str) -> bool:
        """Whether it was a call, or several."""
        calls = parsed_calls(self._calling, body)
        for name, arguments in calls if self._calling.parallel else calls[:1]:
            self._begin(name, arguments)
            self._complete += 1
        return bool(calls)

    def _give_back(self, body: str) -> None:
        self._found.text += self._blank + self._family.start + body

    def _take_found(self) -> Found:
        found, self._found = self._found, Found()
        return found


class JsonObject:
    """Where a JSON object ends, read piece by piece."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self.closed = False

    def read(self, text: str) -> int:
        """How many of these characters belong to it."""
        for i, character in enumerate(text):
            if self._in_string:
                self._read_string(character)
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.closed = True
                    return i + 1
        return len(text)

    def _read_string(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._in_string = False


def call_id(key: str, index: int) -> str:
    return "call_" + blake2b(f"{key}|{index}".encode(), digest_size=12).hexdigest()


def parsed_calls(calling: Calling, body: str) -> list[tuple[str, str]]:
    """(name, arguments as JSON) of each call; empty if any of it is malformed or may not be called."""
    try:
        parsed = calling.family.parse(body, list(calling.tools))
        calls = [_checked(call) for call in (parsed if isinstance(parsed, list) else [parsed])]
    except _MALFORMED:
        return []
    return calls if all(name in calling.names for name, _ in calls) else []


def _checked(call: Any) -> tuple[str, str]:
    """Raises TypeError, LookupError or ValueError."""
    name, arguments = call["name"], call.get("arguments", call.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = json.loads(arguments or "{}")
    if not isinstance(name, str) or not isinstance(arguments or {}, dict):
        raise TypeError("not a call")
    text = json.dumps(arguments or {}, ensure_ascii=False, allow_nan=False)
    return name, _SURROGATES.sub(lambda half: f"\\u{ord(half[0]):04x}", text)
