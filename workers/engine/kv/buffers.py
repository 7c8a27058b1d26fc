"""Room for the keys, or the values, of a layer's rows: one array, with a slot for each row.

Two layouts of the same: token after token, and in blocks, as a CPU wants keys (see ``key_blocks``).
"""

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx

from workers.engine.kv.key_blocks import BLOCK, blocks_for, in_blocks, out_of_blocks


class Ends:
    """Where the next token of each slot goes, in one pass."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.slots = mx.arange(len(lengths))
        self.offsets = mx.array(list(lengths), dtype=mx.int32)
        self._numbers: dict[tuple[int, ...], mx.array] = {}

    def numbers(self, shape: tuple[int, ...]) -> mx.array:
        """Where in all of ``BlockBuffer`` of that shape its numbers are, in the order of (slots, heads, size)."""
        if shape not in self._numbers:
            _, heads, blocks, size, _ = shape
            offsets = self.offsets
            slots, block, token = (
                each[:, None, None] for each in (self.slots, offsets // BLOCK, offsets % BLOCK)
            )
            head, number = mx.arange(heads)[:, None], mx.arange(size)
            at = (((slots * heads + head) * blocks + block) * size + number).astype(mx.int64) * BLOCK + token
            self._numbers[shape] = at.reshape(-1)
        return self._numbers[shape]


class KVBuffer(Protocol):
    """``array`` has slots and heads as its first axes. Tokens come and go as (rows, heads, tokens, size)."""

    array: mx.array

    def resize(self, slots: int, tokens: int) -> None: ...

    def put(self, ends: Ends, tokens: mx.array) -> None:
        """One token for each slot."""
        ...

    def fill(self, slot: int, tokens: mx.array, stale: int) -> None:
        """The slot holds these tokens, and behind them nothing of the ``stale`` ones it held."""
        ...

    def first(self, slots: slice, tokens: int) -> mx.array: ...


class TokenBuffer:
    """(slots, heads, tokens, size)."""

    def __init__(self, like: mx.array) -> None:
        self.array = mx.zeros((0, like.shape[1], 0, like.shape[3]), dtype=like.dtype)

    def resize(self, slots: int, tokens: int) -> None:
        self.array = _resized(self.array, slots, tokens)

    def put(self, ends: Ends, tokens: mx.array) -> None:
        self.array[ends.slots, :, ends.offsets] = tokens[:, :, 0]

    def fill(self, slot: int, tokens: mx.array, stale: int) -> None:
        length = tokens.shape[2]
        self.array[slot : slot + 1, :, :length] = tokens
        if stale > length:
            self.array[slot : slot + 1, :, length:stale] = 0

    def first(self, slots: slice, tokens: int) -> mx.array:
        return self.array[slots, :, :tokens]


class BlockBuffer:
    """(slots, heads, blocks, size, BLOCK)."""

    def __init__(self, like: mx.array) -> None:
        self.array = mx.zeros((0, like.shape[1], 0, like.shape[3], BLOCK), dtype=like.dtype)

    def resize(self, slots: int, tokens: int) -> None:
        self.array = _resized(self.array, slots, blocks_for(tokens))

    def put(self, ends: Ends, tokens: mx.array) -> None:
        """One number at a time, as those of a token do not lie beside each other: four times as fast as a scatter."""
        shape, numbers = self.array.shape, self.array.reshape(-1)
        del self.array  # so that it is written to in place
        self.array = mx.put_along_axis(numbers, ends.numbers(shape), tokens.reshape(-1), axis=0).reshape(
            shape
        )

    def fill(self, slot: int, tokens: mx.array, stale: int) -> None:
        length = blocks_for(tokens.shape[2])
        self.array[slot : slot + 1, :, :length] = in_blocks(tokens)
        if blocks_for(stale) > length:
            self.array[slot : slot + 1, :, length : blocks_for(stale)] = 0

    def first(self, slots: slice, tokens: int) -> mx.array:
        return out_of_blocks(self.array[slots, :, : blocks_for(tokens)], tokens)


def _resized(old: mx.array, slots: int, length: int) -> mx.array:
    """Axes 0 and 2 are as long as asked for; what was there and fits stays."""
    new = mx.zeros((slots, old.shape[1], length, *old.shape[3:]), dtype=old.dtype)
    kept = min(old.shape[0], slots), min(old.shape[2], length)
    if all(kept):
        new[: kept[0], :, : kept[1]] = old[: kept[0], :, : kept[1]]
    return new
