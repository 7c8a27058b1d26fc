"""Separates thinking from the answer: a pure filter behind the text filter, one per choice.

Rule 1: no part of a delimiter is ever shown, however the text is cut; text that only resembled one is shown.
Rule 2: a model thinks once: all text behind the end of its thinking is answer.
Rule 3: whitespace right behind a delimiter belongs to the delimiter.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Thinking:
    """The delimiters of thinking. ``open``: the prompt ends inside the thinking; ``over``: it ends behind it."""

    start: str
    end: str
    open: bool = False
    over: bool = False


@dataclass(frozen=True)
class Split:
    reasoning: str
    text: str


class ReasoningFilter:
    """``inside`` is true between the delimiters of the thinking."""

    def __init__(self, thinking: Thinking) -> None:
        self._thinking = thinking
        self._held = ""
        self._blank = thinking.open  # only whitespace since the last delimiter
        self.inside = thinking.open
        self._over = False

    @property
    def apart(self) -> bool:
        """Inside the thinking, or only whitespace has followed it."""
        return self.inside or (self._over and self._blank)

    def push(self, text: str) -> Split:
        if self._over:
            return Split("", self._behind_delimiter(text))
        before, found = self._to_delimiter(text)
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

    def _to_delimiter(self, text: str) -> tuple[str, bool]:
        """The decided text, and whether a delimiter follows it; undecided text is held back."""
        delimiter = self._thinking.end if self.inside else self._thinking.start
        before, found, self._held = (self._held + text).partition(delimiter)
        if not found:
            keep = overlap(before, delimiter)
            before, self._held = before[: len(before) - keep], before[len(before) - keep :]
        return before, bool(found)

    def _gained(self, text: str) -> Split:
        shown = self._behind_delimiter(text)
        return Split(shown, "") if self.inside else Split("", shown)

    def _behind_delimiter(self, text: str) -> str:
        if self._blank and text:
            text = text.lstrip()
            self._blank = not text
        return text


def overlap(text: str, delimiter: str) -> int:
    """The length of the longest suffix of ``text`` that is a proper prefix of ``delimiter``."""
    for size in range(min(len(text), len(delimiter) - 1), 0, -1):
        if delimiter.startswith(text[-size:]):
            return size
    return 0


def thinking_of(start: str, end: str, prompt: str) -> Thinking:
    """Whether ``prompt`` opens or ends the thinking: then only whitespace follows the delimiter in it."""
    tail = prompt.rstrip()
    return Thinking(start, end, open=tail.endswith(start), over=tail.endswith(end))
