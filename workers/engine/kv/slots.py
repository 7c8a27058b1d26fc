"""The keys and values of the rows that decode together, on shelves: rows of like lengths share an array.

So a long row costs the short ones beside it neither memory nor the time in which room for it is made: eight rows of a
135M model had to wait for up to two seconds when one of 2,000 tokens joined them in one array, as wide as it.
"""

import math
import weakref
from collections.abc import Iterator, Sequence

import mlx.core as mx

from workers.device import has_accelerator
from workers.engine.kv.mlx_caches import Cache, Place
from workers.engine.kv.slab import TOKENS, Shelf, Shown, room_for, rounded
from workers.engine.pass_memo import begin_pass

ALIKE = 256  # tokens: what is shorter counts as so long
APART = 2  # times as long as another is too long for one shelf
WIDENED = 1.25  # times what two arrays take is too much for one
SHELVES = 8  # at most, as each costs a pass a few operations a layer


class Slots:
    """For models all of whose layers keep plain keys and values. The rows of a shelf stand beside each other.

    ``in_blocks``: so a CPU wants its keys, see ``key_blocks``. An accelerator wants one array: its attention is one
    operation for all rows.
    """

    def __init__(self, *, in_blocks: bool | None = None) -> None:
        self._in_blocks = not has_accelerator() if in_blocks is None else in_blocks
        self._most = SHELVES if self._in_blocks else 1
        self.tight = False
        self._shelves: list[Shelf] = []
        self._layers: list[SlotLayer] = []
        self.offset = mx.array([], dtype=mx.int32)
        self._uneven = False
        self.width = 0  # of what a pass looks at

    @property
    def layers(self) -> Cache:
        return self._layers

    @property
    def nbytes(self) -> int:
        return sum(shelf.nbytes for shelf in self._shelves)

    @property
    def shelves(self) -> Iterator[tuple[int, Shelf]]:
        """With the first row of each."""
        first = 0
        for shelf in self._shelves:
            yield first, shelf
            first += len(shelf)

    def join(self, read: Cache, places: Sequence[Place]) -> list[int]:
        self._layers = self._layers or [SlotLayer(self, number) for number in range(len(read))]
        before = {shelf: list(range(first, first + len(shelf))) for first, shelf in self.shelves}
        rows = sum(map(len, before.values()))
        joining: dict[Shelf, list[Place]] = {}
        for row, place in enumerate(places, rows):
            shelf = self._shelf_for(place.length)
            shelf.lengths.append(place.length)
            joining.setdefault(shelf, []).append(place)
            before.setdefault(shelf, []).append(row)
        grown = {shelf for shelf in joining if shelf.make_room(tight=self.tight)}
        for layer, source in enumerate(read):
            for shelf, some in joining.items():
                if shelf in grown:
                    shelf.resize(layer)
                first = len(shelf) - len(some)
                if source.keys is not None:
                    shelf.write(layer, first, source.keys, source.values, some)
                else:
                    shelf.begin_empty(layer, first)
            source.keys = source.values = None
            mx.eval([shelf.state(layer) for shelf in joining])
        for shelf in joining:
            shelf.written(range(len(shelf)))
        return [row for shelf in self._shelves for row in before[shelf]]

    def _shelf_for(self, length: int) -> Shelf:
        at = shelf_for([(len(shelf), shelf.width) for shelf in self._shelves], length, self._most)
        if at == len(self._shelves):
            self._shelves.append(Shelf(len(self._layers), in_blocks=self._in_blocks))
        return self._shelves[at]

    def keep(self, rows: Sequence[int]) -> list[int]:
        """On each shelf the last rows that stay fill the gaps."""
        order = []
        for first, shelf in list(self.shelves):
            end = first + len(shelf)
            order += [
                first + slot for slot in shelf.keep([row - first for row in rows if first <= row < end])
            ]
        self._shelves = [shelf for shelf in self._shelves if len(shelf)]
        return order

    def begin(self) -> None:
        """Its offsets are where the pass writes."""
        begin_pass()
        self.resize()
        lengths = [length for shelf in self._shelves for length in shelf.lengths]
        self.offset = mx.array(lengths, dtype=mx.int32)
        self.width = max(lengths) + 1
        self._uneven = min(lengths) + 1 < self.width
        for shelf in self._shelves:
            shelf.begin()

    def mask(self, window: int | None, *, wanted: bool) -> mx.array | None:
        """What each row may look at, (rows, 1, 1, width); None where that is everything, unless one is wanted."""
        window = self.width if window is None else window
        if not (self._uneven or window < self.width or wanted):
            return None
        there, here = mx.arange(self.width)[None], self.offset[:, None]
        seen = (there <= here) & (here < there + window)
        return seen[:, None, None, :]

    def cache_of(self, row: int, start: int = 0) -> Cache:
        first, shelf = next((at, shelf) for at, shelf in self.shelves if row < at + len(shelf))
        return [shelf.copy_of(layer, row - first, start) for layer in range(len(self._layers))]

    def room(self, joining: Sequence[int], more: int, *, tight: bool) -> list[tuple[int, int]]:
        there = [(shelf.rows, shelf.tokens) for shelf in self._shelves]
        then = [(len(shelf), shelf.width) for shelf in self._shelves]
        for length in joining:
            at = shelf_for(then, length, self._most)
            if at == len(then):
                there.append((0, 0))
                then.append((0, 0))
            rows, width = then[at]
            then[at] = rows + 1, max(width, length)
        return [
            room_for(size, rows, width + more, tight=tight)
            for size, (rows, width) in zip(there, then, strict=True)
        ]

    def least(self, tokens: int) -> int:
        return rounded(tokens, TOKENS)

    def resize(self) -> None:
        for shelf in self._shelves:
            if shelf.make_room(tight=self.tight):
                for layer in range(len(self._layers)):
                    shelf.resize(layer)


class SlotLayer:
    """One layer's, as mlx-lm's models use a cache."""

    def __init__(self, slots: Slots, number: int) -> None:
        self._slots = slots
        self._number = number
        # Weakly, as an array that somebody else holds is not written to in place.
        self._given: list[weakref.ref[mx.array]] = []

    @property
    def offset(self) -> mx.array:
        return self._slots.offset

    def in_blocks(self, keys: mx.array, values: mx.array) -> list[Shown] | None:
        """All rows' keys, shelf by shelf: if they are in blocks, and these are the arrays that the model was given.

        A model may attend to something else than what its cache keeps, as multi-head latent attention does.
        """
        given = [array() for array in self._given]
        if len(given) != 2 or given[0] is not keys or given[1] is not values:
            return None
        shown = [shelf.shown(self._number, first) for first, shelf in self._slots.shelves]
        return [each for each in shown if each is not None] or None

    def make_mask(
        self, n: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | None:
        assert n == 1
        return self._slots.mask(window_size, wanted=return_array)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """One token more for every row; gives those of all, see ``keys_and_values``."""
        for first, shelf in self._slots.shelves:
            rows = slice(first, first + len(shelf))
            shelf.put(self._number, keys[rows], values[rows])
        given = self.keys_and_values()
        self._given = [weakref.ref(array) for array in given]
        return given

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """(rows, heads, width, size), shorter rows padded; also for a layer that shares this one's."""
        parts = [shelf.keys_and_values(self._number, self._slots.width) for _, shelf in self._slots.shelves]
        all_keys, all_values = (self._beside_each_other(some) for some in zip(*parts, strict=True))
        return all_keys, all_values

    def _beside_each_other(self, parts: Sequence[mx.array]) -> mx.array:
        width = self._slots.width
        if len(parts) == 1:
            return parts[0]
        return mx.concatenate(
            [mx.pad(part, [(0, 0), (0, 0), (0, width - part.shape[2]), (0, 0)]) for part in parts]
        )

    @property
    def state(self) -> list[mx.array]:
        return [array for _, shelf in self._slots.shelves for array in shelf.state(self._number)]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.state)


def shelf_for(shelves: Sequence[tuple[int, int]], length: int, most: int) -> int:
    """Which of the shelves is for one more row; a new one behind the last.

    Of each shelf there are its rows, and the tokens of the longest.
    """

    def apart(width: int) -> float:
        less, more = sorted((max(width, ALIKE), max(length, ALIKE)))
        return more / less

    def takes_in(rows: int, width: int) -> bool:
        """Neither are they too far apart, nor would an array of its own take much less than to widen theirs for it."""
        wider = _size(rows + 1, max(width, length))
        return apart(width) <= APART and wider <= WIDENED * (_size(rows, width) + _size(1, length))

    nearest = sorted(range(len(shelves)), key=lambda at: apart(shelves[at][1]))
    found = next((at for at in nearest if takes_in(*shelves[at])), len(shelves))
    return nearest[0] if found == len(shelves) >= most else found


def _size(rows: int, tokens: int) -> int:
    return math.prod(room_for((0, 0), rows, tokens + 1, tight=False))
