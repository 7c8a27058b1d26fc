"""KV buffers: one array per layer for the keys, and one for the values, with a slot for each sequence.

There are two layouts: token by token, and in blocks for the keys on a CPU (see ``key_blocks``).
"""

from collections.abc import Callable, Sequence
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
        self.count = len(lengths)
        even = len(places) == len(lengths) and len(set(lengths)) == 1
        self.even = lengths[0] if even else None  # the offset of all, if each slot has one token at the same
        self._numbers: dict[tuple[int, ...], mx.array] = {}

    def numbers(self, shape: tuple[int, ...]) -> mx.array:
        """Flat indices of the written numbers in a ``TokenBuffer`` of ``shape``, in the order (slots, heads, size)."""
        _, _, tokens, size = shape
        return self._of(shape, lambda head, offset: (head * tokens + offset) * size + mx.arange(size))

    def numbers_in_blocks(self, shape: tuple[int, ...]) -> mx.array:
        """As ``numbers``, in a ``BlockBuffer``."""
        _, _, blocks, size, _ = shape

        def at(head: mx.array, offset: mx.array) -> mx.array:
            block, token = offset // BLOCK, offset % BLOCK
            return ((head * blocks + block) * size + mx.arange(size)) * BLOCK + token

        return self._of(shape, at)

    def _of(self, shape: tuple[int, ...], at: Callable[[mx.array, mx.array], mx.array]) -> mx.array:
        """``at``: indices from the number of a head in the buffer (slots, heads, 1) and the offset (slots, 1, 1)."""
        if shape not in self._numbers:
            slots, offsets = (each[:, None, None].astype(mx.int64) for each in (self.slots, self.offsets))
            heads = slots * shape[1] + mx.arange(shape[1])[:, None]
            self._numbers[shape] = at(heads, offsets).reshape(-1)
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

    def adopt(self, array: mx.array) -> bool:
        """Takes an array of the same capacity for its own, if it is laid out so; gives whether."""
        ...


class TokenBuffer:
    """(slots, heads, tokens, size)."""

    def __init__(self, like: mx.array) -> None:
        self.array = mx.zeros((0, like.shape[1], 0, like.shape[3]), dtype=like.dtype)

    def resize(self, slots: int, tokens: int) -> None:
        self.array = _resized(self.array, slots, tokens)

    def put(self, ends: Ends, tokens: mx.array) -> None:
        """One operation where all slots are written at one offset; else single numbers, see ``BlockBuffer``."""
        if ends.even is not None:
            self.array[: ends.count, :, ends.even : ends.even + 1] = tokens
        else:
            _put_numbers(self, ends.numbers(self.array.shape), tokens)

    def fill(self, slot: int, tokens: mx.array, stale: int) -> None:
        length = tokens.shape[2]
        self.array[slot : slot + 1, :, :length] = tokens
        if stale > length:
            self.array[slot : slot + 1, :, length:stale] = 0

    def first(self, slots: slice, tokens: int) -> mx.array:
        return self.array[slots, :, :tokens]

    def adopt(self, array: mx.array) -> bool:
        self.array = array
        return True


class BlockBuffer:
    """(slots, heads, blocks, size, BLOCK)."""

    def __init__(self, like: mx.array) -> None:
        self.array = mx.zeros((0, like.shape[1], 0, like.shape[3], BLOCK), dtype=like.dtype)

    def resize(self, slots: int, tokens: int) -> None:
        self.array = _resized(self.array, slots, blocks_for(tokens))

    def put(self, ends: Ends, tokens: mx.array) -> None:
        """Writes single numbers, because a token's numbers are not adjacent; four times as fast as a scatter."""
        _put_numbers(self, ends.numbers_in_blocks(self.array.shape), tokens)

    def fill(self, slot: int, tokens: mx.array, stale: int) -> None:
        length = blocks_for(tokens.shape[2])
        self.array[slot : slot + 1, :, :length] = in_blocks(tokens)
        if blocks_for(stale) > length:
            self.array[slot : slot + 1, :, length : blocks_for(stale)] = 0

    def first(self, slots: slice, tokens: int) -> mx.array:
        return out_of_blocks(self.array[slots, :, : blocks_for(tokens)], tokens)

    def adopt(self, array: mx.array) -> bool:
        return False


def _put_numbers(buffer: KVBuffer, at: mx.array, tokens: mx.array) -> None:
    """Four operations, where an indexed assignment takes fifteen."""
    shape, numbers = buffer.array.shape, buffer.array.reshape(-1)
    del buffer.array  # drops the reference, so that mlx writes in place
    buffer.array = mx.put_along_axis(numbers, at, tokens.reshape(-1), axis=0).reshape(shape)


def _resized(old: mx.array, slots: int, length: int) -> mx.array:
    """Resizes axes 0 and 2 and keeps the contents that fit."""
    new = mx.zeros((slots, old.shape[1], length, *old.shape[3:]), dtype=old.dtype)
    kept = min(old.shape[0], slots), min(old.shape[2], length)
    if all(kept):
        new[: kept[0], :, : kept[1]] = old[: kept[0], :, : kept[1]]
    return new
