"""What a client saw of one answer, and what all answers of a workload come to. Pure.

Times are seconds of one monotonic clock.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum


@dataclass
class Reply:
    """``arrivals``: when text came; what comes in one read has one time."""

    sent: float
    arrivals: list[float] = field(default_factory=list)
    completion_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    text: str = ""  # only when it was asked to be kept

    @property
    def ttft(self) -> float:
        return self.arrivals[0] - self.sent if self.arrivals else math.inf

    @property
    def gaps(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.arrivals, self.arrivals[1:], strict=False)]

    def since(self, moment: float) -> "Reply":
        """The arrivals from the last one before ``moment`` on."""
        before = sum(arrival < moment for arrival in self.arrivals)
        return replace(self, arrivals=self.arrivals[max(0, before - 1) :])


@dataclass
class Played:
    """One workload, played once."""

    seconds: float
    tokens: int
    replies: list[Reply] = field(default_factory=list)


class Figure(StrEnum):
    SPEED = "tokens/s"
    TTFT = "first token p50, s"
    GAP = "gap p99, s"
    WORST_GAP = "worst gap, s"


def figures(played: Played) -> dict[Figure, float]:
    """Those that the replies give; a workload without clients has a speed only."""
    found = {Figure.SPEED: played.tokens / played.seconds}
    if not played.replies:
        return found
    gaps = [gap for reply in played.replies for gap in reply.gaps]
    found[Figure.TTFT] = percentile([reply.ttft for reply in played.replies], 50)
    if gaps:
        found |= {Figure.GAP: percentile(gaps, 99), Figure.WORST_GAP: max(gaps)}
    return found


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` of them do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]
