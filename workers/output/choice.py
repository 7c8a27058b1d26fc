"""The filters of one choice in their order: reasoning, then tool calls; only for requests that use either."""

from dataclasses import dataclass, field
from typing import Literal

from shared.protocol import CallPiece
from workers.output.derived_calls import DerivedCallFilter
from workers.output.reasoning import ReasoningFilter, Split
from workers.output.tool_calls import CallFilter


@dataclass
class Shown:
    """The text, reasoning and calls that one token makes visible to the client."""

    text: str = ""
    reasoning: str = ""
    calls: list[CallPiece] = field(default_factory=list)

    def __add__(self, other: "Shown") -> "Shown":
        return Shown(self.text + other.text, self.reasoning + other.reasoning, self.calls + other.calls)


class ChoiceFilter:
    def __init__(
        self, reasoning: ReasoningFilter | None, calls: CallFilter | DerivedCallFilter | None
    ) -> None:
        self._reasoning = reasoning
        self._calls = calls

    @property
    def thinking(self) -> bool:
        return self._reasoning is not None and self._reasoning.inside

    @property
    def part(self) -> Literal["thinking", "call"] | None:
        """The part that the text now belongs to, delimiters and the whitespace behind them included; None: content."""
        if self._reasoning is not None and self._reasoning.apart:
            return "thinking"
        return "call" if self._calls is not None and self._calls.inside else None

    @property
    def called(self) -> bool:
        return self._calls is not None and self._calls.called

    @property
    def satisfied(self) -> bool:
        return self._calls is not None and self._calls.satisfied

    def push(self, text: str) -> Shown:
        return self._behind(self._reasoning.push(text) if self._reasoning else Split("", text))

    def flush(self, *, closed: bool) -> Shown:
        """``closed``: the model ended the turn itself."""
        shown = self._behind(self._reasoning.flush() if self._reasoning else Split("", ""))
        if self._calls is None:
            return shown
        found = self._calls.flush(closed=closed)
        return shown + Shown(found.text, calls=found.calls)

    def _behind(self, split: Split) -> Shown:
        if self._calls is None:
            return Shown(split.text, split.reasoning)
        found = self._calls.push(split.text)
        return Shown(found.text, split.reasoning, found.calls)
