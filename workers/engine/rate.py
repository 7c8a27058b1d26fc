"""Tokens a second over the last few seconds, for the heartbeat."""

from collections import deque

WINDOW = 5.0  # seconds


class Rate:
    def __init__(self) -> None:
        self._events: deque[tuple[float, int]] = deque()

    def count(self, tokens: int, now: float) -> None:
        self._events.append((now, tokens))
        while self._events[0][0] < now - WINDOW:
            self._events.popleft()

    def per_second(self, now: float) -> float:
        recent = sum(tokens for when, tokens in self._events if when >= now - WINDOW)
        return round(recent / WINDOW, 1)
