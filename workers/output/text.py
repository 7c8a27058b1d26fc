"""Token ids in, text out: a pure filter, one per choice.

Rule 1: incomplete UTF-8 and anything that may become a stop string are held back until they are decided.
Rule 2: the earliest stop string ends the text, and no part of it is ever shown.
Rule 3: the same ids give the same text, however they are cut into steps; so a resumed choice replays its ids here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workers.output.detokenizer import as_vocabulary


@dataclass(frozen=True)
class Piece:
    """Text that may be shown now; ``stopped`` is the stop string that was met, if one was."""

    text: str
    stopped: str | None = None


class TextFilter:
    """``vocabulary[id]`` is what a token adds to the text, in bytes; unknown ids add nothing.

    ``continues``: the text goes on from a prompt, so that a blank before its first word belongs to it.
    """

    def __init__(
        self, vocabulary: Sequence[bytes], stops: Sequence[str] = (), *, continues: bool = False
    ) -> None:
        self._spelling = as_vocabulary(vocabulary).spelling(continues)
        self._stops = stops
        self._longest = max(map(len, stops), default=0)
        self._held = ""

    def push(self, token: int, *, may_stop: bool = True) -> Piece:
        """``may_stop`` False: stop strings do not count yet (min_tokens)."""
        return self._release(self._spelling.push(token), may_stop)

    def flush(self) -> Piece:
        """The end of the choice: what was held back is shown, unless it completes a stop string."""
        piece = self._release(self._spelling.flush(), may_stop=True)
        rest, self._held = self._held, ""
        return piece if piece.stopped else Piece(piece.text + rest)

    def _release(self, new: str, may_stop: bool) -> Piece:
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

    def _find(self, text: str) -> tuple[int, str] | None:
        """The stop string that begins first; of two that begin together the shorter one."""
        hits = [(at, len(stop), stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if not hits:
            return None
        at, _, stop = min(hits)
        return at, stop

    def _undecided(self, text: str) -> int:
        """How many of the last characters could be the beginning of a stop string."""
        for size in range(min(len(text), self._longest - 1), 0, -1):
            tail = text[-size:]
            if any(stop.startswith(tail) for stop in self._stops):
                return size
        return 0


def well_formed(text: str) -> str:
    """With U+FFFD for what UTF-8 cannot say: halves of surrogate pairs, as JSON may spell them."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def characters_in(value: Any) -> int:
    """Of all strings in what JSON can hold, its keys too."""
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
