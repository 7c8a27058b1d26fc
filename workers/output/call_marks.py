"""Marks of a call format, matched against a text that still grows.

Rule 1: a match, a mismatch and "not yet known" (``More``) are three answers; a longer text never changes the first two.
Rule 2: blanks between the pieces of a mark may be there or not.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from workers.chat_template.call_format import COUNT_HOLE, HOLES, ID_HOLE, KEY_HOLE, NAME_HOLE
from workers.chat_template.marks import is_strong, tokens_of

_BLANKS = re.compile(r"\s*")
_SPLIT = re.compile(f"([{''.join(HOLES)}])")
_FREE = {
    COUNT_HOLE: re.compile(r"\d{1,9}"),
    ID_HOLE: re.compile(r"[^\s<>\[\]{}()|\"]{1,128}"),
    KEY_HOLE: re.compile(r"(?!/)[^\n<>{}\[\](),=:\"]{1,256}"),
}


class More(Exception):
    """What the text says here is not known before more of it has come."""


class Mismatch(Exception):
    """It is not what was looked for."""


@dataclass(frozen=True)
class Matched:
    end: int
    name: str = ""
    key: str = ""


@dataclass(frozen=True)
class MarkPiece:
    """One token of a mark: literals and holes. ``strong``: it says by itself what it is."""

    parts: tuple[str, ...]
    strong: bool

    @property
    def has_name(self) -> bool:
        return NAME_HOLE in self.parts

    @property
    def has_name_first(self) -> bool:
        return self.parts[0] == NAME_HOLE

    @property
    def optional(self) -> bool:
        """Before a call's name, models leave such marks out."""
        return not self.has_name and (self.strong or ID_HOLE in self.parts)


def pieces_of(mark: str) -> tuple[MarkPiece, ...]:
    return tuple(
        MarkPiece(tuple(part for part in _SPLIT.split(token) if part), is_strong(token))
        for token in tokens_of(mark)
        if not token.isspace()
    )


@dataclass(frozen=True)
class Text:
    """``whole``: no more will come, so what is not known yet is a mismatch."""

    text: str
    whole: bool

    def skip_blanks(self, at: int) -> int:
        found = _BLANKS.match(self.text, at)
        return found.end() if found else at

    def more(self) -> Exception:
        return Mismatch() if self.whole else More()

    def literal(self, word: str, at: int) -> int:
        """The index after the word. Raises More, Mismatch."""
        if self.text.startswith(word, at):
            return at + len(word)
        if word.startswith(self.text[at:]):
            raise self.more()
        raise Mismatch

    def pieces(
        self, pieces: Sequence[MarkPiece], at: int, names: "Names", known: "Names", lenient: bool = False
    ) -> Matched:
        """All pieces in their order; ``lenient``: optional ones may be missing. Raises More, Mismatch."""
        found = Matched(at)
        for piece in pieces:
            try:
                found = self._piece(piece, self.skip_blanks(found.end), found, names, known)
            except Mismatch:
                if not (lenient and piece.optional):
                    raise
        return found

    def _piece(self, piece: MarkPiece, at: int, found: Matched, names: "Names", known: "Names") -> Matched:
        name, key = found.name, found.key
        for i, part in enumerate(piece.parts):
            if part == NAME_HOLE:
                name = names.at(self, at)
                at += len(name)
            elif part in HOLES:
                word = self._free(part, at, "".join(piece.parts[i + 1 : i + 2]), known)
                key = word if part == KEY_HOLE else key
                at += len(word)
            else:
                at = self.literal(part, at)
        return Matched(at, name, key)

    def _free(self, hole: str, at: int, behind: str, known: "Names") -> str:
        if hole == KEY_HOLE:
            try:
                return known.at(self, at, behind)
            except Mismatch:
                pass
        match = _FREE[hole].match(self.text, at)
        if match is None or not match[0]:
            raise self.more() if at >= len(self.text) else Mismatch()
        if match.end() == len(self.text):
            raise self.more()
        return match[0]


@dataclass(frozen=True)
class Names:
    """Names that a text may have, such as those of the request's tools."""

    words: frozenset[str] = frozenset()

    @cached_property
    def longest_first(self) -> list[str]:
        return sorted(self.words, key=lambda word: (-len(word), word))

    def at(self, text: Text, at: int, behind: str = "") -> str:
        """The longest that stands here, with ``behind`` following. Raises More, Mismatch."""
        for word in self.longest_first:
            if text.text.startswith(word + behind, at):
                return word
            if (word + behind).startswith(text.text[at:]) and not text.whole:
                raise More
        raise Mismatch


NO_NAMES = Names()
