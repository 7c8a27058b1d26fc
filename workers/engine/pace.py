"""How many prompt tokens may be read in one step, from how long passes took so far.

A pass costs something whatever its size, and something per token; both are fitted to the last measurements. A pure
rate would take the fixed part for slowness and shrink the passes for it.
"""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

SMALLEST = 16  # tokens; a pass over fewer costs the same
UNKNOWN = 64  # tokens, before anything was measured
REMEMBERED = 32  # passes
SMOOTHING = 0.2  # weight of the newest decode step


class Pace:
    """``most`` bounds every pass; ``gap`` is how long decoding rows may wait for one, in seconds.

    Where a decode step itself takes longer than the gap, a pass may take as long as such a step: else a batch would
    never fill.
    """

    def __init__(self, most: int, gap: float) -> None:
        self._most = most
        self._gap = gap
        self._passes: deque[tuple[int, float]] = deque(maxlen=REMEMBERED)
        self._decode = 0.0  # seconds of a step without reading

    def budget(self, *, beside_decode: bool) -> int:
        if not beside_decode:
            return self._most
        if not self._passes:
            return min(self._most, UNKNOWN)
        fixed, per_token = self._fit()
        affordable = (max(self._gap, self._decode) - fixed) / per_token
        return min(self._most, max(SMALLEST, int(affordable)))

    @contextmanager
    def timing(self, tokens: int) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.read(tokens, time.perf_counter() - began)

    def read(self, tokens: int, seconds: float) -> None:
        if tokens > 0:
            self._passes.append((tokens, seconds))

    def decoded(self, seconds: float) -> None:
        self._decode = seconds if not self._decode else (1 - SMOOTHING) * self._decode + SMOOTHING * seconds

    def _fit(self) -> tuple[float, float]:
        """Seconds of any pass, and for each token; the least squares' line, or a rate where there is no line."""
        tokens, seconds = np.array(self._passes).T
        spread = tokens.var()
        if spread > 0:
            slope = float(((tokens - tokens.mean()) * (seconds - seconds.mean())).mean() / spread)
            start = float(seconds.mean() - slope * tokens.mean())
            if slope > 0 and start >= 0:
                return start, slope
        return 0.0, float(seconds.sum() / tokens.sum())
