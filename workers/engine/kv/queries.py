"""The queries of a pass in which some sequences have several tokens, each of them a row of the pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True)
class Queries:
    """Those of some slots, with equally many of each.

    ``each``: queries per slot, the last one repeated where a slot has fewer. ``rows`` (slots * each,): where they are
    in the pass. ``back``: where those of the pass are among them.
    """

    each: int
    rows: mx.array
    back: mx.array

    def side_by_side(self, array: mx.array) -> mx.array:
        """(rows, heads, 1, size) -> (slots, heads, queries of each, size)."""
        _, heads, _, size = array.shape
        return array[self.rows].reshape(-1, self.each, heads, size).swapaxes(1, 2)

    def one_by_one(self, array: mx.array) -> mx.array:
        """(slots, heads, queries of each, size) -> (rows of these slots, heads, 1, size)."""
        array = array.swapaxes(1, 2)
        return array.reshape(-1, *array.shape[2:])[self.back][:, :, None]


def queries_of(first: int, counts: Sequence[int]) -> Queries:
    """``first``: the place of the first query in the pass. ``counts``: queries of each slot."""
    each, rows, back = max(counts), list[int](), list[int]()
    for count in counts:
        back += range(len(rows), len(rows) + count)
        rows += [first + min(number, count - 1) for number in range(each)]
        first += count
    return Queries(each, mx.array(rows, dtype=mx.int32), mx.array(back, dtype=mx.int32))
