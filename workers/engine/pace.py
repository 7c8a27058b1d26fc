"""How many prompt tokens may be read in one step, and whether reading should wait for more prompts.

A pass costs something whatever its size, and something per token. Both are measured once, before the first request;
after that one factor follows how fast the machine is just now. (Fitting both to live passes fails: they are nearly all
of one size.)
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SMALLEST = 48  # tokens; half the cost of a smaller pass is there whatever its size
FEW, MANY = 8, 64  # tokens of the passes that are measured first
SMOOTHING = 0.2  # weight of the newest measurement
PATIENCE = 3  # steps that a prompt may wait for others to be read with
SHARE = 8  # of so many rows, one ends in a step or a few: as many prompts are worth waiting for


class Pace:
    """``most`` bounds a pass over one prompt; ``gap`` is how long decoding rows may wait for one, in seconds.

    Where a decode step itself takes longer than the gap, a pass may take as long as such a step: else a batch would
    never fill.
    """

    def __init__(self, most: int, gap: float) -> None:
        self._most = most
        self._gap = gap
        self._fixed, self._per_token = 0.0, gap / (4 * SMALLEST)  # until it is calibrated
        self._slowness = 1.0  # of the machine now, against the calibration
        self._decode = 0.0  # seconds of a decode step

    def calibrate(self, read: Callable[[int], object]) -> None:
        """``read`` reads so many tokens into a cache that is thrown away."""
        seconds = {}
        for tokens in (MANY, MANY, FEW, FEW):  # the first of all is slow for other reasons
            began = time.perf_counter()
            read(tokens)
            seconds[tokens] = time.perf_counter() - began
        self._per_token = max((seconds[MANY] - seconds[FEW]) / (MANY - FEW), 1e-7)
        self._fixed = max(seconds[FEW] - FEW * self._per_token, 0.0)

    def budget(self, *, beside_decode: bool) -> int:
        if not beside_decode:
            return self._most
        affordable = (max(self._gap, self._decode) / self._slowness - self._fixed) / self._per_token
        return min(self._most, max(SMALLEST, int(affordable)))

    def waits_for_more(self, rows: int, prompts: int, oldest: int) -> bool:
        """Whether a pass over so few prompts would cost so many rows more than it gives; ``oldest`` in steps."""
        return prompts < rows // SHARE and oldest < PATIENCE

    @contextmanager
    def timing(self, tokens: int) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.measured(tokens, time.perf_counter() - began)

    def measured(self, tokens: int, seconds: float) -> None:
        expected = self._fixed + self._per_token * tokens
        self._slowness = _smooth(self._slowness, min(max(seconds / expected, 0.1), 10.0))

    def decoded(self, seconds: float) -> None:
        self._decode = _smooth(self._decode, seconds) if self._decode else seconds


def _smooth(old: float, new: float) -> float:
    return (1 - SMOOTHING) * old + SMOOTHING * new
