"""JSON as models write it: what they nearly got right is read as they meant it.

Taken beside JSON: raw control characters in strings, single quotes, Python's constants, unknown escapes, bare keys, a
comma too many, and brackets that are missing at the end where the caller says so. NaN and Infinity are no JSON.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

_BLANKS = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_RUN = re.compile(r"[-+.\w]+")
_WORD = re.compile(r"[A-Za-z_$][\w$.-]*")
_CONSTANTS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "'": "'"}
_CLOSERS = {"{": "}", "[": "]", "(": ")"}


class Incomplete(ValueError):
    """The text ends inside of the value."""


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


_LENIENT = json.JSONDecoder(strict=False, parse_constant=_no_constant)


def parse(text: str, quotes: tuple[str, str] | None = None) -> Any:
    """One value and nothing behind it. Raises ValueError. ``quotes``: of strings without escapes, beside JSON's."""
    text += "\n"  # so that a number ends
    value, end = parse_at(text, _blanks(text, 0), quotes)
    if _blanks(text, end) != len(text):
        raise ValueError("something follows")
    return value


def parse_at(text: str, at: int, quotes: tuple[str, str] | None = None) -> tuple[Any, int]:
    """The value that begins at ``at``, and where it ends. Raises ValueError, Incomplete where the text just ends."""
    try:
        if quotes is None:
            return _LENIENT.raw_decode(text, at)
    except (ValueError, RecursionError):
        pass
    try:
        return _Tolerant(text, quotes).value(at)
    except IndexError:
        raise Incomplete("the text ends inside of a value") from None
    except RecursionError:
        raise ValueError("too deep") from None


def _blanks(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    return found.end() if found else at


class _Tolerant:
    """Raises ValueError, or IndexError at the end of the text."""

    def __init__(self, text: str, quotes: tuple[str, str] | None) -> None:
        self._text = text
        self._quotes = quotes

    def value(self, at: int) -> tuple[Any, int]:
        first = self._text[at]
        if first == "{":
            return self._object(at + 1)
        if first in "[(":
            return self._list(at + 1, _CLOSERS[first])
        if self._quotes and self._text.startswith(self._quotes[0], at):
            return self._quoted(at)
        if self._quotes and self._quotes[0].startswith(self._text[at:]):
            raise IndexError
        if first in "\"'":
            return self._string(at + 1, first)
        return self._scalar(at)

    def _scalar(self, at: int) -> tuple[Any, int]:
        run = _RUN.match(self._text, at)
        if run is None:
            raise ValueError("no value")
        if run.end() == len(self._text):
            raise IndexError  # it may go on
        if run[0] in _CONSTANTS:
            return _CONSTANTS[run[0]], run.end()
        if not _NUMBER.fullmatch(run[0]):
            raise ValueError("no value")
        return json.loads(run[0]), run.end()

    def _object(self, at: int) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        at = self._skip(at)
        while self._text[at] != "}":
            key, at = self._key(at)
            at = self._skip(at)
            if self._text[at] != ":":
                raise ValueError("no colon")
            found[key], at = self.value(self._skip(at + 1))
            at = self._comma(at, "}")
        return found, at + 1

    def _list(self, at: int, end: str) -> tuple[list[Any], int]:
        found: list[Any] = []
        at = self._skip(at)
        while self._text[at] != end:
            value, at = self.value(at)
            found.append(value)
            at = self._comma(at, end)
        return found, at + 1

    def _comma(self, at: int, end: str) -> int:
        at = self._skip(at)
        if self._text[at] == ",":
            return self._skip(at + 1)
        if self._text[at] != end:
            raise ValueError("no comma")
        return at

    def _key(self, at: int) -> tuple[str, int]:
        if self._quotes and self._text.startswith(self._quotes[0], at):
            return self._quoted(at)
        if self._text[at] in "\"'":
            return self._string(at + 1, self._text[at])
        if self._quotes:  # loose objects: any text up to the colon
            end = self._find(":", at)
            return self._text[at:end], end
        if word := _WORD.match(self._text, at):
            return word[0], word.end()
        raise ValueError("no key")

    def _quoted(self, at: int) -> tuple[str, int]:
        assert self._quotes
        start = at + len(self._quotes[0])
        end = self._find(self._quotes[1], start)
        return self._text[start:end], end + len(self._quotes[1])

    def _find(self, mark: str, at: int) -> int:
        found = self._text.find(mark, at)
        if found < 0:
            raise IndexError
        return found

    def _string(self, at: int, quote: str) -> tuple[str, int]:
        parts: list[str] = []
        while (character := self._text[at]) != quote:
            if character == "\\":
                part, at = self._escape(at + 1)
                parts.append(part)
            else:
                parts.append(character)
                at += 1
        return "".join(parts), at + 1

    def _escape(self, at: int) -> tuple[str, int]:
        character = self._text[at]
        if character == "u" and re.fullmatch(r"[0-9a-fA-F]{4}", code := self._text[at + 1 : at + 5]):
            return self._unicode(int(code, 16), at + 5)
        if character == "U" and re.fullmatch(
            r"00(?:0[0-9a-fA-F]|10)[0-9a-fA-F]{4}", code := self._text[at + 1 : at + 9]
        ):
            return chr(int(code, 16)), at + 9
        if character == "x" and re.fullmatch(r"[0-9a-fA-F]{2}", code := self._text[at + 1 : at + 3]):
            return chr(int(code, 16)), at + 3
        return _ESCAPES.get(character, "\\" + character), at + 1

    def _unicode(self, code: int, at: int) -> tuple[str, int]:
        low = re.compile(r"\\u([dD][c-fC-F][0-9a-fA-F]{2})").match(self._text, at)
        if 0xD800 <= code < 0xDC00 and low:
            return chr(0x10000 + ((code - 0xD800) << 10) + (int(low[1], 16) - 0xDC00)), low.end()
        return chr(code), at

    def _skip(self, at: int) -> int:
        return _blanks(self._text, at)


@dataclass
class Scan:
    """Where a JSON value that begins at ``at`` with a bracket or a quote ends, read on as the text grows.

    ``quotes``: as for ``parse``. ``end``: behind its last bracket or quote. ``broken``: where a character stands that
    no JSON has outside of strings.
    """

    at: int
    quotes: tuple[str, str] | None = None
    end: int | None = None
    broken: int | None = None

    def __post_init__(self) -> None:
        self._open: list[str] = []
        self._quote = ""
        self._escaped = False

    def read(self, text: str) -> None:
        """``text``: all of it, from its beginning."""
        while self.end is None and self.broken is None and self.at < len(text):
            behind = (
                self.at if self.quotes is None or self._quote else self._behind_quoted(text, *self.quotes)
            )
            if behind is None:
                return
            if behind > self.at:
                self.at = behind
            else:
                self._character(text[self.at])
                self.at += 1

    @property
    def missing(self) -> str:
        """The brackets that would close it, unless it stands in a string."""
        return "".join(_CLOSERS[bracket] for bracket in reversed(self._open))

    def _behind_quoted(self, text: str, opening: str, closing: str) -> int | None:
        """The index after the string without escapes that begins here, if one does; None if it is not known yet."""
        if not text.startswith(opening, self.at):
            return None if opening.startswith(text[self.at : self.at + len(opening)]) else self.at
        end = text.find(closing, self.at + len(opening))
        return None if end < 0 else end + len(closing)

    def _character(self, character: str) -> None:
        if self._quote:
            self._in_string(character)
        elif character in "\"'":
            self._quote = character
        elif character in "{[(":
            self._open.append(character)
        elif character in "}])":
            if _CLOSERS[self._open.pop()] != character:
                self.broken = self.at
            elif not self._open:
                self.end = self.at + 1
        elif character in "<>|`;\\":
            self.broken = self.at

    def _in_string(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == self._quote:
            self._quote = ""
            self.end = None if self._open else self.at + 1
