"""The arguments of a call that are written one by one between tags, as Python's keywords or as a loose object.

A value ends only where another argument or the call's end follows, so that marks inside of strings are text.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from workers.chat_template.call_format import KEY_HOLE, CallFormat
from workers.output.almost_json import Incomplete, Scan, parse, parse_at
from workers.output.argument_values import schema_at, tagged_value, value_of
from workers.output.call_bodies import Follows, ParsedCall
from workers.output.call_marks import NO_NAMES, MarkPiece, Matched, Mismatch, More, Names, Text, pieces_of

Json = Any
Pieces = Sequence[MarkPiece]


class TaggedBody:
    """``schema``: the tool's parameters, by which values without a type are read."""

    def __init__(self, format: CallFormat, schema: dict[str, Any], name: str, at: int) -> None:
        self._format = format
        self._schema = schema
        self._name = name
        self._at = at
        self._arguments: dict[str, Json] = {}
        self._searched = (0, 0)  # where a value begins, and up to where its end was looked for
        self._scans: dict[int, Scan] = {}  # by where a value without the format's quotes begins
        self._known = Names(frozenset(_properties(schema)))

    def read(self, text: Text, follows: Follows) -> tuple[int, list[ParsedCall]]:
        while True:
            try:
                found, kind = self._key(text, self._at, first=not self._arguments)
            except Mismatch:
                self._as_object(text)
                return self._end(text, self._at, follows), [ParsedCall(self._name, self._arguments)]
            value, self._at = self._value(text, found, kind, follows)
            self._arguments[found.key] = value

    def _as_object(self, text: Text) -> None:
        """All arguments as one JSON object, if a model wrote them so. Raises More, Mismatch, ValueError."""
        at = text.skip_blanks(self._at)
        if self._arguments or self._format.values == "loose" or not text.text.startswith("{", at):
            return
        if not text.whole and self._is_open(text.text, at, None):
            raise More
        value, self._at = parse_at(text.text, at)
        self._arguments = value

    # ------------------------------------------------------------ marks

    @cached_property
    def _keys(self) -> list[tuple[str, tuple[MarkPiece, ...]]]:
        """The marks before a value, with the type that each names; one for strings, or for all."""
        typed = [(kind, pieces_of(mark)) for kind, mark in self._format.key_by_type.items()]
        return [("string" if typed else "", pieces_of(self._format.key)), *typed]

    @cached_property
    def _comma(self) -> tuple[MarkPiece, ...]:
        return pieces_of(self._format.comma)

    @cached_property
    def _closing(self) -> tuple[MarkPiece, ...]:
        return pieces_of(self._format.closing)

    @cached_property
    def _weak(self) -> bool:
        return not any(piece.strong for piece in self._closing)

    @cached_property
    def _closes_alone(self) -> bool:
        """Whether the end is one mark, which a text that was cut off inside of a string may end with too."""
        return sum(piece.strong for piece in self._closing) < 2

    @cached_property
    def _shared(self) -> int:
        """How many pieces the call's end begins with that may begin another argument too."""
        keys = [pieces for _, pieces in self._keys]
        if self._comma:
            keys = [self._comma]
        return max(_common(self._closing, pieces) for pieces in keys)

    def _key(self, text: Text, at: int, *, first: bool, known: bool = False) -> tuple[Matched, str]:
        """``known``: only keys of the schema. Raises More, Mismatch."""
        if not first:
            at = text.pieces(self._comma, at, NO_NAMES, NO_NAMES).end
        for kind, pieces in self._keys:
            try:
                found = text.pieces(pieces, at, NO_NAMES, self._known)
            except Mismatch:
                continue
            if not known or found.key in self._known.words:
                return found, kind
        raise Mismatch

    def _end(self, text: Text, at: int, follows: Follows) -> int:
        """The index after the call; its last marks may be missing if something else ends it. Raises More, Mismatch."""
        try:
            end = text.pieces(self._closing, at, NO_NAMES, NO_NAMES).end
            if not self._weak or follows(text, end, True):
                return end
        except Mismatch:
            pass
        for size in range(len(self._closing) - 1, self._shared, -1):
            try:
                end = text.pieces(self._closing[:size], at, NO_NAMES, NO_NAMES).end
            except Mismatch:
                continue
            if follows(text, end, self._weak):
                return end
        for i in range(1, len(self._closing)):
            if all(piece.strong for piece in self._closing[i:]):  # of several ends the first are missing
                try:
                    return text.pieces(self._closing[i:], at, NO_NAMES, NO_NAMES).end
                except Mismatch:
                    pass
        raise Mismatch

    # ------------------------------------------------------------ values

    def _value(self, text: Text, key: Matched, kind: str, follows: Follows) -> tuple[Json, int]:
        """The value, and where what follows it begins."""
        begin = text.skip_blanks(key.end)
        if begin == len(text.text):
            raise text.more()
        if self._format.quotes[0]:
            if (triple := self._triple(text, begin)) and (end := text.text.find(triple, begin + 3)) >= 0:
                behind = text.pieces(pieces_of(self._format.after), end + 3, NO_NAMES, NO_NAMES).end
                return self._unquoted(text.text[begin + 3 : end]), behind
            if triple:
                raise text.more()
            try:
                start = text.literal(self._format.quotes[0], begin)
            except Mismatch:
                return self._bare(text, begin, key.key, follows)
            closed = self._format.quotes[1] + self._format.after
            end, behind = self._find_end(text, start, pieces_of(closed), follows)
            return self._unquoted(text.text[start:end]), behind
        after = self._format.after.replace(KEY_HOLE, key.key)
        end, behind = self._find_end(text, key.end, pieces_of(after), follows)
        return self._meaning(text.text[key.end : end], key.key, kind), behind

    def _triple(self, text: Text, at: int) -> str:
        """Python's triple quote, if the value begins with one: not where it may be a quote in quotes. Raises More."""
        first = text.text[at : at + 3]
        if not self._format.escaped or set(first) not in ({'"'}, {"'"}):
            return ""
        if len(first) < 3 and not text.whole:
            raise More
        return first if len(first) == 3 else ""

    def _bare(self, text: Text, at: int, key: str, follows: Follows) -> tuple[Json, int]:
        """A value without quotes in a format that has them: a constant, a number, an object or a list."""
        quotes = None if self._format.values in ("json", "python") else self._format.quotes
        if text.text[at] in "{[(\"'":
            if not text.whole and self._is_open(text.text, at, quotes):
                raise More
            try:
                value, end = parse_at(text.text, at, quotes)
            except Incomplete:
                raise text.more() from None
            return value, text.pieces(pieces_of(self._format.after), end, NO_NAMES, NO_NAMES).end
        end, behind = self._find_end(text, at, pieces_of(self._format.after), follows)
        return value_of(text.text[at:end].strip(), schema_at(self._schema, key), self._schema), behind

    def _is_open(self, text: str, at: int, quotes: tuple[str, str] | None) -> bool:
        """Whether brackets or quotes of the value are open; what was read of it is not read again."""
        scan = self._scans.setdefault(at, Scan(at, quotes))
        scan.read(text)
        return scan.end is None and scan.broken is None

    def _find_end(self, text: Text, start: int, mark: Pieces, follows: Follows) -> tuple[int, int]:
        """The end of the value and the begin of what follows: the first position from which the rest parses."""
        searched = self._searched[1] if self._searched[0] == start else start
        places = _places(mark, self._comma, self._closing, self._keys)
        for place in places.finditer(text.text, searched):
            at = place.start()
            self._searched = (start, at)
            if (behind := self._ends_at(text, at, mark, follows)) is not None:
                return at, behind
        self._searched = (start, max(searched, len(text.text) - 64))
        raise text.more()

    def _ends_at(self, text: Text, at: int, mark: Pieces, follows: Follows) -> int | None:
        try:
            behind = text.pieces(mark, at, NO_NAMES, NO_NAMES).end
            if self._continues(text, behind, follows):
                return behind
        except Mismatch:
            pass
        plain = mark and not self._format.quotes[0] and not self._comma
        return at if plain and self._lacks_mark(text, at, follows) else None

    def _lacks_mark(self, text: Text, at: int, follows: Follows) -> bool:
        """Models leave the mark behind a value out, where the call's end or another argument follows. Raises More."""
        try:
            end = text.pieces(self._closing, at, NO_NAMES, NO_NAMES).end
            ended = text.whole and text.skip_blanks(end) == len(text.text)
            if follows(text, end, self._weak) and not (ended and self._closes_alone):
                return True
        except Mismatch:
            pass
        blanks = self._format.key[: len(self._format.key) - len(self._format.key.lstrip())]
        if self._format.values == "tags" or not text.text.startswith(blanks, at - len(blanks)):
            return False
        try:
            return self._key(text, at, first=True, known=True)[0].key not in self._arguments
        except Mismatch:
            return False

    def _continues(self, text: Text, at: int, follows: Follows) -> bool:
        """Whether another argument, or the end of the call, stands here. Raises More."""
        try:
            self._key(text, at, first=False)
            return True
        except Mismatch:
            pass
        try:
            self._end(text, at, follows)
            return True
        except Mismatch:
            return False

    # ------------------------------------------------------------ meanings

    def _unquoted(self, text: str) -> str:
        if not self._format.escaped:
            return text
        try:
            return str(parse(self._format.quotes[0] + text + self._format.quotes[1]))
        except ValueError:
            return text

    def _meaning(self, text: str, key: str, kind: str) -> Json:
        text = _without_blanks(text, self._format)
        opened, closed = self._format.wrapper
        if opened and text.strip().startswith(opened) and text.strip().endswith(closed):
            return text.strip()[len(opened) : -len(closed)].replace(closed[:-1] + closed[-1:] + opened, "")
        if kind == "string":
            return text
        schema = schema_at(self._schema, key)
        if kind:
            try:
                return parse(text)
            except ValueError:
                return text
        if self._format.values == "tags":
            opens, closes = (tuple(mark.split(KEY_HOLE)) for mark in (self._format.key, self._format.after))
            return tagged_value(text, (opens[0], opens[-1]), (closes[0], closes[-1]), schema, self._schema)
        return value_of(text, schema, self._schema)


def _common(one: Pieces, other: Pieces) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def _without_blanks(text: str, format: CallFormat) -> str:
    """Removes the blanks that the template writes around a value."""
    lead = format.key[len(format.key.rstrip()) :]
    trail = format.after[: len(format.after) - len(format.after.lstrip())]
    text = text.removeprefix(lead) if lead else text
    return text.removesuffix(trail) if trail else text


def _places(
    mark: Pieces, comma: Pieces, closing: Pieces, keys: Sequence[tuple[str, Pieces]]
) -> re.Pattern[str]:
    """A pattern of possible ends of a value: the first word of its mark, of another argument or of the call's end."""
    firsts = [mark, closing, comma or keys[0][1]]
    words = {pieces[0].parts[0] for pieces in firsts if pieces} - {KEY_HOLE}
    return re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))) or "(?!)")


def _properties(schema: dict[str, Any]) -> Iterator[str]:
    properties = schema.get("properties")
    yield from properties if isinstance(properties, dict) else ()
