"""Bytes that sequences and prompts would take, by what their caches hold. Pure.

``compact``: the caches hold no headroom.
"""

from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from workers.engine.kv.cost import HEADROOM, Cost
from workers.engine.kv.decode_caches import DecodeCaches
from workers.engine.kv.mlx_caches import GROWTH

T = TypeVar("T")


@dataclass
class Budget:
    """``size`` in bytes; it may change between steps. ``chunk``: most tokens of a prompt that are read in one step."""

    size: int
    cost: Cost
    caches: DecodeCaches
    chunk: int

    @property
    def longest_sequence(self) -> int:
        """Tokens that fit when one request has all of it."""
        lengths = range(1, self.cost.tokens(self.size) + 1)
        return bisect(lengths, False, key=lambda tokens: not self._serves_alone(tokens))

    def rows(self, tokens: int, most: int) -> int:
        """How many rows of so many tokens fit by themselves, ``most`` at the most; one always does."""
        numbers = range(1, most + 1)
        fitting = bisect(numbers, False, key=lambda n: self._alone(tokens + HEADROOM, n) > self.size)
        return max(1, fitting)

    def fitting_groups(self, sequences: Sequence[T], tokens: int, most: int) -> Iterator[Sequence[T]]:
        """The sequences, each of so many tokens, in groups that fit by themselves; see ``rows``."""
        size = self.rows(tokens, most)
        return (sequences[start : start + size] for start in range(0, len(sequences), size))

    def needed(self, joining: Sequence[int], reads: int, width: int, *, compact: bool) -> int:
        """The most bytes held on the way from the sequences that decode to those that do when prompts are read.

        ``joining``: tokens of each sequence that joins, maybe one too many: not every pass has the last id.
        ``width``: tokens of the longest of ``reads`` prompts.
        """
        before = self._held((), 1, compact=compact)
        if not reads:
            return before
        joins = joining, [tokens - 1 for tokens in joining]
        after = (self._held(each, more, compact=compact) for each in joins for more in (1, HEADROOM))
        return max(before + self.cost.bytes(width + GROWTH, reads, chunk=self.chunk), *after)

    def _held(self, joining: Sequence[int], more: int, *, compact: bool) -> int:
        arrays = self.caches.footprint(joining, more, compact=compact)
        return sum(self.cost.bytes(tokens, rows) for rows, tokens in arrays)

    def _serves_alone(self, tokens: int) -> bool:
        read = self.cost.bytes(tokens + GROWTH, chunk=self.chunk)
        return max(read, self._alone(tokens)) <= self.size

    def _alone(self, tokens: int, rows: int = 1) -> int:
        """Bytes of rows of so many tokens by themselves, without any headroom."""
        return self.cost.bytes(self.caches.least(tokens), rows)
