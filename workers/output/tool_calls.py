"""Separates tool calls from text: a pure filter behind the reasoning filter, one per choice.

Rule 1: the same text gives the same calls however it is cut. Every decision depends on the text so far, never on
where a delta ended.
Rule 2: text that turns out not to be a call is given back as text. Nothing here raises.
Rule 3: whitespace before and between calls belongs to the calls.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any

from shared.protocol import CallPiece
from workers.output.call_reader import as_json
from workers.output.reasoning import overlap
from workers.output.tool_formats import ToolFormat

LOOK = 512  # characters within which a streamed call's head, or the text behind its arguments, must match

# mlx-lm's parsers expect well-formed calls and raise these for malformed ones.
_MALFORMED: tuple[type[Exception], ...] = (
    *(ArithmeticError, AttributeError, LookupError, MemoryError),
    *(RecursionError, SyntaxError, TypeError, ValueError),
)


@dataclass(frozen=True)
class ToolPolicy:
    """Which tools may be called, and in which format. ``tools``: in OpenAI's schema, as mlx-lm's parsers want them."""

    format: ToolFormat
    names: frozenset[str]
    tools: Sequence[dict[str, Any]] = ()
    parallel: bool = True

    @cached_property
    def callable(self) -> list[dict[str, Any]]:
        """The tools that may be called."""
        return [tool for tool in self.tools if (tool.get("function") or {}).get("name") in self.names]


@dataclass
class TextAndCalls:
    text: str = ""
    calls: list[CallPiece] = field(default_factory=list)


class CallFilter:
    """``key`` names the choice of the request. Call ids are derived from it, so a resumed choice repeats them."""

    def __init__(self, policy: ToolPolicy, key: str) -> None:
        self._policy = policy
        self._format = policy.format
        self._key = key
        self._state: Callable[[], bool] = self._outside  # consumes from _rest; returns whether to continue
        self._rest = ""  # undecided text
        self._blank = ""  # whitespace before the current call
        self._object = JsonObject()
        self._found = TextAndCalls()
        self._begun = 0
        self._complete = 0

    @property
    def called(self) -> bool:
        return self._begun > 0

    @property
    def inside(self) -> bool:
        """The text so far ends between the delimiters of a call."""
        return self._state != self._outside

    @property
    def satisfied(self) -> bool:
        """A call is complete, and the policy allows only one."""
        return self._complete > 0 and not self._policy.parallel

    def push(self, text: str) -> TextAndCalls:
        self._rest += text
        while not self.satisfied and self._state():
            pass
        return self._take_found()

    def flush(self, *, closed: bool) -> TextAndCalls:
        """``closed``: the model ended the turn, so a call without its end delimiter may be whole."""
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
        before, found, after = self._rest.partition(self._format.start)
        if found:
            shown = before.rstrip()
            self._blank, self._rest = before[len(shown) :], after
            self._state = self._inside
        else:
            shown = before[: len(before) - overlap(before, self._format.start)].rstrip()
            self._rest = before[len(shown) :]
        self._found.text += shown
        return bool(found)

    def _inside(self) -> bool:
        if self._begin_stream():
            return True
        end = self._format.end
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
        """Reads what follows streamed arguments: the end delimiter or another call."""
        assert self._format.stream
        look = self._rest[:LOOK]
        end, tail = self._format.end, self._format.stream.tail.match(look)
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
        """The text behind a call, unless it is a prefix of the end delimiter."""
        assert self._format.stream
        tail = self._format.stream.tail.match(rest)
        behind = rest[tail.end() :] if tail else rest
        return "" if self._format.end.startswith(behind) else behind

    # ------------------------------------------------------------ calls

    def _begin_stream(self, at: int = 0) -> bool:
        stream = self._format.stream
        head = stream.head.match(self._rest[:LOOK], at) if stream else None
        if not head or head["name"] not in self._policy.names:
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
        """Whether ``body`` was one call or several."""
        calls = parsed_calls(self._policy, body)
        for name, arguments in calls if self._policy.parallel else calls[:1]:
            self._begin(name, arguments)
            self._complete += 1
        return bool(calls)

    def _give_back(self, body: str) -> None:
        self._found.text += self._blank + self._format.start + body

    def _take_found(self) -> TextAndCalls:
        found, self._found = self._found, TextAndCalls()
        return found


class JsonObject:
    """Finds where a JSON object ends in text that arrives in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self.closed = False

    def read(self, text: str) -> int:
        """How many of these characters belong to the object."""
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


def parsed_calls(policy: ToolPolicy, body: str) -> list[tuple[str, str]]:
    """(name, arguments as JSON) of each call; empty if one is malformed or its tool may not be called."""
    try:
        parsed = policy.format.parse(body, list(policy.tools))
        calls = [_checked(call) for call in (parsed if isinstance(parsed, list) else [parsed])]
    except _MALFORMED:
        return []
    return calls if all(name in policy.names for name, _ in calls) else []


def _checked(call: Any) -> tuple[str, str]:
    """Raises TypeError, LookupError or ValueError."""
    name, arguments = call["name"], call.get("arguments", call.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = json.loads(arguments or "{}")
    if not isinstance(name, str) or not isinstance(arguments or {}, dict):
        raise TypeError("not a call")
    return name, as_json(arguments or {})
