"""Which arrays the decode batch's KV caches would have, for any batch: rows and tokens of each, as values. Pure.

A footprint is what the scheduler is shown of a store: it tells the arrays after a join and without some sequences, and
moves nothing. The stores use the same functions when they do it.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

GROWTH = 256  # tokens; mlx-lm's caches make room for so many at a time (``KVCache.step``)
TOKENS, ROWS = 128, 4  # steps in which the tokens and the slots of a slab grow
SMALL = 512  # tokens; slots longer than this are not reserved as headroom
ALIKE = 256  # tokens; shorter sequences count as this long
APART = 2  # the largest ratio of lengths within a slab
WIDENED = 1.25  # the largest memory of one widened slab, relative to two slabs


class Footprint(Protocol):
    def arrays(self, joining: Sequence[int], more: int, *, compact: bool) -> list[tuple[int, int]]:
        """The size of each array (sequences, tokens) after a join, headroom included.

        ``joining``: tokens of each joining sequence; ``more``: tokens that every sequence grows by.
        """
        ...

    def without(self, rows: Collection[int]) -> "Footprint":
        """When these sequences, by their places in the batch, have left."""
        ...


@dataclass(frozen=True)
class SlabSize:
    """``rows`` and ``tokens``: the capacity. ``lengths``: tokens of each sequence in it."""

    rows: int
    tokens: int
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Slabs:
    """Sequences of like lengths share an array; ``most`` slabs at the most. In the order of the batch."""

    slabs: tuple[SlabSize, ...] = ()
    most: int = 8

    def arrays(self, joining: Sequence[int], more: int, *, compact: bool) -> list[tuple[int, int]]:
        there = [(slab.rows, slab.tokens) for slab in self.slabs]
        then = [(len(slab.lengths), max(slab.lengths)) for slab in self.slabs]
        for length in joining:
            at = slab_for(then, length, self.most)
            if at == len(then):
                there.append((0, 0))
                then.append((0, 0))
            rows, width = then[at]
            then[at] = rows + 1, max(width, length)
        return [
            capacity_for(size, rows, width + more, compact=compact)
            for size, (rows, width) in zip(there, then, strict=True)
        ]

    def without(self, rows: Collection[int]) -> "Slabs":
        left, first = [], 0
        for slab in self.slabs:
            lengths = tuple(length for row, length in enumerate(slab.lengths, first) if row not in rows)
            first += len(slab.lengths)
            if lengths:
                left.append(replace(slab, lengths=lengths))
        return replace(self, slabs=tuple(left))


@dataclass(frozen=True)
class OneArray:
    """All sequences are padded to the longest, as in mlx-lm's batch caches. ``lengths``: by sequence."""

    lengths: tuple[int, ...] = ()

    def arrays(self, joining: Sequence[int], more: int, *, compact: bool) -> list[tuple[int, int]]:
        lengths = [*self.lengths, *joining]
        return [(len(lengths), max(lengths) + more + GROWTH)] if lengths else []

    def without(self, rows: Collection[int]) -> "OneArray":
        return OneArray(tuple(length for row, length in enumerate(self.lengths) if row not in rows))


def slab_for(slabs: Sequence[tuple[int, int]], length: int, most: int) -> int:
    """The index of the slab that a sequence of ``length`` tokens joins; ``len(slabs)`` for a new slab.

    ``slabs``: the rows and the width of each.
    """

    def apart(width: int) -> float:
        less, more = sorted((max(width, ALIKE), max(length, ALIKE)))
        return more / less

    def takes_in(rows: int, width: int) -> bool:
        """Whether the lengths are similar, and widening the slab costs little more memory than a new one."""
        wider = _size(rows + 1, max(width, length))
        return apart(width) <= APART and wider <= WIDENED * (_size(rows, width) + _size(1, length))

    nearest = sorted(range(len(slabs)), key=lambda at: apart(slabs[at][1]))
    found = next((at for at in nearest if takes_in(*slabs[at])), len(slabs))
    return nearest[0] if found == len(slabs) >= most else found


def _size(rows: int, tokens: int) -> int:
    return math.prod(capacity_for((0, 0), rows, tokens + 1, compact=False))


def capacity_for(there: tuple[int, int], rows: int, tokens: int, *, compact: bool) -> tuple[int, int]:
    """The new capacity (sequences, tokens): unchanged unless too small or twice too large; ``compact``: no headroom."""
    least = rows, rounded(tokens, TOKENS)
    if compact:
        return least
    ample = rounded(rows, ROWS) if least[1] <= SMALL else rows, least[1]
    enough = rows <= there[0] and tokens <= there[1]
    return there if enough and math.prod(there) <= 2 * math.prod(ample) else ample


def slab_tokens(width: int) -> int:
    """Tokens of arrays that can become a slab's, for sequences of ``width`` tokens that get one more."""
    return rounded(width + 1, TOKENS)


def rounded(number: int, step: int) -> int:
    return -(-number // step) * step
