"""Calls out of a model's text, by a call format; pure, one per choice.

Rule 1: the same text gives the same calls however it is cut: a decision is taken when no longer text could change it.
Rule 2: structure before marks: a mark inside of a string is text of the string.
Rule 3: what cannot be read is shown as text, whole; a call never loses an argument. Nothing here raises.
Rule 4: only names of the request are calls; blanks before and between calls belong to the calls.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from workers.chat_template.call_format import CallFormat
from workers.output.call_bodies import CallBody
from workers.output.call_grammar import CallGrammar
from workers.output.call_marks import NO_NAMES, MarkPiece, Matched, Mismatch, More, Text
from workers.output.reasoning import overlap

_SURROGATES = re.compile("[\ud800-\udfff]")  # halves of pairs, which UTF-8 cannot say; JSON can, escaped
FENCE = "```json"


@dataclass
class Read:
    """``calls``: names and arguments as JSON."""

    text: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)

    def __add__(self, other: "Read") -> "Read":
        return Read(self.text + other.text, self.calls + other.calls)


class CallReader:
    def __init__(self, format: CallFormat, tools: Sequence[dict[str, Any]]) -> None:
        schemas = {
            str(f.get("name")): f.get("parameters") or {} for f in (t.get("function") or {} for t in tools)
        }
        self._grammar = CallGrammar(format, schemas)
        self._rest = ""  # undecided
        self._at = 0  # of it, where the call begins that may stand there
        self._state = self._begin
        self._body: CallBody | None = None
        self._read = Read()
        self._done = 0

    @property
    def inside(self) -> bool:
        """Whether the text so far ends inside a call."""
        return self._body is not None or self._state == self._behind

    def push(self, text: str) -> Read:
        self._rest += text
        return self._run(Text(self._rest, whole=False))

    def flush(self) -> Read:
        """The end of the text: what is no call by now is text."""
        read = self._run(Text(self._rest, whole=True))
        rest, self._rest = self._rest, ""
        if rest.strip() or not self._done:
            read.text += rest
        return read

    def _run(self, text: Text) -> Read:
        try:
            while self._state(text):
                text = Text(self._rest, text.whole)
        except More:
            pass
        read, self._read = self._read, Read()
        return read

    # ------------------------------------------------------------ states: whether to go on

    def _begin(self, text: Text) -> bool:
        """Nothing but blanks has come: a format without marks begins here or nowhere."""
        at = text.skip_blanks(0)
        if at == len(text.text):
            return False
        self._state = self._outside
        if self._grammar.bare:
            self._at = 0
            try:
                self._open(text, at, self._grammar.heads[0])
            except Mismatch:
                pass
            except More:
                self._state = self._begin
                raise
        return True

    def _outside(self, text: Text) -> bool:
        start = self._grammar.start
        found = start.search(text.text) if start else None
        if found is None:
            kept = max((overlap(text.text, word) for word in self._grammar.starts), default=0)
            self._show(len(text.text[: len(text.text) - kept].rstrip()) if start else len(text.text))
            return False
        self._at = len(text.text[: found.start()].rstrip())
        self._show(self._at)
        self._at, text = found.start() - self._at, Text(self._rest, text.whole)
        for pieces in self._grammar.starts[found[0]]:
            try:
                self._open(text, self._at, pieces)
                return True
            except Mismatch:
                pass
        for pieces in self._grammar.object_heads.get(found[0], ()):
            try:
                self._open_object(text, self._at, pieces)
                return True
            except Mismatch:
                pass
        self._show(self._at + len(found[0]))
        return True

    def _inside(self, text: Text) -> bool:
        assert self._body is not None
        try:
            end, calls = self._body.read(text, self._follows)
            named = [(self._grammar.known(call.name), as_json(call.arguments)) for call in calls]
            if not named:
                raise Mismatch
        except (Mismatch, ValueError, RecursionError):
            self._give_up(text)
            return True
        self._read.calls += named
        self._done += len(named)
        self._rest, self._body, self._state = text.text[end:], None, self._behind
        return True

    def _behind(self, text: Text) -> bool:
        """After a call: another one, the end of all, or text."""
        if text.skip_blanks(0) == len(text.text) and not text.whole:
            return False
        self._at = 0
        for pieces in self._grammar.next_heads if self._grammar.format.kind != "json_list" else ():
            try:
                self._open(text, 0, pieces)
                return True
            except Mismatch:
                pass
        self._rest = self._rest[self._outer_end(text) :]
        self._state = self._outside
        return True

    def _outer_end(self, text: Text) -> int:
        """The index after the mark that ends all calls, or after the part of it that is present. Raises More."""
        if text.whole and self._grammar.is_cut_end(text.text):
            return len(text.text)
        end = 0
        for pieces in self._grammar.ends:
            try:
                end = text.pieces(pieces, 0, NO_NAMES, NO_NAMES).end
                break
            except Mismatch:
                pass
        begin = text.skip_blanks(end)
        for mark in self._grammar.spare:
            if text.whole and begin < len(text.text) and mark.startswith(text.text[begin:]):
                return len(text.text)
            try:
                return text.literal(mark, begin)
            except Mismatch:
                pass
        return end

    # ------------------------------------------------------------ calls

    def _open(self, text: Text, at: int, pieces: Sequence[MarkPiece]) -> None:
        """Raises More, Mismatch."""
        matched = text.pieces(pieces, at, self._grammar.names, NO_NAMES, lenient=True)
        begins = text.skip_blanks(matched.end)
        if self._grammar.format.kind != "tagged":
            if begins == len(text.text):
                raise text.more()
            if text.text[begins] not in ("{" if matched.name else "{["):
                raise Mismatch
            matched = Matched(begins, matched.name)
        self._body = self._grammar.body(text, matched)
        self._state = self._inside

    def _open_object(self, text: Text, at: int, pieces: Sequence[MarkPiece]) -> None:
        """Raises More, Mismatch."""
        begins = text.skip_blanks(text.pieces(pieces, at, NO_NAMES, NO_NAMES).end)
        try:
            fenced = text.literal(FENCE, begins)
        except Mismatch:
            fenced = 0
        begins = text.skip_blanks(fenced or begins)
        if begins == len(text.text):
            raise text.more()
        if text.text[begins] not in "{[":
            raise Mismatch
        self._body, self._state = self._grammar.object_body(begins, fenced=bool(fenced)), self._inside

    def _follows(self, text: Text, at: int, weak: bool) -> bool:
        """Whether the text ends here, or another call or the end of all calls stands here. Raises More.

        ``weak``: what stands before does not say by itself that a call ends.
        """
        at, grammar = text.skip_blanks(at), self._grammar
        if at == len(text.text):
            if text.whole:
                return not (weak and grammar.outer_end)
            raise More
        for pieces in grammar.next_heads:
            try:
                if pieces:
                    text.pieces(pieces, at, grammar.names, NO_NAMES, lenient=True)
                    return True
            except Mismatch:
                pass
        for pieces in grammar.ends:
            try:
                if pieces:
                    text.pieces(pieces, at, NO_NAMES, NO_NAMES)
                    return True
            except Mismatch:
                pass
        return False

    def _give_up(self, text: Text) -> None:
        """The mark that seemed to begin a call is text; what is behind it may still hold one."""
        self._body, self._state = None, self._outside
        found = self._grammar.start.search(text.text, self._at) if self._grammar.start else None
        self._show(found.end() if found and found.start() == self._at else len(text.text[: self._at]) + 1)

    def _show(self, size: int) -> None:
        self._read.text += self._rest[:size]
        self._rest = self._rest[size:]


def as_json(arguments: dict[str, Any]) -> str:
    """Raises ValueError."""
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    return _SURROGATES.sub(lambda half: f"\\u{ord(half[0]):04x}", text)
