"""The engine's figures for the heartbeat, tokens per second among them.

Rule: the dictionary is replaced and never changed, because the link's thread reads it during a step.
"""

from collections import deque

WINDOW = 5.0  # seconds

Report = dict[str, float | int | str]


class Figures:
    def __init__(self) -> None:
        self._counts: deque[tuple[float, int]] = deque()  # when, tokens
        self._figures: Report = {}
        self._updated = 0.0

    def count(self, tokens: int, now: float) -> None:
        self._counts.append((now, tokens))
        while self._counts[0][0] < now - WINDOW:
            self._counts.popleft()

    def per_second(self, now: float) -> float:
        recent = sum(tokens for when, tokens in self._counts if when >= now - WINDOW)
        return round(recent / WINDOW, 1)

    def update(self, now: float, **figures: float | int | str) -> None:
        self._updated = now
        self._figures = {**figures, "tokens_per_second": self.per_second(now)}

    def report(self, now: float) -> Report:
        """The rate at the last ``update``; 0 for an idle engine."""
        idle = now - self._updated > WINDOW
        return {**self._figures, "tokens_per_second": 0.0} if idle else self._figures
