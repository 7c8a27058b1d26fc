"""The KV store of the decode batch: each layer has slots of its kind, and sequences of like lengths share a slab.

A long sequence then costs short ones neither memory nor the time to grow their buffers. In one shared array, eight
sequences of a 135M model waited up to two seconds when a sequence of 2,000 tokens joined.

Full layers and windows have their slots in the slabs; a recurrent layer has a row for each sequence (``state_rows``).
"""

import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache, CacheList

from workers.device import has_accelerator
from workers.engine.kv.copies import Copies, finish, settle
from workers.engine.kv.footprint import SMALL, TOKENS, Slabs, SlabSize, rounded, slab_for
from workers.engine.kv.mlx_caches import (
    Cache,
    TokenSpan,
    extract_state,
    extract_window,
    is_window,
    parts_of,
    window_of,
)
from workers.engine.kv.prefill_batch import PaddedPrefillLayer
from workers.engine.kv.slab import Slab, SlabView
from workers.engine.kv.slab_attention import TokenView, install, note
from workers.engine.kv.state_rows import StateRows, state_of

# The largest numbers of slabs, because each adds some operations per layer. On an accelerator launching them takes as
# long as the memory they save takes to read.
SLABS, SLABS_OF_ACCELERATOR = 8, 4


class Slots:
    """The decode caches of all layers. A slab's sequences are adjacent in the batch.

    ``in_blocks``: keys are stored in blocks, for a CPU (see ``key_blocks``). An accelerator attends to each slab by one
    operation (see ``slab_attention``); a model whose attention is another one gets one slab. So does a model in which
    no layer keeps all tokens (``by_length``).
    ``takes_back``: no layer has a ring or a state, in which a token leaves what cannot be undone.
    """

    joins_alone = True

    def __init__(
        self, *, in_blocks: bool | None = None, by_length: bool = True, takes_back: bool = True
    ) -> None:
        self.takes_back = takes_back
        self._in_blocks = not has_accelerator() if in_blocks is None else in_blocks
        self._most = (SLABS if self._in_blocks else SLABS_OF_ACCELERATOR) if by_length else 1
        self._noted = self._attended_by_slab = False  # see ``note``
        if not self._in_blocks:
            install()
        self.compact = False
        self._slabs: list[Slab] = []
        self._layers: Cache = []
        self._parts: list[SlotLayer | StateRows] = []  # the caches of all layers, in order
        self._windows: list[int | None] = []  # of the parts in the slabs
        self.offset = self._before = mx.array([], dtype=mx.int32)  # see ``begin``
        self._shortest = 0
        self._counts: list[int] = []  # tokens of each sequence in this pass
        self._rows: mx.array | None = None  # the sequence of each token, where one has several
        self.width = 0  # the tokens of the longest sequence in a pass

    @property
    def layers(self) -> Cache:
        return self._layers

    @property
    def nbytes(self) -> int:
        return sum(slab.nbytes for slab in self._slabs) + sum(state.row_bytes for state in self._states)

    @property
    def _states(self) -> list[StateRows]:
        return [part for part in self._parts if isinstance(part, StateRows)]

    @property
    def slabs(self) -> Iterator[tuple[int, Slab]]:
        """The slabs, each with the batch index of its first sequence."""
        first = 0
        for slab in self._slabs:
            yield first, slab
            first += len(slab)

    def join(self, read: Cache, spans: Sequence[TokenSpan]) -> list[int]:
        self._begin_layers(read)
        before = {slab: list(range(first, first + len(slab))) for first, slab in self.slabs}
        rows = sum(map(len, before.values()))
        joining: dict[Slab, list[TokenSpan]] = {}
        for row, span in enumerate(spans, rows):
            slab = self._slab_for(span.length)
            slab.lengths.append(span.length)
            joining.setdefault(slab, []).append(span)
            before.setdefault(slab, []).append(row)
        first, *others = joining
        adopted = _whole(read, spans) if not others and not first.rows else []
        if adopted:
            first.begin_with(adopted[0].shape[0], adopted[0].shape[2])
        grown = {slab for slab in joining if slab.make_room(compact=self.compact)}
        order = [row for slab in self._slabs for row in before[slab]]
        settle([*adopted, *(array for slab in joining.keys() - grown for array in slab.arrays)])
        del adopted
        copies = Copies()
        for part, source in zip(self._parts, parts_of(read), strict=True):
            if isinstance(part, StateRows):
                part.join([state_of(source, span.row if span.length else None) for span in spans], order)
                copies.start(part.arrays())
            else:
                part.join(source, joining, grown)
                copies.start([array for slab in joining for array in slab.state(part.number)])
        for slab in joining:
            slab.written(range(len(slab)))
        return order

    def _begin_layers(self, read: Cache) -> None:
        """Makes the layers like those of the first cache that joins."""
        if self._layers:
            return
        for source in parts_of(read):
            if isinstance(source, ArraysCache):
                self._parts.append(StateRows(len(source.cache)))
            else:
                self._parts.append(SlotLayer(self, len(self._windows), window_of(source)))
                self._windows.append(window_of(source))
        parts = iter(self._parts)
        self._layers = [
            tuple(next(parts) for _ in layer.caches) if isinstance(layer, CacheList) else next(parts)
            for layer in read
        ]

    def _slab_for(self, length: int) -> Slab:
        at = slab_for([(len(slab), slab.width) for slab in self._slabs], length, self._most)
        if at == len(self._slabs):
            self._slabs.append(Slab(self._windows, in_blocks=self._in_blocks))
        return self._slabs[at]

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Keeps these sequences; in each slab the last ones move into the gaps."""
        order, orders = [], list[tuple[Slab, list[int]]]()
        for first, slab in self.slabs:
            end = first + len(slab)
            own = slab.order_with([row - first for row in rows if first <= row < end])
            order += [first + slot for slot in own]
            orders.append((slab, own))
        slots = [(slab, own, slab.copies(own)) for slab, own in orders]
        states = [(state, state.copies(order)) for state in self._states]
        moved = [array for _, _, copies in slots for _, _, arrays in copies for array in arrays]
        finish([*moved, *(copy for _, copies in states for _, _, copy in copies)])
        for slab, own, moved_slots in slots:
            slab.keep(own, moved_slots)
        for state, moved_rows in states:
            state.keep(order, moved_rows)
        self._slabs = [slab for slab in self._slabs if len(slab)]
        return order

    def begin(self, counts: Sequence[int] | None = None) -> None:
        """Begins a decode pass; ``offset`` is the position of each token, the number of those before it.

        ``counts``: tokens of each sequence, each of which is a row of the pass; one of each if not given. ``room``
        tells what fits.
        """
        self.resize()
        if self._noted and not self._attended_by_slab:
            self._most = 1  # the model copies the slabs into one array anyway
        lengths = [length for slab in self._slabs for length in slab.lengths]
        self._counts = list(counts or [1] * len(lengths))
        pairs = list(zip(lengths, self._counts, strict=True))
        offsets = [length + more for length, count in pairs for more in range(count)]
        several = len(offsets) > len(lengths)
        rows = [row for row, count in enumerate(self._counts) for _ in range(count)]
        self._rows = mx.array(rows, dtype=mx.int32) if several else None
        self.offset = self._before = mx.array(offsets, dtype=mx.int32)
        self.width = max(offsets) + 1
        self._shortest = min(offsets) + 1
        for first, slab in self.slabs:
            slab.begin(self._counts[first : first + len(slab)])

    def room(self, row: int) -> int:
        """Tokens that a pass may add to a sequence in buffers as they are."""
        first, slab = self._slab_of(row)
        return slab.tokens - slab.lengths[row - first]

    def take_back(self, tokens: Sequence[int]) -> None:
        """Drops the last tokens of each sequence, so many of each."""
        for row, number in enumerate(tokens):
            if number:
                first, slab = self._slab_of(row)
                slab.take_back(row - first, number)

    @property
    def rows_of_slabs(self) -> Iterator[tuple[slice, Slab]]:
        """The slabs, each with its rows in this pass."""
        start = 0
        for first, slab in self.slabs:
            end = start + sum(self._counts[first : first + len(slab)])
            yield slice(start, end), slab
            start = end

    def note(self, layer: "SlotLayer", keys: mx.array, values: mx.array) -> None:
        """Lets an accelerator attend to the slabs in place of ``keys`` and ``values``, which ``layer`` gives."""
        if self._in_blocks or (len(self._slabs) == 1 and self._rows is None):
            return

        def views() -> list[TokenView]:
            self._attended_by_slab = True
            return [slab.token_view(layer.number, rows) for rows, slab in self.rows_of_slabs]

        note(keys, values, views)
        self._noted = True

    def by_token(self, array: mx.array) -> mx.array:
        """``array`` (sequences, ...) with one row for each token of the pass."""
        return array if self._rows is None else array[self._rows]

    def mask(self, window: int | None, ring: int | None, *, wanted: bool) -> mx.array | None:
        """The mask (rows, 1, 1, keys); None if everything is visible and no mask is ``wanted``.

        ``window``: the last tokens that are visible. ``ring``: the tokens that the layer keeps, each at the remainder
        of its position.
        """
        keys = self.width if ring is None else min(self.width, ring)
        window = keys if window is None else window
        if not (self._shortest < keys or window < keys or wanted):
            return None
        there, here = mx.arange(keys)[None], self._before[:, None]
        age = here - there if ring is None else (here - there + ring) % ring
        seen = (age >= 0) & (age <= here) & (age < window)
        return seen[:, None, None, :]

    def cache_of(self, row: int, start: int = 0) -> Cache:
        first, slab = self._slab_of(row)

        def copy_of(part: Any) -> Any:
            """Does not call itself: a function that does is a cycle, which would hold the slab until a collection."""
            if isinstance(part, StateRows):
                return extract_state(part, row)
            return slab.copy_of(part.number, row - first, start)

        return [
            CacheList(*map(copy_of, layer)) if isinstance(layer, tuple) else copy_of(layer)
            for layer in self._layers
        ]

    def _slab_of(self, row: int) -> tuple[int, Slab]:
        return next((at, slab) for at, slab in self.slabs if row < at + len(slab))

    def footprint(self) -> Slabs:
        sizes = (SlabSize(slab.rows, slab.tokens, tuple(slab.lengths)) for slab in self._slabs)
        return Slabs(tuple(sizes), self._most)

    def least(self, tokens: int) -> int:
        return rounded(tokens, TOKENS)

    def resize(self) -> None:
        copies = Copies()
        for slab in self._slabs:
            if slab.make_room(compact=self.compact):
                for layer in range(len(self._windows)):
                    slab.resize(layer)
                    copies.start(slab.state(layer))


class SlotLayer:
    """The keys and values of one layer with the interface of an mlx-lm cache.

    ``number``: among those in the slabs; ``window``: the tokens that it keeps of a sequence, None for all.
    """

    def __init__(self, slots: Slots, number: int, window: int | None) -> None:
        self._slots = slots
        self.number = number
        self._window = window
        # Weak references, because mlx does not write in place to an array with another reference.
        self._given: list[weakref.ref[mx.array]] = []

    def join(self, source: Any, joining: dict[Slab, list[TokenSpan]], grown: set[Slab]) -> None:
        """Writes what was prefilled to the last slots of the slabs, and lets go of it."""
        for slab, spans in joining.items():
            if slab in grown:
                slab.resize(self.number)
            first = len(slab) - len(spans)
            if source.keys is None:
                slab.begin_empty(self.number, first)
            elif is_window(source):
                for slot, span in enumerate(spans, first):
                    slab.write_window(self.number, slot, extract_window(source, span.row))
            else:
                slab.write(self.number, first, source.keys, source.values, spans)
        if isinstance(source, PaddedPrefillLayer):
            source.let_go()
        else:
            source.keys = source.values = None

    @property
    def offset(self) -> mx.array:
        return self._slots.offset

    def place(self, positions: mx.array) -> None:
        """Gives each token of this pass another position; it is written behind those before it all the same."""
        self._slots.offset = positions

    def in_blocks(self, keys: mx.array, values: mx.array) -> list[SlabView] | None:
        """The slabs to attend to, or None if ``keys`` and ``values`` are not the arrays that this cache gave the model.

        A model may attend to other arrays than its cache holds, as multi-head latent attention does.
        """
        given = [array() for array in self._given]
        if len(given) != 2 or given[0] is not keys or given[1] is not values:
            return None
        view = [slab.view(self.number, rows.start) for rows, slab in self._slots.rows_of_slabs]
        return [each for each in view if each is not None] or None

    def make_mask(
        self, n: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | None:
        assert n == 1
        return self._slots.mask(window_size, self._window, wanted=return_array)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Appends the tokens of the pass and gives ``keys_and_values``."""
        for rows, slab in self._slots.rows_of_slabs:
            slab.put(self.number, keys[rows], values[rows])
        given = self.keys_and_values()
        self._given = [weakref.ref(array) for array in given]
        return given

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """Padded keys and values (rows, heads, width, size); also read by layers that share this layer's cache.

        A sequence with several tokens in the pass has as many rows.
        """
        width = self._slots.width if self._window is None else min(self._slots.width, self._window)
        parts = [slab.keys_and_values(self.number, width) for _, slab in self._slots.slabs]
        beside = (_beside_each_other(some, width) for some in zip(*parts, strict=True))
        all_keys, all_values = map(self._slots.by_token, beside)
        self._slots.note(self, all_keys, all_values)
        return all_keys, all_values

    @property
    def state(self) -> list[mx.array]:
        return [array for _, slab in self._slots.slabs for array in slab.state(self.number)]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.state)


def _whole(read: Cache, spans: Sequence[TokenSpan]) -> list[mx.array]:
    """The keys and values of full layers, if ``spans`` are all their rows and they can be a slab's; else none."""
    full = [part for part in parts_of(read) if not isinstance(part, ArraysCache) and not is_window(part)]
    if not full or full[0].keys is None:
        return []
    rows, _, tokens, _ = full[0].keys.shape
    in_order = [(span.row, span.start) for span in spans] == [(row, 0) for row in range(rows)]
    if not in_order or tokens <= SMALL or tokens % TOKENS:
        return []
    return [array for part in full for array in (part.keys, part.values)]


def _beside_each_other(parts: Sequence[mx.array], width: int) -> mx.array:
    if len(parts) == 1:
        return parts[0]
    return mx.concatenate(
        [mx.pad(part, [(0, 0), (0, 0), (0, width - part.shape[2]), (0, 0)]) for part in parts]
    )
