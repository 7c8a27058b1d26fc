"""A slab: one array per layer for sequences of like lengths, each in a slot of its own.

A sequence's tokens begin at the start of its slot, so it joins with one write while a slot is free, and leaves with at
most one other sequence moved into its slot. mlx-lm's batch cache aligns sequences at their ends, which copies all
tokens whenever one joins or leaves: 70 ms each with 32 sequences of a 135M model on two cores, half a step.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import mlx.core as mx
from mlx_lm.models.cache import KVCache

from workers.engine.kv.buffers import BlockBuffer, Ends, KVBuffer, TokenBuffer
from workers.engine.kv.footprint import capacity_for
from workers.engine.kv.key_blocks import BLOCK, blocks_for
from workers.engine.kv.length_groups import LengthGroup, length_groups_of
from workers.engine.kv.mlx_caches import TokenSpan, cut_out_layer


@dataclass(frozen=True)
class Queries:
    """The queries of a length group in a pass with several of some slots.

    ``each``: queries per slot, the last one repeated where a slot has fewer. ``rows`` (slots * each,): where they are
    in the pass. ``back``: where those of the pass are among them.
    """

    each: int
    rows: mx.array
    back: mx.array


def queries_of(first: int, counts: Sequence[int]) -> Queries:
    """``first``: the place of the first query in the pass. ``counts``: queries of each slot."""
    each, rows, back = max(counts), list[int](), list[int]()
    for count in counts:
        back += range(len(rows), len(rows) + count)
        rows += [first + min(number, count - 1) for number in range(each)]
        first += count
    return Queries(each, mx.array(rows, dtype=mx.int32), mx.array(back, dtype=mx.int32))


@dataclass(frozen=True)
class SlabView:
    """The keys (in blocks) and values of a slab that a pass attends to."""

    first: int  # the batch index of the first slot
    blocks: mx.array  # (rows, heads, blocks, size, BLOCK)
    values: mx.array  # (rows, heads, blocks * BLOCK, size)
    groups: list[LengthGroup]  # of the slab's slots
    several: "list[Queries] | None" = None  # of the groups, where a slot has more than one query


class Slab:
    """``lengths``: tokens in each used slot. ``rows`` and ``tokens``: the capacity of the buffers."""

    def __init__(self, layers: int, *, in_blocks: bool) -> None:
        self.lengths: list[int] = []
        self.rows = self.tokens = 0
        self._layers: list[tuple[KVBuffer, KVBuffer] | None] = [
            None
        ] * layers  # buffers of keys and of values
        self._in_blocks = in_blocks
        self._stale: dict[int, int] = {}  # by slot: tokens of an earlier sequence
        self._taken_back: dict[
            int, int
        ] = {}  # by slot: the length before tokens of its sequence were taken back
        self._counts: Sequence[int] = ()  # tokens of each slot in this pass
        self._ends = Ends([])
        self._groups: list[LengthGroup] | None = None  # of this pass; computed on first use
        self._several: list[Queries] | None = None  # likewise

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def width(self) -> int:
        return max(self.lengths)

    @property
    def groups(self) -> list[LengthGroup]:
        """The length groups of the sequences in this pass."""
        if self._groups is None:
            self._groups = length_groups_of(self.lengths)
        return self._groups

    def state(self, layer: int) -> list[mx.array]:
        return [buffer.array for buffer in self._layers[layer] or ()]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for layer in range(len(self._layers)) for array in self.state(layer))

    # ---- room

    def make_room(self, *, compact: bool) -> bool:
        """Sets the capacity for one more token per sequence; gives whether the layers must be resized."""
        before = self.rows, self.tokens
        self.rows, self.tokens = capacity_for(before, len(self), self.width + 1, compact=compact)
        return before != (self.rows, self.tokens)

    def resize(self, layer: int) -> None:
        for buffer in self._layers[layer] or ():
            buffer.resize(self.rows, self.tokens)
        mx.eval(self.state(layer))

    # ---- sequences come and go

    def write(
        self, layer: int, first: int, keys: mx.array, values: mx.array, spans: Sequence[TokenSpan]
    ) -> None:
        """Writes ``spans`` of other arrays to the slots from ``first`` on.

        Stale tokens behind them are cleared, because a masked NaN is still NaN.
        """
        for buffer, tokens in zip(self._buffers_like(layer, keys, values), (keys, values), strict=True):
            for slot, span in enumerate(spans, first):
                there = slice(span.start, span.start + span.length)
                buffer.fill(slot, tokens[span.row : span.row + 1, :, there], self._stale.get(slot, 0))

    def begin_empty(self, layer: int, first: int) -> None:
        """Clears the slots from ``first`` on, for sequences without prefilled tokens."""
        if buffers := self._layers[layer]:
            keys, values = (buffer.first(slice(1), 0) for buffer in buffers)
            for slot in range(first, len(self)):
                self.write(layer, slot, keys, values, [TokenSpan(0, 0, 0)])

    def written(self, slots: Iterable[int]) -> None:
        """Marks slots as written in all layers, so without stale tokens."""
        for slot in slots:
            self._stale.pop(slot, None)

    def keep(self, slots: Sequence[int]) -> list[int]:
        """Keeps these slots and gives their new order; the last sequences move into the gaps."""
        kept = set(slots)
        movers = [slot for slot in sorted(kept) if slot >= len(kept)]
        order = [slot if slot in kept else movers.pop() for slot in range(len(kept))]
        moves = [(slot, to) for to, slot in enumerate(order) if slot != to]
        for slot in {*(to for _, to in moves), *range(len(order), len(self))}:
            self._stale[slot] = max(self.lengths[slot], self._taken_back.pop(slot, 0))
        self._move(moves)
        self.lengths = [self.lengths[slot] for slot in order]
        return order

    def _move(self, moves: Sequence[tuple[int, int]]) -> None:
        """Starts all copies before any write, so that mlx may write in place."""
        layers = [
            layer for layer, buffers in enumerate(self._layers) if buffers
        ]  # empty before the first prefill
        taken = [(layer, to, self.copy_of(layer, slot)) for slot, to in moves for layer in layers]
        mx.async_eval([copy.state[:2] for _, _, copy in taken])
        for layer, to, copy in taken:
            keys, values, length = copy.state
            self.write(layer, to, keys, values, [TokenSpan(0, 0, length)])
        self.written(to for _, to in moves)

    def copy_of(self, layer: int, slot: int, start: int = 0) -> KVCache:
        """A copy of a slot's tokens from ``start`` on, as the cache of one sequence."""
        buffers, length = self._layers[layer], self.lengths[slot]
        assert buffers
        keys, values = (buffer.first(slice(slot, slot + 1), length) for buffer in buffers)
        return cut_out_layer(keys, values, TokenSpan(0, start, length - start))

    # ---- a pass

    def begin(self, counts: Sequence[int]) -> None:
        """Begins a pass that adds so many tokens to each sequence."""
        self._counts = counts
        self._ends = Ends(self.lengths, counts)
        self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]
        self._groups = self._several = None

    def take_back(self, slot: int, tokens: int) -> None:
        """Drops the last tokens of a sequence; what they left is masked until it is overwritten."""
        self._taken_back[slot] = max(self.lengths[slot], self._taken_back.get(slot, 0))
        self.lengths[slot] -= tokens

    def put(self, layer: int, keys: mx.array, values: mx.array) -> None:
        """Writes the tokens of a pass in the order of their slots; ``keys``, ``values``: (tokens, heads, 1, size)."""
        for buffer, tokens in zip(self._buffers_like(layer, keys, values), (keys, values), strict=True):
            buffer.put(self._ends, tokens)

    def keys_and_values(self, layer: int, tokens: int) -> tuple[mx.array, mx.array]:
        """Keys and values (rows, heads, tokens, size), with at most as many tokens as the buffers have."""
        buffers = self._layers[layer]
        assert buffers
        keys, values = (buffer.first(slice(len(self)), min(tokens, self.tokens)) for buffer in buffers)
        return keys, values

    def view(self, layer: int, first: int) -> SlabView | None:
        """``first``: the place of the slab's first token in the pass."""
        buffers = self._layers[layer]
        if not buffers or not isinstance(buffers[0], BlockBuffer):
            return None
        keys, values = buffers
        slots, blocks = slice(len(self)), blocks_for(self.width)
        return SlabView(
            *(first, keys.array[slots, :, :blocks], values.first(slots, blocks * BLOCK)),
            *(self.groups, self._queries(first)),
        )

    def _queries(self, first: int) -> list[Queries] | None:
        if self._several is None and max(self._counts, default=1) > 1:
            starts = list(accumulate(self._counts, initial=first))
            self._several = [
                queries_of(starts[group.rows.start], self._counts[group.rows]) for group in self.groups
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
                buffer.resize(self.rows, self.tokens)
        return buffers
