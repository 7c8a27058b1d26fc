"""The KV store of the decode batch: sequences of like lengths share a slab.

A long sequence then costs short ones neither memory nor the time to grow their buffers. In one shared array, eight
sequences of a 135M model waited up to two seconds when a sequence of 2,000 tokens joined.
"""

import weakref
from collections.abc import Iterator, Sequence

import mlx.core as mx

from workers.device import has_accelerator
from workers.engine.kv.footprint import TOKENS, Slabs, SlabSize, rounded, slab_for
from workers.engine.kv.mlx_caches import Cache, TokenSpan
from workers.engine.kv.slab import Slab, SlabView
from workers.engine.pass_memo import begin_pass

SLABS = 8  # the largest number of slabs, because each adds some operations per layer


class Slots:
    """The decode caches of a model with full attention in all layers. A slab's sequences are adjacent in the batch.

    ``in_blocks``: keys are stored in blocks, for a CPU (see ``key_blocks``). An accelerator uses one slab, because its
    attention is one operation for all sequences.
    """

    def __init__(self, *, in_blocks: bool | None = None) -> None:
        self._in_blocks = not has_accelerator() if in_blocks is None else in_blocks
        self._most = SLABS if self._in_blocks else 1
        self.compact = False
        self._slabs: list[Slab] = []
        self._layers: list[SlotLayer] = []
        self.offset = mx.array([], dtype=mx.int32)
        self._uneven = False
        self._counts: list[int] = []  # tokens of each sequence in this pass
        self._rows: mx.array | None = None  # the sequence of each token, where one has several
        self.width = 0  # the keys that a pass attends to

    @property
    def layers(self) -> Cache:
        return self._layers

    @property
    def nbytes(self) -> int:
        return sum(slab.nbytes for slab in self._slabs)

    @property
    def slabs(self) -> Iterator[tuple[int, Slab]]:
        """The slabs, each with the batch index of its first sequence."""
        first = 0
        for slab in self._slabs:
            yield first, slab
            first += len(slab)

    def join(self, read: Cache, spans: Sequence[TokenSpan]) -> list[int]:
        self._layers = self._layers or [SlotLayer(self, number) for number in range(len(read))]
        before = {slab: list(range(first, first + len(slab))) for first, slab in self.slabs}
        rows = sum(map(len, before.values()))
        joining: dict[Slab, list[TokenSpan]] = {}
        for row, span in enumerate(spans, rows):
            slab = self._slab_for(span.length)
            slab.lengths.append(span.length)
            joining.setdefault(slab, []).append(span)
            before.setdefault(slab, []).append(row)
        grown = {slab for slab in joining if slab.make_room(compact=self.compact)}
        for layer, source in enumerate(read):
            for slab, some in joining.items():
                if slab in grown:
                    slab.resize(layer)
                first = len(slab) - len(some)
                if source.keys is not None:
                    slab.write(layer, first, source.keys, source.values, some)
                else:
                    slab.begin_empty(layer, first)
            source.keys = source.values = None
            mx.eval([slab.state(layer) for slab in joining])
        for slab in joining:
            slab.written(range(len(slab)))
        return [row for slab in self._slabs for row in before[slab]]

    def _slab_for(self, length: int) -> Slab:
        at = slab_for([(len(slab), slab.width) for slab in self._slabs], length, self._most)
        if at == len(self._slabs):
            self._slabs.append(Slab(len(self._layers), in_blocks=self._in_blocks))
        return self._slabs[at]

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Keeps these sequences; in each slab the last ones move into the gaps."""
        order = []
        for first, slab in list(self.slabs):
            end = first + len(slab)
            order += [first + slot for slot in slab.keep([row - first for row in rows if first <= row < end])]
        self._slabs = [slab for slab in self._slabs if len(slab)]
        return order

    def begin(self, counts: Sequence[int] | None = None) -> None:
        """Begins a decode pass; ``offset`` is the write position of each token.

        ``counts``: tokens of each sequence, each of which is a row of the pass; one of each if not given. ``room``
        tells what fits.
        """
        begin_pass()
        self.resize()
        lengths = [length for slab in self._slabs for length in slab.lengths]
        self._counts = list(counts or [1] * len(lengths))
        pairs = list(zip(lengths, self._counts, strict=True))
        offsets = [length + more for length, count in pairs for more in range(count)]
        several = len(offsets) > len(lengths)
        rows = [row for row, count in enumerate(self._counts) for _ in range(count)]
        self._rows = mx.array(rows, dtype=mx.int32) if several else None
        self.offset = mx.array(offsets, dtype=mx.int32)
        self.width = max(offsets) + 1
        self._uneven = min(offsets) + 1 < self.width
        for first, slab in self.slabs:
            slab.begin(self._counts[first : first + len(slab)])

    def room(self, row: int) -> int:
        """Tokens that a sequence can take in buffers as they are."""
        first, slab = self._slab_of(row)
        return slab.tokens - slab.lengths[row - first]

    def take_back(self, tokens: Sequence[int]) -> None:
        """Drops the last tokens of each sequence, so many of each."""
        for row, number in enumerate(tokens):
            if number:
                first, slab = self._slab_of(row)
                slab.take_back(row - first, number)

    @property
    def parts(self) -> Iterator[tuple[slice, Slab]]:
        """The slabs, each with its rows in this pass."""
        start = 0
        for first, slab in self.slabs:
            end = start + sum(self._counts[first : first + len(slab)])
            yield slice(start, end), slab
            start = end

    def by_token(self, array: mx.array) -> mx.array:
        """``array`` (sequences, ...) with one row for each token of the pass."""
        return array if self._rows is None else array[self._rows]

    def mask(self, window: int | None, *, wanted: bool) -> mx.array | None:
        """The mask (rows, 1, 1, width); None if everything is visible and no mask is ``wanted``."""
        window = self.width if window is None else window
        if not (self._uneven or window < self.width or wanted):
            return None
        there, here = mx.arange(self.width)[None], self.offset[:, None]
        seen = (there <= here) & (here < there + window)
        return seen[:, None, None, :]

    def cache_of(self, row: int, start: int = 0) -> Cache:
        first, slab = self._slab_of(row)
        return [slab.copy_of(layer, row - first, start) for layer in range(len(self._layers))]

    def _slab_of(self, row: int) -> tuple[int, Slab]:
        return next((at, slab) for at, slab in self.slabs if row < at + len(slab))

    def footprint(self) -> Slabs:
        sizes = (SlabSize(slab.rows, slab.tokens, tuple(slab.lengths)) for slab in self._slabs)
        return Slabs(tuple(sizes), self._most)

    def least(self, tokens: int) -> int:
        return rounded(tokens, TOKENS)

    def resize(self) -> None:
        for slab in self._slabs:
            if slab.make_room(compact=self.compact):
                for layer in range(len(self._layers)):
                    slab.resize(layer)


class SlotLayer:
    """One layer of ``Slots`` with the interface of an mlx-lm cache."""

    def __init__(self, slots: Slots, number: int) -> None:
        self._slots = slots
        self._number = number
        # Weak references, because mlx does not write in place to an array with another reference.
        self._given: list[weakref.ref[mx.array]] = []

    @property
    def offset(self) -> mx.array:
        return self._slots.offset

    def in_blocks(self, keys: mx.array, values: mx.array) -> list[SlabView] | None:
        """The slabs to attend to, or None if ``keys`` and ``values`` are not the arrays that this cache gave the model.

        A model may attend to other arrays than its cache holds, as multi-head latent attention does.
        """
        given = [array() for array in self._given]
        if len(given) != 2 or given[0] is not keys or given[1] is not values:
            return None
        view = [slab.view(self._number, rows.start) for rows, slab in self._slots.parts]
        return [each for each in view if each is not None] or None

    def make_mask(
        self, n: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | None:
        assert n == 1
        return self._slots.mask(window_size, wanted=return_array)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Appends the tokens of the pass and gives ``keys_and_values``."""
        for rows, slab in self._slots.parts:
            slab.put(self._number, keys[rows], values[rows])
        given = self.keys_and_values()
        self._given = [weakref.ref(array) for array in given]
        return given

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """Padded keys and values (rows, heads, width, size); also read by layers that share this layer's cache.

        A sequence with several tokens in the pass has as many rows.
        """
        parts = [slab.keys_and_values(self._number, self._slots.width) for _, slab in self._slots.slabs]
        beside = (self._beside_each_other(some) for some in zip(*parts, strict=True))
        all_keys, all_values = map(self._slots.by_token, beside)
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
        return [array for _, slab in self._slots.slabs for array in slab.state(self._number)]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.state)
