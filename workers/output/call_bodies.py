"""What stands between the marks of a call: a JSON object, a list of them, or arguments between tags.

A body is read on as the text grows and gives its calls once it is whole. ``read`` raises More while the text does not
say yet, Mismatch or ValueError once it cannot be a call any more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from workers.chat_template.call_format import CallFormat, Path
from workers.output.almost_json import Scan, parse
from workers.output.call_marks import NO_NAMES, Mismatch, Text, pieces_of

Json = Any
Follows = Callable[[Text, int, bool], bool]
_WHERE = ("arguments", "parameters", "args", "input")  # where models put them, whatever their template shows


@dataclass(frozen=True)
class ParsedCall:
    name: str
    arguments: dict[str, Json]


class CallBody(Protocol):
    def read(self, text: Text, follows: Follows) -> tuple[int, list[ParsedCall]]:
        """Gives the index after the calls, and the calls."""
        ...


class _JsonBody:
    def __init__(self, format: CallFormat, name: str, at: int, *, fenced: bool = False) -> None:
        self._format = format
        self._name = name
        self._fenced = fenced
        self._start = at
        self._scan = Scan(at)
        self._closing = pieces_of(format.closing)

    def _value(self, text: Text) -> tuple[int, Json]:
        self._scan.read(text.text)
        if self._scan.end is not None:
            return self._scan.end, parse(text.text[self._start : self._scan.end])
        if self._scan.broken is None:
            raise text.more()
        # An end mark where JSON has none: brackets are missing.
        end = self._scan.broken
        if self._end(text, end) == end:
            raise Mismatch
        return end, parse(text.text[self._start : end].rstrip() + self._scan.missing)

    def _end(self, text: Text, at: int) -> int:
        """The index after the pieces of the closing mark that are present."""
        for piece in self._closing:
            try:
                at = text.pieces((piece,), at, NO_NAMES, NO_NAMES).end
            except Mismatch:
                if piece.strong and (end := _spare_brackets(text, at)) > at:
                    try:
                        at = text.pieces((piece,), end, NO_NAMES, NO_NAMES).end
                    except Mismatch:
                        pass
        return at

    def _call(self, value: Json) -> ParsedCall:
        if not isinstance(value, dict):
            raise Mismatch
        if self._name:
            return ParsedCall(self._name, value)
        if self._format.name_is_key:
            if len(value) != 1:
                raise Mismatch
            name, arguments = next(iter(value.items()))
        else:
            value = _inner(value)
            name, arguments = _at(value, self._format.name), _arguments(value, self._format.arguments)
        if isinstance(arguments, str):
            arguments = parse(arguments) if arguments.strip() else {}
        arguments = {} if arguments is None else arguments
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise Mismatch
        return ParsedCall(name, arguments)


class ObjectBody(_JsonBody):
    """One call, or a list of them where a model writes one."""

    def read(self, text: Text, follows: Follows) -> tuple[int, list[ParsedCall]]:
        end, value = self._value(text)
        if self._fenced:
            end = text.literal("```", text.skip_blanks(end))
        values = value if isinstance(value, list) and self._format.kind == "json" else [value]
        calls = [self._call(each) for each in values]
        return self._end(text, end), calls


class ListBody(_JsonBody):
    """A list of calls, or one where a model writes no list."""

    def __init__(self, format: CallFormat, name: str, at: int) -> None:
        super().__init__(format, name, at)
        self._closing = pieces_of(format.outer[1])

    def read(self, text: Text, follows: Follows) -> tuple[int, list[ParsedCall]]:
        end, value = self._value(text)
        calls = [self._call(each) for each in (value if isinstance(value, list) else [value])]
        return self._end(text, end), calls


def _inner(value: dict[str, Json]) -> dict[str, Json]:
    """The call in an object of OpenAI's form, where a model writes that."""
    inner = value.get("function")
    if isinstance(inner, str) and "name" not in value:
        return {"name": inner, **{key: each for key, each in value.items() if key != "function"}}
    return inner if isinstance(inner, dict) and set(value) <= {"id", "type", "function"} else value


def _spare_brackets(text: Text, at: int) -> int:
    while at < len(text.text) and text.text[at] in "}] \n":
        at += 1
    return at


def _at(value: Json, path: Path) -> Json:
    for step in path:
        try:
            value = value[step]
        except (LookupError, TypeError):
            raise Mismatch from None
    return value


def _arguments(value: dict[str, Json], path: Path) -> Json:
    try:
        return _at(value, path)
    except Mismatch:
        found = [value[key] for key in _WHERE if key in value]
        if len(found) != 1 and set(value) - {"id", "type", "name", "tool_name"}:
            raise
        return found[0] if found else {}
