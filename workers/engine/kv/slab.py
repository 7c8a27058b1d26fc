"""A slab: one array per layer for sequences of like lengths, each in a slot of its own.

A sequence's tokens begin at the start of its slot, so it joins with one write while a slot is free, and leaves with at
most one other sequence moved into its slot. mlx-lm's batch cache aligns sequences at their ends, which copies all
tokens whenever one joins or leaves: 70 ms each with 32 sequences of a 135M model on two cores, half a step.

Where the first sequences of a slab were prefilled side by side, as they shall lie there, the arrays of their pass
become the slab's: then no token is copied.

A layer with a window keeps its last tokens only: its slots are rings. The token at a position lies at the position's
remainder by the window, so a sequence that is shorter than the window lies as in a full layer, and a ring grows with
the slab until it is as long as the window.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import KVCache, RotatingKVCache

from workers.engine.kv.buffers import BlockBuffer, Ends, KVBuffer, TokenBuffer
from workers.engine.kv.footprint import capacity_for, rounded
from workers.engine.kv.key_blocks import BLOCK, blocks_for
from workers.engine.kv.length_groups import LengthGroup, length_groups_of
from workers.engine.kv.mlx_caches import TokenSpan, compact, cut_out_layer, rotating_layer
from workers.engine.kv.queries import Queries, queries_of
from workers.engine.kv.slab_attention import TokenView

MovedSlot = tuple[int, int, list[mx.array]]  # the layer, the new slot, and its keys and values


@dataclass(frozen=True)
class SlabView:
    """The keys (in blocks) and values of a slab that a pass attends to."""

    first: int  # the batch index of the first slot
    blocks: mx.array  # (rows, heads, blocks, size, BLOCK)
    values: mx.array  # (rows, heads, blocks * BLOCK, size)
    groups: list[LengthGroup]  # of the slab's slots
    several: list[Queries] | None = None  # of the groups, where a slot has more than one query


class Slab:
    """``windows``: by layer, the most tokens that it keeps; None for all of them.

    ``lengths``: tokens of the sequence in each used slot. ``rows`` and ``tokens``: the capacity of the buffers.
    """

    def __init__(self, windows: Sequence[int | None], *, in_blocks: bool) -> None:
        self.lengths: list[int] = []
        self.rows = self.tokens = 0
        self._windows = windows
        self._layers: list[tuple[KVBuffer, KVBuffer] | None] = [None] * len(windows)  # of keys and of values
        self._in_blocks = in_blocks
        self._adopts = False  # see ``begin_with``
        self._stale: dict[int, int] = {}  # by slot: tokens of an earlier sequence
        # By slot: the length before tokens of its sequence were taken back.
        self._taken_back: dict[int, int] = {}
        self._counts: Sequence[int] = ()  # tokens of each slot in this pass
        self._written: list[int] = []  # by slot: tokens before this pass
        # By window, of this pass; computed on first use.
        self._ends: dict[int | None, Ends] = {}
        self._groups: dict[int | None, list[LengthGroup]] = {}
        self._several: list[Queries] | None = None  # by length group
        self._together: Queries | None = None  # of all slots

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def width(self) -> int:
        return max(self.lengths)

    @property
    def groups(self) -> list[LengthGroup]:
        """The length groups of the sequences in this pass, in layers without a window."""
        return self._groups_within(None)

    def _groups_within(self, window: int | None) -> list[LengthGroup]:
        if window not in self._groups:
            kept = [_kept(length, window) for length in self.lengths]
            self._groups[window] = length_groups_of(kept, self._counts)
        return self._groups[window]

    def state(self, layer: int) -> list[mx.array]:
        return [buffer.array for buffer in self._layers[layer] or ()]

    @property
    def arrays(self) -> list[mx.array]:
        return [array for layer in range(len(self._layers)) for array in self.state(layer)]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    # ---- room

    def make_room(self, *, compact: bool) -> bool:
        """Sets the capacity for one more token per sequence; gives whether the layers must be resized."""
        before = self.rows, self.tokens
        self.rows, self.tokens = capacity_for(before, len(self), self.width + 1, compact=compact)
        return before != (self.rows, self.tokens)

    def begin_with(self, rows: int, tokens: int) -> None:
        """The slab is new; ``write`` is given arrays of this capacity, in the order of its slots, as theirs to keep.

        They have zeros behind each sequence, as it leaves them itself.
        """
        self.rows, self.tokens, self._adopts = rows, tokens, True

    def resize(self, layer: int) -> None:
        for buffer in self._layers[layer] or ():
            buffer.resize(self.rows, self._capacity(layer))

    def _capacity(self, layer: int) -> int:
        """Tokens of a slot: of a ring at most its window, in whole blocks."""
        window = self._windows[layer]
        return self.tokens if window is None else min(self.tokens, rounded(window, BLOCK))

    # ---- sequences come and go

    def write(
        self, layer: int, first: int, keys: mx.array, values: mx.array, spans: Sequence[TokenSpan]
    ) -> None:
        """Writes ``spans`` of other arrays to the slots from ``first`` on, as they shall lie there.

        Stale tokens behind them are cleared, because a masked NaN is still NaN.
        """
        most = self._capacity(layer)
        for buffer, tokens in zip(self._buffers_like(layer, keys, values), (keys, values), strict=True):
            alike = self._adopts and (tokens.shape[0], tokens.shape[2]) == (self.rows, most)
            if alike and buffer.adopt(tokens):
                continue
            for slot, span in enumerate(spans, first):
                there = slice(span.start, span.start + span.length)
                stale = min(self._stale.get(slot, 0), most)
                buffer.fill(slot, tokens[span.row : span.row + 1, :, there], stale)

    def write_window(self, layer: int, slot: int, source: Any) -> None:
        """Writes the last tokens of one sequence, from a cache whose tokens are in the order of their positions."""
        window = self._windows[layer]
        assert window is not None
        kept = _kept(source.offset, window)
        keys, values = (
            mx.roll(_last(array, kept), _turn(source.offset, window), 2)
            for array in (source.keys, source.values)
        )
        self.write(layer, slot, keys, values, [TokenSpan(0, 0, kept)])

    def begin_empty(self, layer: int, first: int) -> None:
        """Clears the slots from ``first`` on, for sequences without prefilled tokens."""
        if buffers := self._layers[layer]:
            keys, values = (buffer.first(slice(1), 0) for buffer in buffers)
            for slot in range(first, len(self)):
                self.write(layer, slot, keys, values, [TokenSpan(0, 0, 0)])

    def written(self, slots: Iterable[int]) -> None:
        """Marks slots as written in all layers, so without stale tokens."""
        self._adopts = False
        for slot in slots:
            self._stale.pop(slot, None)

    def order_with(self, slots: Sequence[int]) -> list[int]:
        """The new order if these slots are kept: the last sequences move into the gaps."""
        kept = set(slots)
        movers = [slot for slot in sorted(kept) if slot >= len(kept)]
        return [slot if slot in kept else movers.pop() for slot in range(len(kept))]

    def copies(self, order: Sequence[int]) -> list[MovedSlot]:
        """Copies of the sequences that move to come to this order; to be computed before ``keep``."""
        layers = [
            layer for layer, buffers in enumerate(self._layers) if buffers
        ]  # empty before the first prefill
        return [(layer, to, self._copies(layer, slot)) for slot, to in _moves(order) for layer in layers]

    def keep(self, order: Sequence[int], copies: Sequence[MovedSlot]) -> None:
        """Keeps the slots in ``order``."""
        moved = [to for _, to in _moves(order)]
        for slot in {*moved, *range(len(order), len(self))}:
            self._stale[slot] = max(self.lengths[slot], self._taken_back.pop(slot, 0))
        for layer, to, (keys, values) in copies:
            self.write(layer, to, keys, values, [TokenSpan(0, 0, keys.shape[2])])
        self.written(moved)
        self.lengths = [self.lengths[slot] for slot in order]

    def _copies(self, layer: int, slot: int) -> list[mx.array]:
        """The keys and the values of a slot, as they lie there."""
        kept = _kept(self.lengths[slot], self._windows[layer])
        return [compact(buffer.first(slice(slot, slot + 1), kept)) for buffer in self._layers[layer] or ()]

    def copy_of(self, layer: int, slot: int, start: int = 0) -> KVCache | RotatingKVCache:
        """A copy of a slot as the cache of one sequence; without a window from token ``start`` on."""
        buffers, length, window = self._layers[layer], self.lengths[slot], self._windows[layer]
        assert buffers
        if window is not None:
            turn = _turn(length, window)
            keys, values = (mx.roll(copy, -turn, 2) for copy in self._copies(layer, slot))
            return rotating_layer(keys, values, window, length)
        keys, values = (buffer.first(slice(slot, slot + 1), length) for buffer in buffers)
        return cut_out_layer(keys, values, TokenSpan(0, start, length - start))

    # ---- a pass

    def begin(self, counts: Sequence[int]) -> None:
        """Begins a pass that adds so many tokens to each sequence."""
        self._counts, self._written = counts, self.lengths
        self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]
        self._ends, self._groups, self._several, self._together = {}, {}, None, None

    def take_back(self, slot: int, tokens: int) -> None:
        """Drops the last tokens of a sequence; what they left is masked until it is overwritten."""
        self._taken_back[slot] = max(self.lengths[slot], self._taken_back.get(slot, 0))
        self.lengths[slot] -= tokens

    def put(self, layer: int, keys: mx.array, values: mx.array) -> None:
        """Writes the tokens of a pass in the order of their slots; ``keys``, ``values``: (tokens, heads, 1, size)."""
        for buffer, tokens in zip(self._buffers_like(layer, keys, values), (keys, values), strict=True):
            buffer.put(self._ends_within(self._windows[layer]), tokens)

    def _ends_within(self, window: int | None) -> Ends:
        if window not in self._ends:
            ends = [length % window if window else length for length in self._written]
            self._ends[window] = Ends(ends, self._counts)
        return self._ends[window]

    def keys_and_values(self, layer: int, tokens: int) -> tuple[mx.array, mx.array]:
        """Keys and values (rows, heads, tokens, size), with at most as many tokens as the buffers have."""
        buffers = self._layers[layer]
        assert buffers
        most = min(tokens, self._capacity(layer))
        keys, values = (buffer.first(slice(len(self)), most) for buffer in buffers)
        return keys, values

    def view(self, layer: int, first: int) -> SlabView | None:
        """``first``: the place of the slab's first token in the pass."""
        buffers, window = self._layers[layer], self._windows[layer]
        if not buffers or not isinstance(buffers[0], BlockBuffer):
            return None
        keys, values = buffers
        slots, blocks = slice(len(self)), blocks_for(_kept(self.width, window))
        groups = self._groups_within(window)
        return SlabView(
            *(first, keys.array[slots, :, :blocks], values.first(slots, blocks * BLOCK)),
            *(groups, self._queries(first, groups)),
        )

    def token_view(self, layer: int, rows: slice) -> TokenView:
        """``rows``: of the slab's tokens in the pass."""
        window = self._windows[layer]
        if self._together is None and max(self._counts, default=1) > 1:
            self._together = queries_of(rows.start, self._counts)
        keys, values = self.keys_and_values(layer, _kept(self.width, window))
        return TokenView(rows, keys, values, window, self._together)

    def _queries(self, first: int, groups: Sequence[LengthGroup]) -> list[Queries] | None:
        """None where each sequence has one, as where a layer has a window."""
        if self._several is None and max(self._counts, default=1) > 1:
            starts = list(accumulate(self._counts, initial=first))
            self._several = [
                queries_of(starts[group.rows.start], self._counts[group.rows]) for group in groups
            ]
        return self._several

    def _buffers_like(self, layer: int, keys: mx.array, values: mx.array) -> tuple[KVBuffer, KVBuffer]:
        """The buffers of a layer; the first call creates them with the shapes of ``keys`` and ``values``."""
        buffers = self._layers[layer]
        if buffers is None:
            buffers = self._layers[layer] = (
                (BlockBuffer if self._in_blocks else TokenBuffer)(keys),
                TokenBuffer(values),
            )
            for buffer in buffers:
                buffer.resize(self.rows, self._capacity(layer))
        return buffers


def _moves(order: Sequence[int]) -> list[tuple[int, int]]:
    """From which slot to which."""
    return [(slot, to) for to, slot in enumerate(order) if slot != to]


def _kept(length: int, window: int | None) -> int:
    return length if window is None else min(length, window)


def _last(tokens: mx.array, kept: int) -> mx.array:
    """A batch cache may lack the oldest token of a window, which the next pass hides: zeros stand for it."""
    there = tokens.shape[2]
    missing = max(0, kept - there)
    last = tokens[:, :, there - kept + missing :]
    return mx.pad(last, [(0, 0), (0, 0), (missing, 0), (0, 0)]) if missing else last


def _turn(length: int, window: int) -> int:
    """Where the oldest token of a ring lies."""
    return length % window if length > window else 0
