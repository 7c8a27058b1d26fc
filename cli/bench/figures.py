"""What ``mlx-server bench`` asks and what it counts: prompts, and figures of the answers. Pure.

Times are seconds of one clock. A percentile is the nearest rank, so it is a time that was really measured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Any

TEXT = """
river stone window garden paper market winter summer doctor engine bridge candle forest village
harbor kitchen mirror morning evening letter island valley mountain station castle teacher farmer
sailor painter singer baker horse rabbit pigeon salmon apple lemon pepper butter coffee copper
silver iron marble velvet cotton leather wool north south early quiet gentle narrow heavy bright
frozen hidden simple wooden golden ancient distant hollow
"""
WORDS = TEXT.split()


def some_words(random: Random, count: int) -> str:
    """Common words: about one token each."""
    return " ".join(random.choices(WORDS, k=count))


def prompt(random: Random, words: int) -> str:
    """It begins with words of its own, so that no cache helps."""
    return f"{some_words(random, max(1, words))}: tell me a long story about this."


@dataclass
class Answered:
    """One request. ``arrivals``: when text came. ``tokens``: as the server counts them, else one for each arrival."""

    sent: float
    arrivals: list[float] = field(default_factory=list)
    ended: float = 0.0
    tokens: int = 0
    prompt_tokens: int = 0
    failure: str = ""


@dataclass(frozen=True)
class Level:
    """The figures of so many clients at a time; a figure is None where there is nothing to take it from."""

    clients: int
    requests: int
    failed: int
    seconds: float
    requests_per_second: float
    tokens_per_second: float
    prompt_tokens: int
    tokens: int
    first_token_p50: float | None
    first_token_p99: float | None
    gap_p50: float | None
    gap_p99: float | None
    gap_max: float | None
    whole_p50: float | None
    whole_p99: float | None


def level(clients: int, answers: Sequence[Answered], seconds: float) -> Level:
    """Requests that failed count in ``failed`` alone."""
    good = [answer for answer in answers if not answer.failure]
    first = [answer.arrivals[0] - answer.sent for answer in good if answer.arrivals]
    gaps = [later - earlier for answer in good for earlier, later in pairwise(answer.arrivals)]
    whole = [answer.ended - answer.sent for answer in good]
    tokens = sum(answer.tokens for answer in good)
    return Level(
        clients=clients,
        requests=len(answers),
        failed=len(answers) - len(good),
        seconds=seconds,
        requests_per_second=len(good) / seconds,
        tokens_per_second=tokens / seconds,
        prompt_tokens=sum(answer.prompt_tokens for answer in good),
        tokens=tokens,
        first_token_p50=_percentile(first, 50),
        first_token_p99=_percentile(first, 99),
        gap_p50=_percentile(gaps, 50),
        gap_p99=_percentile(gaps, 99),
        gap_max=max(gaps, default=None),
        whole_p50=_percentile(whole, 50),
        whole_p99=_percentile(whole, 99),
    )


def take(chunk: dict[str, Any], answer: Answered, now: float) -> None:
    """A chunk of a streamed chat completion. Raises LookupError, TypeError, AttributeError where it is none."""
    if chunk.get("error"):
        answer.failure = str(chunk["error"].get("message", "an error in the stream"))
    if usage := chunk.get("usage"):
        answer.tokens, answer.prompt_tokens = usage["completion_tokens"], usage.get("prompt_tokens", 0)
    for choice in chunk.get("choices") or ():
        delta = choice.get("delta") or {}
        if any(delta.get(name) for name in ("content", "reasoning_content", "reasoning", "tool_calls")):
            if answer.arrivals[-1:] != [now]:
                answer.arrivals.append(now)
            break


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` of them do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def _percentile(values: Sequence[float], percent: float) -> float | None:
    return percentile(values, percent) if values else None


def number(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"
