"""Length groups: neighbours of like lengths in a batch, so that short sequences do not pay for a long one.

Sequences that share an array have as many keys as the longest. A CPU takes as long for masked keys as for others, so of
a length group it computes only as many keys as its longest sequence has.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WORTH = 512  # keys, over all rows, that take as long as the operations of one more group


@dataclass(frozen=True)
class LengthGroup:
    """``rows`` of the batch, of which no one looks at more than the first ``width`` keys."""

    rows: slice
    width: int

    @property
    def size(self) -> int:
        return int(self.rows.stop - self.rows.start)


def length_groups_of(widths: Sequence[int]) -> list[LengthGroup]:
    """All rows in their order, in the length groups that cost least."""
    cost, begins = [0], [0]  # of the first so many rows, and where the last group of them begins
    for end in range(1, len(widths) + 1):
        width, least, begin = 0, math.inf, 0
        for start in reversed(range(end)):
            width = max(width, widths[start])
            total = cost[start] + (end - start) * width + WORTH
            if total < least:
                least, begin = total, start
        cost.append(int(least))
        begins.append(begin)
    groups: list[LengthGroup] = []
    end = len(widths)
    while end:
        groups.append(LengthGroup(slice(begins[end], end), max(widths[begins[end] : end])))
        end = begins[end]
    return groups[::-1]
