"""Token ids in, text out: a pure filter, one per choice.

Rule 1: incomplete UTF-8 and anything that may become a stop string are held back until they are decided.
Rule 2: the earliest stop string ends the text, and no part of it is ever shown.
Rule 3: the same ids give the same text, however they are cut into steps; so a resumed choice replays its ids here.
"""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """Text that may be shown now; ``stopped`` is the stop string that was met, if one was."""

    text: str
    stopped: str | None = None


class TextFilter:
    """``vocabulary[id]`` is what a token adds to the text, in bytes; unknown ids add nothing."""

    def __init__(self, vocabulary: Sequence[bytes], stops: Sequence[str] = ()) -> None:
        self._vocabulary = vocabulary
        self._stops = stops
        self._longest = max(map(len, stops), default=0)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def push(self, token: int, *, may_stop: bool = True) -> Piece:
        """``may_stop`` False: stop strings do not count yet (min_tokens)."""
        raw = self._vocabulary[token] if token < len(self._vocabulary) else b""
        return self._release(self._decoder.decode(raw), may_stop)

    def flush(self) -> Piece:
        """The end of the choice: what was held back is shown, unless it completes a stop string."""
        piece = self._release(self._decoder.decode(b"", True), may_stop=True)
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
