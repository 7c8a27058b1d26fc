"""What rows and prompts would take of the memory for keys and values, by what their caches hold. Pure.

``tight``: the caches of the rows hold nothing in reserve.
"""

from bisect import bisect
from dataclasses import dataclass

from workers.engine.caches import GROWTH
from workers.engine.memory import RESERVE, Cost
from workers.engine.slots import Decoding


@dataclass(frozen=True)
class Budget:
    """``size`` in bytes. ``chunk``: most tokens of a prompt that are read in one step."""

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
        fitting = bisect(numbers, False, key=lambda n: self.held(n, tokens + RESERVE, tight=True) > self.size)
        return max(1, fitting)

    def held(self, rows: int, tokens: int, *, tight: bool) -> int:
        """Bytes of rows that decode, the longest of so many tokens."""
        held, length = self.caches.room(rows, tokens, tight=tight)
        return self.cost.bytes(length, held)

    def needed(
        self, decoding: tuple[int, int], then: tuple[int, int], reads: int, width: int, *, tight: bool
    ) -> int:
        """The most bytes held on the way from the rows that decode to those that do when prompts are read.

        ``decoding`` and ``then`` are rows, and tokens of the longest; ``width`` is of the longest of ``reads`` prompts.
        """
        rows, longest = then
        if not reads:
            return self.held(rows, longest + 1, tight=tight)
        before = self.held(decoding[0], decoding[1] + 1, tight=tight) if decoding[0] else 0
        after = (self.held(rows, longest + more, tight=tight) for more in (0, RESERVE))
        return max(before + self.cost.bytes(width + GROWTH, reads, chunk=self.chunk), *after)

    def _serves_alone(self, tokens: int) -> bool:
        read = self.cost.bytes(tokens + GROWTH, chunk=self.chunk)
        return max(read, self.held(1, tokens, tight=True)) <= self.size
