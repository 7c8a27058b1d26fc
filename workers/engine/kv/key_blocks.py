"""Stores keys for a CPU in transposed blocks of 64 tokens: (size, BLOCK) instead of (BLOCK, size).

The BLAS multiplies few queries with such a block without repacking it; it would repack contiguous keys in every
product. Each score is summed in the order of the head's numbers, as in a product of many queries, so the results are
bit-identical (see ``matmul``).
"""

import mlx.core as mx

BLOCK = 64  # tokens


def blocks_for(tokens: int) -> int:
    return -(-tokens // BLOCK)


def in_blocks(keys: mx.array) -> mx.array:
    """(rows, heads, tokens, size) -> (rows, heads, blocks, size, BLOCK); zeros fill the last block."""
    rows, heads, tokens, size = keys.shape
    if missing := -tokens % BLOCK:
        keys = mx.pad(keys, [(0, 0), (0, 0), (0, missing), (0, 0)])
    return keys.reshape(rows, heads, blocks_for(tokens), BLOCK, size).swapaxes(-1, -2)


def out_of_blocks(blocks: mx.array, tokens: int) -> mx.array:
    """(rows, heads, blocks, size, BLOCK) -> (rows, heads, tokens, size)."""
    rows, heads, number, size, _ = blocks.shape
    return blocks.swapaxes(-1, -2).reshape(rows, heads, number * BLOCK, size)[:, :, :tokens]


def scores(queries: mx.array, blocks: mx.array) -> mx.array:
    """(rows, heads, queries, size) times blocks -> (rows, heads, queries, blocks * BLOCK)."""
    rows, heads, number = queries.shape[:3]
    return (queries[:, :, None] @ blocks).swapaxes(2, 3).reshape(rows, heads, number, -1)
