"""The keys and values of the rows that decode together: a slot for each row, and no row moves for another's sake.

A row's tokens begin at the start of its slot; its next one goes behind its last. So a row joins with one write, while
there is a free slot, and leaves with at most one row moved into its place. mlx-lm's batch cache lines rows up at their
ends instead, which copies everybody's tokens whenever anybody joins or leaves: 70 ms each with 32 rows of a 135M model
on two cores, half a step.

``Slots`` serves models all of whose layers keep plain keys and values; ``Merged`` has the same shape for all others,
``Alone`` for a batch of one.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

import mlx.core as mx
from mlx_lm.models.cache import KVCache

from workers.engine.caches import (
    GROWTH,
    Cache,
    Place,
    cut_out_layer,
    divide,
    extend,
    extract,
    is_plain,
    nbytes,
    take_rows,
)
from workers.engine.device import has_accelerator
from workers.engine.key_blocks import BLOCK, blocks_for
from workers.engine.last_made import begin_pass
from workers.engine.rooms import Blocks, Room, Tokens
from workers.engine.runs import Run, runs_of

TOKENS, ROWS = 128, 4  # slots grow by so many at a time
SMALL = 512  # tokens; rows longer than this are too large to be kept in reserve


class Decoding(Protocol):
    """The caches of the rows that decode, in the order of their seats.

    ``tight``: hold nothing in reserve, as memory is short. Where room grows, one layer is copied at a time.
    """

    tight: bool

    @property
    def layers(self) -> Cache:
        """What the model is given."""
        ...

    @property
    def nbytes(self) -> int: ...

    def join(self, read: Cache, places: Sequence[Place]) -> None:
        """The rows at ``places`` of what was read become the last ones here; it is used up."""
        ...

    def room(self, rows: int, tokens: int, *, tight: bool) -> tuple[int, int]:
        """What would be held for so many rows of so many tokens: rows and tokens, the reserve included."""
        ...

    def give_back(self) -> None:
        """What is held in reserve, if ``tight``: before something else is read."""
        ...

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Only these rows stay; gives them in the order in which they stand from now on."""
        ...

    def begin(self) -> None:
        """Before each pass that gives every row one token more."""
        ...

    def cache_of(self, row: int, start: int = 0) -> Cache:
        """The cache of one row, as a sequence's own; a plain one from token ``start`` on."""
        ...


class Slots:
    """``in_blocks``: so a CPU wants its keys, see ``key_blocks``."""

    def __init__(self, *, in_blocks: bool | None = None) -> None:
        self.in_blocks = not has_accelerator() if in_blocks is None else in_blocks
        self.tight = False
        self._clear()

    def _clear(self) -> None:
        self._lengths: list[int] = []  # by row: tokens in its slot
        self._layers: list[SlotLayer] = []
        self.stale: dict[int, int] = {}  # by slot: tokens of rows that have left it
        self.rows = self.tokens = 0  # room there is
        self.offset = mx.array([], dtype=mx.int32)
        self.order = mx.arange(0)
        self._uneven = False
        self.width = 0  # of what a pass looks at
        self._runs: list[Run] | None = None  # of this pass, when somebody has asked

    @property
    def layers(self) -> Cache:
        return self._layers

    @property
    def runs(self) -> list[Run]:
        """Of the rows in this pass."""
        if self._runs is None:
            self._runs = runs_of(self._lengths)
        return self._runs

    @property
    def nbytes(self) -> int:
        return nbytes(self._layers)

    def join(self, read: Cache, places: Sequence[Place]) -> None:
        self._layers = self._layers or [SlotLayer(self) for _ in read]
        first = len(self._lengths)
        self._lengths += [place.length for place in places]
        grows = self._make_room()
        for layer, source in zip(self._layers, read, strict=True):
            if grows:
                layer.resize()
            if source.keys is not None:
                layer.write(first, source.keys, source.values, places)
                source.keys = source.values = None
                mx.eval(layer.state)
            else:
                layer.begin_empty(range(first, len(self._lengths)))
        self._cleared(range(first, len(self._lengths)))

    def keep(self, rows: Sequence[int]) -> list[int]:
        """The last rows that stay fill the gaps."""
        kept = set(rows)
        movers = [row for row in sorted(kept) if row >= len(kept)]
        order = [row if row in kept else movers.pop() for row in range(len(kept))]
        moves = [(row, to) for to, row in enumerate(order) if row != to]
        for slot in {*(to for _, to in moves), *range(len(order), len(self._lengths))}:
            self.stale[slot] = self._lengths[slot]
        self._move(moves)
        self._lengths = [self._lengths[row] for row in order]
        if not order:
            self._clear()
        return order

    def begin(self) -> None:
        """Its offsets are where the pass writes."""
        begin_pass()
        self._resize()
        self.offset = mx.array(self._lengths, dtype=mx.int32)
        self.order = mx.arange(len(self._lengths))
        self.width = max(self._lengths) + 1
        self._uneven = min(self._lengths) + 1 < self.width
        self._lengths = [length + 1 for length in self._lengths]
        self._runs = None

    def mask(self, window: int | None, *, wanted: bool) -> mx.array | None:
        """What each row may look at, (rows, 1, 1, width); None where that is everything, unless one is wanted."""
        window = self.width if window is None else window
        if not (self._uneven or window < self.width or wanted):
            return None
        there, here = mx.arange(self.width)[None], self.offset[:, None]
        seen = (there <= here) & (here < there + window)
        return seen[:, None, None, :]

    def cache_of(self, row: int, start: int = 0) -> Cache:
        return [layer.copy_of(row, self._lengths[row], start) for layer in self._layers]

    def _move(self, moves: Sequence[tuple[int, int]]) -> None:
        """All copies are on their way before anything is written, so that the writes may happen in place."""
        taken = [
            (layer, to, layer.copy_of(row, self._lengths[row])) for row, to in moves for layer in self._layers
        ]
        mx.async_eval([copy.state[:2] for _, _, copy in taken])
        for layer, to, copy in taken:
            keys, values, length = copy.state
            layer.write(to, keys, values, [Place(0, 0, length)])
        self._cleared(to for _, to in moves)

    def _cleared(self, slots: Iterable[int]) -> None:
        for slot in slots:
            self.stale.pop(slot, None)

    def room(self, rows: int, tokens: int, *, tight: bool) -> tuple[int, int]:
        """What there is stays, unless it is too little or far too much."""
        least = rows, _rounded(tokens, TOKENS)
        if tight:
            return least
        ample = _rounded(rows, ROWS) if least[1] <= SMALL else rows, least[1]
        enough = rows <= self.rows and tokens <= self.tokens
        return (
            (self.rows, self.tokens) if enough and self.rows * self.tokens <= 2 * math.prod(ample) else ample
        )

    def give_back(self) -> None:
        if self.tight and self._lengths:
            self._resize()

    def _resize(self) -> None:
        if self._make_room():
            for layer in self._layers:
                layer.resize()

    def _make_room(self) -> bool:
        """For one token more in every row; whether each layer has to be resized to it."""
        before = self.rows, self.tokens
        self.rows, self.tokens = self.room(len(self._lengths), max(self._lengths) + 1, tight=self.tight)
        return before != (self.rows, self.tokens)


class SlotLayer:
    """One layer's, as mlx-lm's models use a cache."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._rooms: tuple[Room, Room] | None = None  # of keys, of values

    @property
    def offset(self) -> mx.array:
        return self._slots.offset

    @property
    def runs(self) -> list[Run]:
        return self._slots.runs

    @property
    def in_blocks(self) -> tuple[mx.array, mx.array] | None:
        """All rows' keys, if in blocks: (rows, heads, blocks, size, BLOCK); and as many values."""
        if not self._rooms or not isinstance(self._rooms[0], Blocks):
            return None
        keys, values = self._rooms
        rows, blocks = slice(self.offset.shape[0]), blocks_for(self._slots.width)
        return keys.array[rows, :, :blocks], values.first(rows, blocks * BLOCK)

    def make_mask(
        self, n: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | None:
        assert n == 1
        return self._slots.mask(window_size, wanted=return_array)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """One token more for every row."""
        rooms = self._rooms_like(keys, values)
        for room, tokens in zip(rooms, (keys, values), strict=True):
            room.put(self._slots.order, self.offset, tokens)
        return self.keys_and_values()

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        assert self._rooms
        rows, width = self.offset.shape[0], self._slots.width
        keys, values = (room.first(slice(rows), width) for room in self._rooms)
        return keys, values

    @property
    def state(self) -> list[mx.array]:
        return [room.array for room in self._rooms or ()]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.state)

    def write(self, first: int, keys: mx.array, values: mx.array, places: Sequence[Place]) -> None:
        """From ``places`` of other arrays to the slots from ``first`` on.

        What an earlier row has left behind them is cleared: a mask gives it no weight, but no weight of NaN is NaN.
        """
        for room, tokens in zip(self._rooms_like(keys, values), (keys, values), strict=True):
            for slot, place in enumerate(places, first):
                there = slice(place.start, place.start + place.length)
                room.fill(slot, tokens[place.row : place.row + 1, :, there], self._slots.stale.get(slot, 0))

    def begin_empty(self, slots: Iterable[int]) -> None:
        """For rows of which nothing was read."""
        if self._rooms:
            keys, values = (room.first(slice(1), 0) for room in self._rooms)
            for slot in slots:
                self.write(slot, keys, values, [Place(0, 0, 0)])

    def copy_of(self, row: int, length: int, start: int = 0) -> KVCache:
        assert self._rooms
        keys, values = (room.first(slice(row, row + 1), length) for room in self._rooms)
        return cut_out_layer(keys, values, Place(0, start, length - start))

    def resize(self) -> None:
        for room in self._rooms or ():
            room.resize(self._slots.rows, self._slots.tokens)
        mx.eval(self.state)

    def _rooms_like(self, keys: mx.array, values: mx.array) -> tuple[Room, Room]:
        """Ours, made like those when there are none yet."""
        if self._rooms is None:
            self._rooms = (Blocks if self._slots.in_blocks else Tokens)(keys), Tokens(values)
            for room in self._rooms:
                room.resize(self._slots.rows, self._slots.tokens)
        return self._rooms


class _Unreserved:
    """Layers that count for themselves and hold nothing in reserve."""

    tight = False

    def __init__(self) -> None:
        self.layers: Cache = []

    @property
    def nbytes(self) -> int:
        return nbytes(self.layers)

    def room(self, rows: int, tokens: int, *, tight: bool) -> tuple[int, int]:
        return rows, tokens + GROWTH

    def give_back(self) -> None:
        pass

    def begin(self) -> None:
        begin_pass()


class Merged(_Unreserved):
    """mlx-lm's own batch caches."""

    def __init__(self) -> None:
        super().__init__()
        self._rows = 0

    def join(self, read: Cache, places: Sequence[Place]) -> None:
        take_rows(read, [place.row for place in places])  # more may have been read than have a seat
        if self._rows:
            extend(self.layers, read)
        else:
            self.layers = read
        self._rows += len(places)

    def keep(self, rows: Sequence[int]) -> list[int]:
        if not rows:
            self.layers = []
        elif len(rows) < self._rows:
            take_rows(self.layers, list(rows))
        self._rows = len(rows)
        return list(rows)

    def cache_of(self, row: int, start: int = 0) -> Cache:
        return extract(self.layers, row)


class Alone(_Unreserved):
    """The cache of the only sequence, whose offset is a number; for models that know no other."""

    def join(self, read: Cache, places: Sequence[Place]) -> None:
        assert not self.layers and len(places) == 1
        self.layers = read

    def keep(self, rows: Sequence[int]) -> list[int]:
        if not rows:
            self.layers = []
        return list(rows)

    def cache_of(self, row: int, start: int = 0) -> Cache:
        return divide(self.layers, start)[1] if is_plain(self.layers) else self.layers


def caches_for(plain: bool) -> Decoding:
    """For rows that decode together; ``plain``: each of the model's layers keeps plain keys and values."""
    return Slots() if plain else Merged()


def _rounded(number: int, step: int) -> int:
    return -(-number // step) * step
