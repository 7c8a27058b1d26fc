"""Rows of like lengths beside each other, so that short ones do not pay for a long one in their batch.

The keys of rows that share an array are as many as the longest has. A CPU takes as long for keys that are masked as for
others; of a run of rows it computes only as much as the longest of them has.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WORTH = 512  # keys, over all rows, that take as long as the operations of a run more


@dataclass(frozen=True)
class Run:
    """``rows`` of the batch, of which no one looks at more than the first ``width`` keys."""

    rows: slice
    width: int

    @property
    def size(self) -> int:
        return int(self.rows.stop - self.rows.start)


def runs_of(widths: Sequence[int]) -> list[Run]:
    """All rows in their order, in the runs that cost least."""
    cost, begins = [0], [0]  # of the first so many rows, and where the last run of them begins
    for end in range(1, len(widths) + 1):
        width, least, begin = 0, math.inf, 0
        for start in reversed(range(end)):
            width = max(width, widths[start])
            total = cost[start] + (end - start) * width + WORTH
            if total < least:
                least, begin = total, start
        cost.append(int(least))
        begins.append(begin)
    runs: list[Run] = []
    end = len(widths)
    while end:
        runs.append(Run(slice(begins[end], end), max(widths[begins[end] : end])))
        end = begins[end]
    return runs[::-1]
