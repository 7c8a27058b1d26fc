"""Thinking apart from the answer: a pure filter behind the text filter, one per choice.

Rule 1: no part of a marker is ever shown, however the text is cut; what only looked like one is.
Rule 2: a model thinks once: behind the end of its thinking all is answer.
Rule 3: blanks right behind a marker belong to the marker.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Thinking:
    """How a model marks its thinking. ``open``: the prompt ends inside of it; ``over``: it ends right behind it."""

    start: str
    end: str
    open: bool = False
    over: bool = False


@dataclass(frozen=True)
class Split:
    reasoning: str
    text: str


class ReasoningFilter:
    """``inside`` is true from the marker that opens the thinking to the one that ends it."""

    def __init__(self, thinking: Thinking) -> None:
        self._thinking = thinking
        self._held = ""
        self._blank = thinking.open  # only blanks since the last marker
        self.inside = thinking.open
        self._over = False

    @property
    def apart(self) -> bool:
        """Inside, or only blanks have come since."""
        return self.inside or (self._over and self._blank)

    def push(self, text: str) -> Split:
        if self._over:
            return Split("", self._behind_marker(text))
        before, found = self._to_marker(text)
        gained = self._gained(before)
        if not found:
            return gained
        rest, self._held = self._held, ""
        self._over, self.inside, self._blank = self.inside, not self.inside, True
        more = self.push(rest)
        return Split(gained.reasoning + more.reasoning, gained.text + more.text)

    def flush(self) -> Split:
        rest, self._held = self._held, ""
        return self._gained(rest)

    def _to_marker(self, text: str) -> tuple[str, bool]:
        """What is decided of the text, and whether a marker follows; the rest is held."""
        marker = self._thinking.end if self.inside else self._thinking.start
        before, found, self._held = (self._held + text).partition(marker)
        if not found:
            keep = overlap(before, marker)
            before, self._held = before[: len(before) - keep], before[len(before) - keep :]
        return before, bool(found)

    def _gained(self, text: str) -> Split:
        shown = self._behind_marker(text)
        return Split(shown, "") if self.inside else Split("", shown)

    def _behind_marker(self, text: str) -> str:
        if self._blank and text:
            text = text.lstrip()
            self._blank = not text
        return text


def overlap(text: str, marker: str) -> int:
    """How many of the last characters could be the beginning of the marker."""
    for size in range(min(len(text), len(marker) - 1), 0, -1):
        if marker.startswith(text[-size:]):
            return size
    return 0


def thinking_of(start: str, end: str, prompt: str) -> Thinking:
    """Of a prompt, or its end: a template that opens the thinking leaves only blanks behind the marker."""
    tail = prompt.rstrip()
    return Thinking(start, end, open=tail.endswith(start), over=tail.endswith(end))
