"""Separates thinking from the answer: a pure filter behind the text filter, one per choice.

Rule 1: no part of a delimiter is ever shown, however the text is cut; text that only resembled one is shown.
Rule 2: a model thinks once: all text behind the end of its thinking is answer.
Rule 3: whitespace right behind a delimiter belongs to the delimiter.
"""

import re
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class ThinkingDelimiters:
    """The delimiters of thinking. ``open``: the prompt ends inside the thinking; ``over``: it ends behind it.

    ``answer``, ``answer_end``: what opens and closes the answer, in templates that delimit the answer too.
    ``calls``: what begins a call; at the beginning of a line it ends thinking that was not closed.
    """

    start: str
    end: str
    open: bool = False
    over: bool = False
    answer: str = ""
    calls: tuple[str, ...] = ()
    answer_end: str = ""

    @cached_property
    def call_starts(self) -> tuple[str, ...]:
        """A word that the end of thinking begins with says nothing."""
        return tuple(word for word in self.calls if not self.end.startswith(word))

    @cached_property
    def leads(self) -> tuple[str, ...]:
        """What may open the answer: all of its delimiter, its end where the prompt has the beginning, or its beginning
        where a call follows in place of an answer.
        """
        if not self.answer:
            return ()
        starts = [found.start() for found in re.finditer(r"<", self.answer)]
        beginning = [self.answer[: starts[-1]]] if len(starts) > 1 else []
        return (*(self.answer[at:] for at in [0, *starts]), *beginning)


@dataclass(frozen=True)
class Split:
    reasoning: str
    text: str


class ReasoningFilter:
    """``inside`` is true between the delimiters of the thinking."""

    def __init__(self, thinking: ThinkingDelimiters) -> None:
        self._thinking = thinking
        self._held = ""
        self._blank = thinking.open  # only whitespace since the last delimiter
        self.inside = thinking.open
        self._over = False
        self._ending = ""  # text that may close the answer
        self._new_line = True  # what comes begins a line of the thinking
        self._lead: str | None = ""  # what may yet open the answer; None: that is decided

    @property
    def apart(self) -> bool:
        """Inside the thinking, or only whitespace has followed it."""
        return self.inside or (self._over and self._blank)

    def push(self, text: str) -> Split:
        split = self._split(text)
        return Split(split.reasoning, self._before_end(split.text)) if self._thinking.answer_end else split

    def _before_end(self, text: str) -> str:
        """Holds back text that may be the beginning of the answer's end delimiter."""
        text, end = self._ending + text, self._thinking.answer_end
        stripped = text.rstrip()
        size = len(stripped) - len(end) if stripped.endswith(end) else len(text) - overlap(text, end)
        shown = text[:size].rstrip()
        self._ending = text[len(shown) :]
        return shown

    def _split(self, text: str) -> Split:
        if self._over:
            return Split("", self._answered(text))
        before, found = self._to_delimiter(text)
        gained = self._gained(before)
        if not found:
            return gained
        rest, self._held = self._held, ""
        self._over, self.inside, self._blank = self.inside, not self.inside, True
        self._new_line = True
        more = self._split(rest)
        return Split(gained.reasoning + more.reasoning, gained.text + more.text)

    def flush(self) -> Split:
        rest, self._held = self._held, ""
        gained = self._gained(rest)
        lead, self._lead = self._lead, None
        text = gained.text + self._without_lead(lead or "")
        if not self._thinking.answer_end:
            return Split(gained.reasoning, text)
        text, ending = self._before_end(text), self._ending
        return Split(gained.reasoning, text + ("" if ending.strip() == self._thinking.answer_end else ending))

    def _to_delimiter(self, text: str) -> tuple[str, bool]:
        """The decided text, and whether a delimiter or a call follows it; undecided text is held back."""
        delimiter = self._thinking.end if self.inside else self._thinking.start
        calls = self._thinking.call_starts if self.inside else ()
        text = self._held + text
        before, found, self._held = text.partition(delimiter)
        call = min((at for word in calls if (at := self._on_a_line(before, word)) >= 0), default=-1)
        if call >= 0:
            before, self._held = text[:call], text[call:]
            return before, True
        if not found:
            keep = max(overlap(before, word) for word in (delimiter, *calls))
            before, self._held = before[: len(before) - keep], before[len(before) - keep :]
        if before:
            self._new_line = before.endswith("\n")
        return before, bool(found)

    def _on_a_line(self, text: str, word: str) -> int:
        """The index at which ``word`` begins a line; -1 if it does not."""
        at = text.find(word)
        while at > 0 and text[at - 1] != "\n":
            at = text.find(word, at + 1)
        return at if at != 0 or self._new_line else self._on_a_later_line(text, word)

    def _on_a_later_line(self, text: str, word: str) -> int:
        at = text.find("\n" + word)
        return at + 1 if at >= 0 else -1

    def _gained(self, text: str) -> Split:
        if self.inside:
            return Split(self._behind_delimiter(text), "")
        return Split("", self._answered(text))

    def _answered(self, text: str) -> str:
        """Removes the mark that opens the answer."""
        text = self._behind_delimiter(text)
        if self._lead is None or not self._thinking.leads:
            return text
        self._lead += text
        lead = self._lead.lstrip()
        if any(mark.startswith(lead) and mark != lead for mark in self._thinking.leads):
            return ""
        for mark in self._thinking.leads:
            if lead.startswith(mark):
                self._lead, self._blank = None, True
                return self._behind_delimiter(lead[len(mark) :])
        shown, self._lead = self._lead, None
        return shown

    def _without_lead(self, lead: str) -> str:
        """A lead that nothing follows any more."""
        for mark in self._thinking.leads:
            if lead.lstrip().startswith(mark):
                return lead.lstrip()[len(mark) :]
        return lead

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


def thinking_of(
    start: str, end: str, prompt: str, answer: tuple[str, str] = ("", ""), calls: tuple[str, ...] = ()
) -> ThinkingDelimiters:
    """Whether ``prompt`` opens or ends the thinking: then only whitespace follows the delimiter in it."""
    tail = prompt.rstrip()
    over = tail.endswith(end) or bool(answer[0] and tail.endswith(answer[0]))
    return ThinkingDelimiters(start, end, tail.endswith(start), over, answer[0], calls, answer[1])
