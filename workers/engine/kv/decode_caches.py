"""The interface of the decode batch's KV caches, and the two kinds that do not use slots.

``Slots`` serves the models that have a kind of slot for each layer, ``Merged`` all others, ``Alone`` a batch of one
sequence.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from workers.engine.kv.footprint import GROWTH, Footprint, OneArray
from workers.engine.kv.mlx_caches import (
    Cache,
    TokenSpan,
    can_merge,
    extend,
    extract,
    has_slots,
    is_full_attention,
    keeps_all_tokens,
    nbytes,
    new_cache,
    take_rows,
)
from workers.engine.kv.slots import Slots


class DecodeCaches(Protocol):
    """The caches of the sequences that decode, in the order of their batch slots.

    ``compact``: hold no headroom, because memory is short. Buffers grow one layer at a time.
    """

    compact: bool
    joins_alone: bool  # whether a prompt that was prefilled by itself joins from its own cache
    takes_back: bool  # whether the last tokens of a sequence can be dropped

    @property
    def layers(self) -> Cache:
        """The cache object of each layer, as the model takes them."""
        ...

    @property
    def nbytes(self) -> int: ...

    def join(self, read: Cache, spans: Sequence[TokenSpan]) -> list[int]:
        """Adds the sequences at ``spans`` of the prefilled cache ``read``, which must not be used afterwards.

        Gives the new order of the batch: indices of the sequences before, then of the new ones.
        """
        ...

    def footprint(self) -> Footprint:
        """What the arrays would be for another batch, as a value."""
        ...

    def least(self, tokens: int) -> int:
        """How many tokens a buffer without headroom holds for a sequence of ``tokens`` tokens."""
        ...

    def resize(self) -> None:
        """Grows the buffers for one more token per sequence, and shrinks those with too much headroom."""
        ...

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Keeps only these sequences and gives their new order."""
        ...

    def begin(self, counts: Sequence[int] | None = None) -> None:
        """Prepares a decode pass. ``counts``: tokens that it adds to each sequence; one if not given."""
        ...

    def room(self, row: int) -> int:
        """Tokens that a pass may add to a sequence in buffers as they are, if these caches take tokens back."""
        ...

    def take_back(self, tokens: Sequence[int]) -> None:
        """Drops the last tokens of each sequence, so many of each; only where ``takes_back``."""
        ...

    def cache_of(self, row: int, start: int = 0) -> Cache:
        """A copy of one sequence's cache; of full layers from token ``start`` on."""
        ...


class _Unreserved:
    """Caches without headroom, whose layers count their own tokens."""

    compact = takes_back = False

    def __init__(self) -> None:
        self.layers: Cache = []
        self._lengths: list[int] = []  # by sequence

    @property
    def nbytes(self) -> int:
        return nbytes(self.layers)

    def footprint(self) -> Footprint:
        return OneArray(tuple(self._lengths))

    def least(self, tokens: int) -> int:
        return tokens + GROWTH

    def resize(self) -> None:
        pass

    def room(self, row: int) -> int:
        return 1

    def take_back(self, tokens: Sequence[int]) -> None:
        assert not any(tokens), "these caches hold states that are not addressed by length"

    def begin(self, counts: Sequence[int] | None = None) -> None:
        assert counts is None
        self._lengths = [length + 1 for length in self._lengths]


class Merged(_Unreserved):
    """Uses mlx-lm's own batch caches."""

    joins_alone = False

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
        return extract(self.layers, row, start)


class Alone(_Unreserved):
    """Uses the cache of a single sequence, for models whose forward pass needs a scalar offset."""

    joins_alone = True

    def join(self, read: Cache, spans: Sequence[TokenSpan]) -> list[int]:
        assert not self.layers and len(spans) == 1
        self.layers, self._lengths = read, [spans[0].length]
        return [0]

    def keep(self, rows: Sequence[int]) -> list[int]:
        if not rows:
            self.layers, self._lengths = [], []
        return list(rows)

    def cache_of(self, row: int, start: int = 0) -> Cache:
        return extract(self.layers, row, start)


def caches_for(cache: Cache) -> DecodeCaches:
    """The caches of a decode batch, for a model with a ``cache`` like this."""
    if not has_slots(cache):
        return Merged()
    return Slots(by_length=keeps_all_tokens(cache), takes_back=is_full_attention(cache))


def caches_of(model: Any, rows: int, alone: str | None) -> DecodeCaches:
    """Those of a decode batch of at most ``rows`` sequences; ``alone``: what keeps the model's out of one batch."""
    if rows > 1 and not alone and can_merge(model):
        return caches_for(new_cache(model))
    return Alone()
