"""Length groups: runs of sequences of like lengths in a batch, so that short ones do not pay for a long one.

Sequences that share an array are padded to the longest. A CPU takes as long for masked keys as for others, so attention
runs once per length group, over as many keys as the longest sequence of the group has. Where guesses are verified,
each sequence of a group costs as many queries as the one with the most, so their number divides groups as well.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WORTH = 512  # keys of all sequences together that cost as much as one more group


@dataclass(frozen=True)
class LengthGroup:
    """``rows`` of the batch; each attends to the first ``width`` keys at most."""

    rows: slice
    width: int

    @property
    def size(self) -> int:
        return int(self.rows.stop - self.rows.start)


def length_groups_of(widths: Sequence[int], queries: Sequence[int] | None = None) -> list[LengthGroup]:
    """The length groups of the batch, in batch order, with the lowest total cost.

    ``widths``, ``queries``: keys and queries of each sequence; one query if not given.
    """
    counts = queries or [1] * len(widths)
    cost, begins = [0], [0]  # by number of rows: the lowest cost, and where the last group begins
    for end in range(1, len(widths) + 1):
        width, most, least, begin = 0, 0, math.inf, 0
        for start in reversed(range(end)):
            width, most = max(width, widths[start]), max(most, counts[start])
            total = cost[start] + (end - start) * width * most + WORTH
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
