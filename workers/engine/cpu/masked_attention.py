"""Attention of whole texts under any mask, for a CPU, where ``mx.fast`` has no kernel and slow exponentials."""

import mlx.core as mx

from workers.engine.cpu.attention import NOTHING
from workers.engine.cpu.exp import LOG2_E, exp2


def masked_attention(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | None) -> mx.array:
    """Each (texts, heads, tokens, size), float32. ``mask``: True where a key is seen; None: everywhere."""
    scores = (q * (scale * LOG2_E)) @ k.swapaxes(-1, -2)
    if mask is not None:
        scores = mx.where(mask, scores, NOTHING)
    weights = exp2(scores - scores.max(axis=-1, keepdims=True))
    return (weights @ v) / weights.sum(axis=-1, keepdims=True)
