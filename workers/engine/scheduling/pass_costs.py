"""Measures what prefill and decode passes take on this machine; ``scheduler`` sizes passes by it.

A pass costs a fixed time, a time per token, and a time per token and token of context. All three are measured
before the first request. On an accelerator a pass of few tokens takes as long as its weights are read, so that what a
token costs shows in large passes only: see ``calibrated_beyond_knee``. After that one factor follows the machine's
present speed. (Live passes cannot be fitted: they are nearly all of one size.)
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from workers.engine.scheduling.plan import SMALLEST, Costs

C = TypeVar("C")

FEW, MANY = 8, 64  # tokens of the passes that are measured first
LARGE = 512  # tokens, which every model has positions for
DEEP = 448  # tokens of context of one more measured pass: ``LARGE`` with it
SMOOTHING = 0.2  # weight of the newest measurement


def calibrated(begin: Callable[[int], C], read: Callable[[C, int], object], *, full_attention: bool) -> Costs:
    """Measures prefill passes. ``begin`` makes a cache of so many tokens, ``read`` prefills so many more into it.

    ``full_attention``: the context is all of them; for other caches the context length is not measured.
    """
    seconds = {}
    passes = [(MANY, 0), (MANY, 0), (FEW, 0), (FEW, 0)]  # the first of all is slow for other reasons
    for tokens, behind in [*passes, (MANY, DEEP)] if full_attention else passes:
        cache = begin(behind)
        began = time.perf_counter()
        read(cache, tokens)
        seconds[tokens, behind] = time.perf_counter() - began
    per_token = max((seconds[MANY, 0] - seconds[FEW, 0]) / (MANY - FEW), 1e-7)
    deeper = max(seconds[MANY, DEEP] - seconds[MANY, 0], 0.0) if full_attention else 0.0
    return Costs(
        fixed=max(seconds[FEW, 0] - FEW * per_token, 0.0),
        per_token=per_token,
        per_look=deeper / (MANY * DEEP),
    )


def calibrated_beyond_knee(
    begin: Callable[[int], C], read: Callable[[C, int], object], *, full_attention: bool
) -> Costs:
    """As ``calibrated``, for an accelerator: the higher of two lines, a level one and one through large passes."""
    half = LARGE // 2

    def seconds(tokens: int, behind: int = 0) -> float:
        cache = begin(behind)
        began = time.perf_counter()
        read(cache, tokens)
        return time.perf_counter() - began

    for tokens in (FEW, half):  # the first of each kind is slow for other reasons
        seconds(tokens)
    floor, smaller, large = seconds(FEW), seconds(half), seconds(LARGE)
    # However unsteady the machine is, a token of a large pass costs between half of its share and all of it.
    per_token = min(max((large - smaller) / half, large / LARGE / 2, 1e-7), max(large / LARGE, 1e-7))
    deeper = max(seconds(half, half) - smaller, 0.0) if full_attention else 0.0
    return Costs(
        floor=floor,
        fixed=max(large - LARGE * per_token, 0.0),
        per_token=per_token,
        per_look=deeper / (half * half),
    )


class PassCosts:
    """``max_stall``: seconds; where no ``measured`` costs are given, a pass of a few dozen tokens is taken to cost a
    quarter of it."""

    def __init__(self, max_stall: float, measured: Costs | None = None) -> None:
        self.now = measured or Costs(per_token=max_stall / (4 * SMALLEST))

    def seconds(self, tokens: int, behind: int) -> float:
        """What prefill of so many tokens takes now, behind a context of so many."""
        return self.now.slowness * self.now.prefill(tokens, behind + tokens // 2)

    @contextmanager
    def timing(self, tokens: int, behind: int) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.measured(tokens, behind, time.perf_counter() - began)

    def measured(self, tokens: int, behind: int, seconds: float) -> None:
        slowness = min(max(seconds / self.now.prefill(tokens, behind), 0.1), 10.0)
        self.now = replace(self.now, slowness=_smooth(self.now.slowness, slowness))

    def decoded(self, seconds: float) -> None:
        before = self.now.decode
        self.now = replace(self.now, decode=_smooth(before, seconds) if before else seconds)


def _smooth(old: float, new: float) -> float:
    return (1 - SMOOTHING) * old + SMOOTHING * new
