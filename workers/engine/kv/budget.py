"""What rows and prompts would take of the memory for keys and values, by what their caches hold. Pure.

``tight``: the caches of the rows hold nothing in reserve.
"""

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from workers.engine.kv.cost import RESERVE, Cost
from workers.engine.kv.mlx_caches import GROWTH
from workers.engine.kv.row_caches import Decoding


@dataclass
class Budget:
    """``size`` in bytes; it may change between steps. ``chunk``: most tokens of a prompt that are read in one step."""

    size: int
    cost: Cost
    caches: Decoding
    chunk: int

    @property
    def longest_sequence(self) -> int:
        """Tokens that fit when one request has all of it."""
        lengths = range(1, self.cost.tokens(self.size) + 1)
        return bisect(lengths, False, key=lambda tokens: not self._serves_alone(tokens))

    def rows(self, tokens: int, most: int) -> int:
        """How many rows of so many tokens fit by themselves, ``most`` at the most; one always does."""
        numbers = range(1, most + 1)
        fitting = bisect(numbers, False, key=lambda n: self._alone(tokens + RESERVE, n) > self.size)
        return max(1, fitting)

    def needed(self, joining: Sequence[int], reads: int, width: int, *, tight: bool) -> int:
        """The most bytes held on the way from the rows that decode to those that do when prompts are read.

        ``joining``: tokens of each row that does then, or one more than it has, as not every pass reads a prompt's last
        one; ``width`` is of the longest of ``reads`` prompts.
        """
        before = self._held((), 1, tight=tight)
        if not reads:
            return before
        joins = joining, [tokens - 1 for tokens in joining]
        after = (self._held(each, more, tight=tight) for each in joins for more in (1, RESERVE))
        return max(before + self.cost.bytes(width + GROWTH, reads, chunk=self.chunk), *after)

    def _held(self, joining: Sequence[int], more: int, *, tight: bool) -> int:
        arrays = self.caches.room(joining, more, tight=tight)
        return sum(self.cost.bytes(tokens, rows) for rows, tokens in arrays)

    def _serves_alone(self, tokens: int) -> bool:
        read = self.cost.bytes(tokens + GROWTH, chunk=self.chunk)
        return max(read, self._alone(tokens)) <= self.size

    def _alone(self, tokens: int, rows: int = 1) -> int:
        """Bytes of rows of so many tokens by themselves, without any reserve."""
        return self.cost.bytes(self.caches.least(tokens), rows)
