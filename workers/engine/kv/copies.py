"""Copies of keys and values in a join, a leave or a growth: when they are started, and what is waited for.

Rule 1: on an accelerator no layer is waited for by itself. Copies are started layer by layer, and the host waits only
    for the oldest ones when those on their way take too much memory. A wait costs a round trip, and the first of a join
    also the pass that is on its way.
Rule 2: what is written in place was waited for before. A pass that is on its way has references to its arrays, and MLX
    copies a whole array if another reference to it is left.
Rule 3: a CPU waits for each layer, because MLX lets the host run only a hundred operations ahead there.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx.utils import tree_reduce

from workers.device import has_accelerator

AHEAD = 1 << 28  # bytes of layers that are copied and were not waited for


class Copies:
    """The copies of one join or growth. ``ahead``: bytes; 0 on a CPU."""

    def __init__(self, ahead: int | None = None) -> None:
        self._ahead = ahead if ahead is not None else AHEAD if has_accelerator() else 0
        self._started: deque[tuple[int, mx.array]] = deque()  # bytes, and what is computed behind them
        self._bytes = 0

    def start(self, arrays: Any) -> None:
        """Starts the computation of a layer's arrays, nested as mlx-lm's caches have them; may wait for earlier ones.

        It keeps no reference to them, because the next pass writes to them in place.
        """
        if not self._ahead:
            mx.eval(arrays)
            return
        size: int = tree_reduce(lambda size, each: size + getattr(each, "nbytes", 0), arrays, 0)
        behind = mx.zeros(1) + 1
        mx.async_eval(arrays, behind)
        self._started.append((size, behind))
        self._bytes += size
        while self._bytes > self._ahead:
            size, behind = self._started.popleft()
            mx.eval(behind)
            self._bytes -= size


def finish(copies: Sequence[mx.array]) -> None:
    """Computes copies, after which the arrays they were taken from can be written in place."""
    if copies:
        mx.eval(copies)


def settle(arrays: Sequence[mx.array]) -> None:
    """Waits on an accelerator for the passes that use ``arrays``, and for no others that are on their way."""
    if has_accelerator() and arrays:
        mx.eval(arrays)
