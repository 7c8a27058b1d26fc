"""How many prompt tokens a prefill pass may have, and whether it should wait for more prompts.

A pass costs a fixed time, a time per token, and a time per token and token of context. All three are measured once,
before the first request. After that one factor follows the machine's present speed. (Live passes cannot be fitted:
they are nearly all of one size.)
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

C = TypeVar("C")

SMALLEST = 48  # tokens; half the cost of a smaller pass is there whatever its size
FEW, MANY = 8, 64  # tokens of the passes that are measured first
DEEP = 448  # tokens of context of one more measured pass: 512 with it, which every model has positions for
SMOOTHING = 0.2  # weight of the newest measurement
PATIENCE = 3  # steps that a prompt may wait for others to share its pass
SHARE = (
    8  # a batch ends about one in SHARE sequences within a few steps; waiting for as many prompts is worth it
)


class PrefillBudget:
    """``most``: tokens of a pass over one prompt. ``max_stall``: seconds that a pass may stall decoding sequences.

    Where a decode step takes longer than that, a pass may take as long as a step: else a batch would never fill.
    """

    def __init__(self, most: int, max_stall: float) -> None:
        self._most = most
        self._max_stall = max_stall
        self._fixed, self._per_token = 0.0, max_stall / (4 * SMALLEST)  # until it is calibrated
        self._per_look = 0.0  # of a token, at one before it
        self._slowness = 1.0  # of the machine now, against the calibration
        self._decode = 0.0  # seconds of a decode step

    def calibrate(
        self, begin: Callable[[int], C], read: Callable[[C, int], object], *, full_attention: bool
    ) -> None:
        """``begin`` makes a cache of so many tokens, ``read`` prefills so many more into it.

        ``full_attention``: the context is all of them; for other caches the context length is not measured.
        """
        seconds = {}
        passes = [(MANY, 0), (MANY, 0), (FEW, 0), (FEW, 0)]  # the first of all is slow for other reasons
        for tokens, behind in [*passes, (MANY, DEEP)] if full_attention else passes:
            cache = begin(behind)
            began = time.perf_counter()
            read(cache, tokens)
            seconds[tokens, behind] = time.perf_counter() - began
        self._per_token = max((seconds[MANY, 0] - seconds[FEW, 0]) / (MANY - FEW), 1e-7)
        self._fixed = max(seconds[FEW, 0] - FEW * self._per_token, 0.0)
        if full_attention:
            self._per_look = max(seconds[MANY, DEEP] - seconds[MANY, 0], 0.0) / (MANY * DEEP)

    def budget(self, *, beside_decode: bool, behind: int = 0) -> int:
        """``behind``: context length in tokens."""
        if not beside_decode:
            return self._most
        seconds = max(self._max_stall, self._decode) / self._slowness - self._fixed
        affordable = seconds / (self._per_token + self._per_look * behind)
        return min(self._most, max(SMALLEST, int(affordable)))

    def waits_for_more(self, sequences: int, prompts: int, oldest: int) -> bool:
        """Whether a pass over so few prompts would cost so many sequences more than it gives; ``oldest`` in steps."""
        return prompts < sequences // SHARE and oldest < PATIENCE

    @contextmanager
    def timing(self, tokens: int, behind: int) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.measured(tokens, behind, time.perf_counter() - began)

    def measured(self, tokens: int, behind: int, seconds: float) -> None:
        expected = self._fixed + (self._per_token + self._per_look * behind) * tokens
        self._slowness = _smooth(self._slowness, min(max(seconds / expected, 0.1), 10.0))

    def decoded(self, seconds: float) -> None:
        self._decode = _smooth(self._decode, seconds) if self._decode else seconds


def _smooth(old: float, new: float) -> float:
    return (1 - SMOOTHING) * old + SMOOTHING * new
