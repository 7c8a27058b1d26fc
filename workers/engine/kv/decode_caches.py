"""The caches of the sequences that decode together: what a batch needs of them, and those of models without slots.

``Slots`` serves models with full attention in all layers, ``Merged`` all others, ``Alone`` a batch of one.
"""

from collections.abc import Sequence
from typing import Protocol

from workers.engine.kv.mlx_caches import (
    GROWTH,
    Cache,
    TokenSpan,
    divide,
    extend,
    extract,
    is_full_attention,
    nbytes,
    take_rows,
)
from workers.engine.kv.slots import Slots
from workers.engine.pass_memo import begin_pass


class DecodeCaches(Protocol):
    """The caches of the sequences that decode, in the order of their batch slots.

    ``compact``: hold no headroom, because memory is short. Buffers grow one layer at a time.
    """

    compact: bool

    @property
    def layers(self) -> Cache:
        """What the model is given."""
        ...

    @property
    def nbytes(self) -> int: ...

    def join(self, read: Cache, spans: Sequence[TokenSpan]) -> list[int]:
        """The sequences at ``spans`` of what was read, which is used up, are here as well.

        Gives all sequences in the order in which they stand from now on, the new ones counted behind those before.
        """
        ...

    def footprint(self, joining: Sequence[int], more: int, *, compact: bool) -> list[tuple[int, int]]:
        """What would be held if rows of so many tokens joined, and all here had ``more`` tokens more.

        Of each array its sequences and tokens, the headroom included.
        """
        ...

    def least(self, tokens: int) -> int:
        """What is held for a sequence of so many, without any headroom."""
        ...

    def resize(self) -> None:
        """Room for a token more in every row, and no more than the headroom: also before something else is read."""
        ...

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Only these sequences stay; gives them in the order in which they stand from now on."""
        ...

    def begin(self) -> None:
        """Before each pass that gives every sequence one token more."""
        ...

    def cache_of(self, row: int, start: int = 0) -> Cache:
        """The cache of one row, as a sequence's own; a full-attention cache from token ``start`` on."""
        ...


class _Unreserved:
    """Layers that count for themselves and hold nothing as headroom."""

    compact = False

    def __init__(self) -> None:
        self.layers: Cache = []
        self._lengths: list[int] = []  # by sequence

    @property
    def nbytes(self) -> int:
        return nbytes(self.layers)

    def footprint(self, joining: Sequence[int], more: int, *, compact: bool) -> list[tuple[int, int]]:
        lengths = [*self._lengths, *joining]
        return [(len(lengths), self.least(max(lengths) + more))] if lengths else []

    def least(self, tokens: int) -> int:
        return tokens + GROWTH

    def resize(self) -> None:
        pass

    def begin(self) -> None:
        begin_pass()
        self._lengths = [length + 1 for length in self._lengths]


class Merged(_Unreserved):
    """mlx-lm's own batch caches."""

    def join(self, read: Cache, spans: Sequence[TokenSpan]) -> list[int]:
        take_rows(read, [span.row for span in spans])  # ended sequences may have been prefilled too
        if self._lengths:
            extend(self.layers, read)
        else:
            self.layers = read
        self._lengths += [span.length for span in spans]
        return list(range(len(self._lengths)))

    def keep(self, rows: Sequence[int]) -> list[int]:
        if not rows:
            self.layers = []
        elif len(rows) < len(self._lengths):
            take_rows(self.layers, list(rows))
        self._lengths = [self._lengths[row] for row in rows]
        return list(rows)

    def cache_of(self, row: int, start: int = 0) -> Cache:
        return extract(self.layers, row)


class Alone(_Unreserved):
    """The cache of the only sequence, whose offset is a number; for models that know no other."""

    def join(self, read: Cache, spans: Sequence[TokenSpan]) -> list[int]:
        assert not self.layers and len(spans) == 1
        self.layers, self._lengths = read, [spans[0].length]
        return [0]

    def keep(self, rows: Sequence[int]) -> list[int]:
        if not rows:
            self.layers, self._lengths = [], []
        return list(rows)

    def cache_of(self, row: int, start: int = 0) -> Cache:
        return divide(self.layers, start)[1] if is_full_attention(self.layers) else self.layers


def caches_for(full_attention: bool) -> DecodeCaches:
    """For sequences that decode together; ``full_attention``: of all layers."""
    return Slots() if full_attention else Merged()
