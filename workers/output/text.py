"""Turns token ids into text: a pure filter, one per choice.

Rule 1: incomplete UTF-8, and text that may become a stop string, is held back until it is decided.
Rule 2: the earliest stop string ends the text, and no part of it is ever shown.
Rule 3: the same ids give the same text, however they are cut into steps, so a resumed choice replays its ids here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workers.output.detokenizer import as_vocabulary


@dataclass(frozen=True)
class Piece:
    """Text that may be shown now; ``stopped`` is the stop string that ended it, if one did."""

    text: str
    stopped: str | None = None


class StopStrings:
    """Ends a text at the earliest of these strings."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._longest = max(map(len, stops), default=0)
        self._held = ""

    def push(self, new: str, *, may_stop: bool = True) -> Piece:
        """``may_stop`` False: stop strings are not looked for yet (min_tokens)."""
        if not self._stops:
            return Piece(new)
        text = self._held + new
        if may_stop and (found := self._find(text)):
            at, stop = found
            self._held = ""
            return Piece(text[:at], stop)
        keep = self._undecided(text)
        self._held = text[len(text) - keep :]
        return Piece(text[: len(text) - keep])

    def flush(self) -> Piece:
        """Ends the text: what was held back is shown, unless it completes a stop string."""
        piece = self.push("")
        rest, self._held = self._held, ""
        return piece if piece.stopped else Piece(piece.text + rest)

    def _find(self, text: str) -> tuple[int, str] | None:
        """Position and text of the stop string that begins first; the shorter of two that begin together."""
        hits = [(at, len(stop), stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if not hits:
            return None
        at, _, stop = min(hits)
        return at, stop

    def _undecided(self, text: str) -> int:
        """The length of the longest suffix that is a proper prefix of a stop string."""
        for size in range(min(len(text), self._longest - 1), 0, -1):
            tail = text[-size:]
            if any(stop.startswith(tail) for stop in self._stops):
                return size
        return 0


class TextFilter:
    """``vocabulary[id]`` holds the bytes that a token adds to the text; unknown ids add nothing.

    ``continues``: the text continues a prompt, so a space before its first word is kept.
    """

    def __init__(
        self, vocabulary: Sequence[bytes], stops: Sequence[str] = (), *, continues: bool = False
    ) -> None:
        self._detokenizer = as_vocabulary(vocabulary).detokenizer(continues)
        self._stops = StopStrings(stops)

    def push(self, token: int, *, may_stop: bool = True) -> Piece:
        """``may_stop`` False: stop strings are not looked for yet (min_tokens)."""
        return self._stops.push(self._detokenizer.push(token), may_stop=may_stop)

    def flush(self) -> Piece:
        """Ends the choice: text that was held back is shown, unless it completes a stop string."""
        piece = self._stops.push(self._detokenizer.flush())
        if piece.stopped:
            return piece
        rest = self._stops.flush()
        return Piece(piece.text + rest.text, rest.stopped)


def well_formed(text: str) -> str:
    """Replaces lone surrogates, which JSON can spell and UTF-8 cannot encode, by U+FFFD."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def characters_in(value: Any) -> int:
    """The summed length of all strings in a JSON value, keys included."""
    size, left = 0, [value]
    while left:
        match left.pop():
            case str(text):
                size += len(text)
            case dict(items):
                left += [*items.keys(), *items.values()]
            case list(items):
                left += items
    return size
