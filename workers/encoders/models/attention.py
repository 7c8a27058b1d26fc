"""Attention in both directions, for packed texts: each text looks at its own tokens, all of them or a window around.

Long texts are computed a block of queries at a time, and a window's block reads no more keys than it sees: memory
grows with the length, not with its square.
"""

from collections.abc import Callable

import mlx.core as mx

from workers.device import has_accelerator
from workers.encoders.models.packed import Group, Packed
from workers.engine.cpu.install import masked_attention

BLOCK = 512  # queries at a time; a text's own length alone decides where it is cut

Rotate = Callable[[mx.array], mx.array]  # (texts, heads, tokens, size) -> the same


def attention(
    packed: Packed,
    projected: tuple[mx.array, mx.array, mx.array],
    heads: int,
    window: int | None = None,
    rotate: Rotate = lambda x: x,
) -> mx.array:
    """``projected``: queries, keys and values, each (tokens, heads * size), as is the result.

    ``window``: the distance to the farthest token that is seen, to either side.
    """
    parts = zip(packed.groups, *map(packed.split, projected), strict=True)
    attended = []
    for group, queries, keys, values in parts:
        q, k, v = (_by_head(x, heads) for x in (queries, keys, values))
        out = _attend(group, rotate(q), rotate(k), v, window)
        attended.append(out.transpose(0, 2, 1, 3).reshape(queries.shape))
    return packed.joined(attended)


def _by_head(x: mx.array, heads: int) -> mx.array:
    texts, tokens, width = x.shape
    return x.reshape(texts, tokens, heads, width // heads).transpose(0, 2, 1, 3)


def _attend(group: Group, q: mx.array, k: mx.array, v: mx.array, window: int | None) -> mx.array:
    tokens, scale = q.shape[2], q.shape[3] ** -0.5
    own = group.key_mask() if group.is_padded else None
    if window is not None and window >= tokens - 1:
        window = None
    blocks = []
    for start in range(0, tokens, BLOCK):
        stop = min(start + BLOCK, tokens)
        first, last = (0, tokens) if window is None else (max(0, start - window), min(tokens, stop + window))
        mask = _mask(own, (start, stop), (first, last), window)
        some = q[:, :, start:stop]
        keys, values = k[:, :, first:last], v[:, :, first:last]
        blocks.append(_weighted(some, keys, values, scale, mask))
    return blocks[0] if len(blocks) == 1 else mx.concatenate(blocks, axis=2)


def _weighted(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | None) -> mx.array:
    """Each (texts, heads, tokens, size)."""
    if has_accelerator() or q.dtype != mx.float32:
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
    return masked_attention(q, k, v, scale, mask)


def _mask(
    own: mx.array | None, queries: tuple[int, int], keys: tuple[int, int], window: int | None
) -> mx.array | None:
    """True where a key is seen. Queries that are padding see padding too: nothing may become a NaN, which a weight of
    zero would not take away again."""
    seen = None
    if window is not None:
        at, of = mx.arange(*queries)[:, None], mx.arange(*keys)[None]
        seen = (mx.abs(at - of) <= window)[None, None]
    if own is None:
        return seen
    mine = own[:, None, None, slice(*keys)]
    if seen is None:
        return mine
    return (seen & mine) | ~own[:, None, slice(*queries), None]
