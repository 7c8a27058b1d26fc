"""Computes which sequences fit into the memory for keys and values when no others are there. Pure."""

from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from workers.engine.kv.decode_caches import DecodeCaches
from workers.engine.kv.footprint import GROWTH
from workers.engine.memory.cost import HEADROOM, Cost

T = TypeVar("T")


@dataclass
class Budget:
    """``size``: bytes, which may change between steps. ``chunk``: most tokens of a prompt in one prefill pass."""

    size: int
    cost: Cost
    caches: DecodeCaches
    chunk: int

    @property
    def longest_sequence(self) -> int:
        """The longest sequence, in tokens, that fits when it has the whole budget."""
        lengths = range(1, self.cost.tokens(self.size) + 1)
        return bisect(lengths, False, key=lambda tokens: not self._serves_alone(tokens))

    def rows(self, tokens: int, most: int) -> int:
        """How many sequences of ``tokens`` tokens fit without others: at least 1 and at most ``most``."""
        numbers = range(1, most + 1)
        fitting = bisect(numbers, False, key=lambda n: self._alone(tokens + HEADROOM, n) > self.size)
        return max(1, fitting)

    def fitting_groups(self, sequences: Sequence[T], tokens: int, most: int) -> Iterator[Sequence[T]]:
        """Splits sequences of ``tokens`` tokens each into groups that fit without others; see ``rows``."""
        size = self.rows(tokens, most)
        return (sequences[start : start + size] for start in range(0, len(sequences), size))

    def _serves_alone(self, tokens: int) -> bool:
        read = self.cost.bytes(tokens + GROWTH, chunk=self.chunk)
        return max(read, self._alone(tokens)) <= self.size

    def _alone(self, tokens: int, rows: int = 1) -> int:
        """Bytes of ``rows`` sequences of ``tokens`` tokens each, without headroom."""
        return self.cost.bytes(self.caches.least(tokens), rows)
