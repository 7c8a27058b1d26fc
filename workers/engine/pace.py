"""How many prompt tokens may be read in one step, from how long reading took so far."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

SMOOTHING = 0.3  # weight of the newest measurement
SMALLEST = 16  # tokens; a pass over fewer takes as long
UNKNOWN = 64  # tokens, before anything was measured


class Pace:
    """``most`` bounds every step; ``gap`` is how long decoding rows may wait for one, in seconds."""

    def __init__(self, most: int, gap: float) -> None:
        self._most = most
        self._gap = gap
        self._rate: float | None = None  # tokens a second

    def budget(self, *, beside_decode: bool) -> int:
        if not beside_decode:
            return self._most
        wanted = UNKNOWN if self._rate is None else int(self._gap * self._rate)
        return min(self._most, max(SMALLEST, wanted))

    @contextmanager
    def timing(self, tokens: int) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.measured(tokens, time.perf_counter() - began)

    def measured(self, tokens: int, seconds: float) -> None:
        if tokens < SMALLEST or seconds <= 0:
            return
        rate = tokens / seconds
        self._rate = rate if self._rate is None else (1 - SMOOTHING) * self._rate + SMOOTHING * rate
