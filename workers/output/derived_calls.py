"""The filter behind the thinking for a derived call format; like ``CallFilter`` from outside."""

from collections.abc import Sequence
from typing import Any

from shared.protocol import CallPiece
from workers.chat_template.call_format import KEY_HOLE, NAME_HOLE, CallFormat
from workers.output.call_reader import CallReader, Read
from workers.output.tool_calls import CallFilter, TextAndCalls, ToolPolicy, call_id

# What Llama 3.2 and 4 write beside JSON, in a list at the beginning of an answer.
PYTHONIC = CallFormat(
    "tagged",
    opening=f"{NAME_HOLE}(",
    closing=")",
    outer=("[", "]"),
    between=", ",
    key=f"{KEY_HOLE}=",
    comma=", ",
    quotes=('"', '"'),
    escaped=True,
)
_LEAD = "<|python_start|>"


def is_bare(format: CallFormat) -> bool:
    """Whether calls are JSON objects without marks."""
    return format.kind == "json" and not format.outer[0] and not format.opening


class EitherReader:
    """Reads calls as JSON without marks, or as a list of Python's calls; the first characters of an answer decide."""

    def __init__(self, format: CallFormat, tools: Sequence[dict[str, Any]]) -> None:
        self._json, self._python = CallReader(format, tools), CallReader(PYTHONIC, tools)
        self._names = [str((tool.get("function") or {}).get("name")) for tool in tools]
        self._held = ""
        self._chosen: CallReader | None = None

    @property
    def inside(self) -> bool:
        return self._chosen is not None and self._chosen.inside

    def push(self, text: str) -> Read:
        self._held += text
        self._chosen = self._chosen or self._choose()
        if self._chosen is None:
            return Read()
        held, self._held = self._held, ""
        return self._chosen.push(held)

    def flush(self) -> Read:
        reader, self._chosen = self._chosen or self._json, self._json
        return reader.push(self._held) + reader.flush()

    def _choose(self) -> CallReader | None:
        """None: not yet known."""
        text = self._held.lstrip()
        lead = text.removeprefix(_LEAD).lstrip()
        if not lead or _LEAD.startswith(text):
            return None
        if lead[0] != "[":
            return self._json
        first = lead[1:].lstrip()
        if any(first.startswith(f"{name}(") for name in self._names):
            self._held = lead
            return self._python
        return None if any(f"{name}(".startswith(first) for name in self._names) else self._json


class DerivedCallFilter:
    """``key`` names the choice of the request: the calls' ids are made of it, so a resumed choice has the same."""

    def __init__(self, policy: ToolPolicy, key: str) -> None:
        assert policy.format.format is not None
        tools, format = policy.callable, policy.format.format
        self._reader = EitherReader(format, tools) if is_bare(format) else CallReader(format, tools)
        self._parallel = policy.parallel
        self._key = key
        self._calls = 0

    @property
    def called(self) -> bool:
        return self._calls > 0

    @property
    def inside(self) -> bool:
        return self._reader.inside

    @property
    def satisfied(self) -> bool:
        """No call may follow the one that came."""
        return self.called and not self._parallel

    def push(self, text: str) -> TextAndCalls:
        return TextAndCalls() if self.satisfied else self._found(self._reader.push(text))

    def flush(self, *, closed: bool) -> TextAndCalls:
        return TextAndCalls() if self.satisfied else self._found(self._reader.flush())

    def _found(self, read: Read) -> TextAndCalls:
        found = TextAndCalls(read.text)
        for name, arguments in read.calls:
            if self.satisfied:
                break
            id = call_id(self._key, self._calls)
            found.calls.append(CallPiece(index=self._calls, id=id, name=name, arguments=arguments))
            self._calls += 1
        return found


def call_filter(policy: ToolPolicy, key: str) -> CallFilter | DerivedCallFilter:
    return CallFilter(policy, key) if policy.format.format is None else DerivedCallFilter(policy, key)
