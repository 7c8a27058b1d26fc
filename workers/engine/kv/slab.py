"""Rows of like lengths in one array a layer, each in a slot of its own: no row moves for another's sake.

A row's tokens begin at the start of its slot; its next one goes behind its last. So a row joins with one write, while
there is a free slot, and leaves with at most one row moved into its place. mlx-lm's batch cache lines rows up at their
ends instead, which copies everybody's tokens whenever anybody joins or leaves: 70 ms each with 32 rows of a 135M model
on two cores, half a step.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import mlx.core as mx
from mlx_lm.models.cache import KVCache

from workers.engine.kv.buffers import Blocks, Ends, Room, Tokens
from workers.engine.kv.key_blocks import BLOCK, blocks_for
from workers.engine.kv.length_groups import Run, runs_of
from workers.engine.kv.mlx_caches import Place, cut_out_layer

TOKENS, ROWS = 128, 4  # slots grow by so many at a time
SMALL = 512  # tokens; rows longer than this are too large to be kept in reserve


@dataclass(frozen=True)
class Shown:
    """What a pass looks at of a shelf's keys and values, if the keys are in blocks."""

    first: int  # the batch's row in the first slot
    blocks: mx.array  # (rows, heads, blocks, size, BLOCK)
    values: mx.array  # (rows, heads, blocks * BLOCK, size)
    runs: list[Run]  # of its slots


class Shelf:
    """``lengths``: by slot, the tokens in it; those of ``rows`` slots of ``tokens`` have room."""

    def __init__(self, layers: int, *, in_blocks: bool) -> None:
        self.lengths: list[int] = []
        self.rows = self.tokens = 0
        self._layers: list[tuple[Room, Room] | None] = [None] * layers  # room for keys, for values
        self._in_blocks = in_blocks
        self._stale: dict[int, int] = {}  # by slot: tokens of rows that have left it
        self._ends = Ends([])
        self._runs: list[Run] | None = None  # of this pass, when somebody has asked

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def width(self) -> int:
        return max(self.lengths)

    @property
    def runs(self) -> list[Run]:
        """Of the rows in this pass."""
        if self._runs is None:
            self._runs = runs_of(self.lengths)
        return self._runs

    def state(self, layer: int) -> list[mx.array]:
        return [room.array for room in self._layers[layer] or ()]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for layer in range(len(self._layers)) for array in self.state(layer))

    # ---- room

    def make_room(self, *, tight: bool) -> bool:
        """For one token more in every row; whether each layer has to be resized to it."""
        before = self.rows, self.tokens
        self.rows, self.tokens = room_for(before, len(self), self.width + 1, tight=tight)
        return before != (self.rows, self.tokens)

    def resize(self, layer: int) -> None:
        for room in self._layers[layer] or ():
            room.resize(self.rows, self.tokens)
        mx.eval(self.state(layer))

    # ---- rows come and go

    def write(
        self, layer: int, first: int, keys: mx.array, values: mx.array, places: Sequence[Place]
    ) -> None:
        """From ``places`` of other arrays to the slots from ``first`` on.

        What an earlier row has left behind them is cleared: a mask gives it no weight, but no weight of NaN is NaN.
        """
        for room, tokens in zip(self._rooms_like(layer, keys, values), (keys, values), strict=True):
            for slot, place in enumerate(places, first):
                there = slice(place.start, place.start + place.length)
                room.fill(slot, tokens[place.row : place.row + 1, :, there], self._stale.get(slot, 0))

    def begin_empty(self, layer: int, first: int) -> None:
        """For rows of which nothing was read."""
        if rooms := self._layers[layer]:
            keys, values = (room.first(slice(1), 0) for room in rooms)
            for slot in range(first, len(self)):
                self.write(layer, slot, keys, values, [Place(0, 0, 0)])

    def written(self, slots: Iterable[int]) -> None:
        """In all layers."""
        for slot in slots:
            self._stale.pop(slot, None)

    def keep(self, slots: Sequence[int]) -> list[int]:
        """Only what is in these stays; gives them in the order in which they stand from now on: the last fill gaps."""
        kept = set(slots)
        movers = [slot for slot in sorted(kept) if slot >= len(kept)]
        order = [slot if slot in kept else movers.pop() for slot in range(len(kept))]
        moves = [(slot, to) for to, slot in enumerate(order) if slot != to]
        for slot in {*(to for _, to in moves), *range(len(order), len(self))}:
            self._stale[slot] = self.lengths[slot]
        self._move(moves)
        self.lengths = [self.lengths[slot] for slot in order]
        return order

    def _move(self, moves: Sequence[tuple[int, int]]) -> None:
        """All copies are on their way before anything is written, so that the writes may happen in place."""
        layers = [layer for layer, rooms in enumerate(self._layers) if rooms]  # none if nothing was read yet
        taken = [(layer, to, self.copy_of(layer, slot)) for slot, to in moves for layer in layers]
        mx.async_eval([copy.state[:2] for _, _, copy in taken])
        for layer, to, copy in taken:
            keys, values, length = copy.state
            self.write(layer, to, keys, values, [Place(0, 0, length)])
        self.written(to for _, to in moves)

    def copy_of(self, layer: int, slot: int, start: int = 0) -> KVCache:
        """The tokens of a slot from ``start`` on, as a sequence's own."""
        rooms, length = self._layers[layer], self.lengths[slot]
        assert rooms
        keys, values = (room.first(slice(slot, slot + 1), length) for room in rooms)
        return cut_out_layer(keys, values, Place(0, start, length - start))

    # ---- a pass

    def begin(self) -> None:
        """Every row gets one token more."""
        self._ends = Ends(self.lengths)
        self.lengths = [length + 1 for length in self.lengths]
        self._runs = None

    def put(self, layer: int, keys: mx.array, values: mx.array) -> None:
        """(rows, heads, 1, size): these tokens."""
        for room, tokens in zip(self._rooms_like(layer, keys, values), (keys, values), strict=True):
            room.put(self._ends, tokens)

    def keys_and_values(self, layer: int, tokens: int) -> tuple[mx.array, mx.array]:
        """(rows, heads, tokens, size), of rows with room for fewer as many as there is room for."""
        rooms = self._layers[layer]
        assert rooms
        keys, values = (room.first(slice(len(self)), min(tokens, self.tokens)) for room in rooms)
        return keys, values

    def shown(self, layer: int, first: int) -> Shown | None:
        rooms = self._layers[layer]
        if not rooms or not isinstance(rooms[0], Blocks):
            return None
        keys, values = rooms
        slots, blocks = slice(len(self)), blocks_for(self.width)
        return Shown(first, keys.array[slots, :, :blocks], values.first(slots, blocks * BLOCK), self.runs)

    def _rooms_like(self, layer: int, keys: mx.array, values: mx.array) -> tuple[Room, Room]:
        """Ours, made like those when there are none yet."""
        rooms = self._layers[layer]
        if rooms is None:
            rooms = self._layers[layer] = (Blocks if self._in_blocks else Tokens)(keys), Tokens(values)
            for room in rooms:
                room.resize(self.rows, self.tokens)
        return rooms


def room_for(there: tuple[int, int], rows: int, tokens: int, *, tight: bool) -> tuple[int, int]:
    """Of rows and tokens, what there is stays, unless it is too little or far too much; nothing more if ``tight``."""
    least = rows, rounded(tokens, TOKENS)
    if tight:
        return least
    ample = rounded(rows, ROWS) if least[1] <= SMALL else rows, least[1]
    enough = rows <= there[0] and tokens <= there[1]
    return there if enough and math.prod(there) <= 2 * math.prod(ample) else ample


def rounded(number: int, step: int) -> int:
    return -(-number // step) * step
