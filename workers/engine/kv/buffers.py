"""KV buffers: one array per layer for the keys, and one for the values, with a slot for each sequence.

There are two layouts: token by token, and in blocks for the keys on a CPU (see ``key_blocks``).
"""

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx

from workers.engine.kv.key_blocks import BLOCK, blocks_for, in_blocks, out_of_blocks


class Ends:
    """The write positions of one pass: the next tokens of each slot, one of each without ``counts``."""

    def __init__(self, lengths: Sequence[int], counts: Sequence[int] | None = None) -> None:
        places = [
            (slot, length + more)
            for slot, (length, count) in enumerate(zip(lengths, counts or [1] * len(lengths), strict=True))
            for more in range(count)
        ]
        self.slots = mx.array([slot for slot, _ in places], dtype=mx.int32)
        self.offsets = mx.array([offset for _, offset in places], dtype=mx.int32)
        self._numbers: dict[tuple[int, ...], mx.array] = {}

    def numbers(self, shape: tuple[int, ...]) -> mx.array:
        """Flat indices of the written numbers in a ``BlockBuffer`` of ``shape``, in the order (slots, heads, size)."""
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
    """``array``: slots and heads are its first axes. Methods take and give tokens as (slots, heads, tokens, size)."""

    array: mx.array

    def resize(self, slots: int, tokens: int) -> None: ...

    def put(self, ends: Ends, tokens: mx.array) -> None:
        """Writes one token (rows, heads, 1, size) for each of ``ends``."""
        ...

    def fill(self, slot: int, tokens: mx.array, stale: int) -> None:
        """Writes ``tokens`` to a slot and clears what remains of the ``stale`` tokens it held."""
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
        """Writes single numbers, because a token's numbers are not adjacent; four times as fast as a scatter."""
        shape, numbers = self.array.shape, self.array.reshape(-1)
        del self.array  # drops the reference, so that mlx writes in place
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
    """Resizes axes 0 and 2 and keeps the contents that fit."""
    new = mx.zeros((slots, old.shape[1], length, *old.shape[3:]), dtype=old.dtype)
    kept = min(old.shape[0], slots), min(old.shape[2], length)
    if all(kept):
        new[: kept[0], :, : kept[1]] = old[: kept[0], :, : kept[1]]
    return new
