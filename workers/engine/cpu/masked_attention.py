"""Computes attention of whole texts under any mask on a CPU, where ``mx.fast`` has no kernel."""

import mlx.core as mx

from workers.engine.cpu.attention import NOTHING
from workers.engine.cpu.exp import LOG2_E, exp2


def masked_attention(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | None) -> mx.array:
    """Attention of float32 arrays (texts, heads, tokens, size). ``mask``: True for visible keys, None for all."""
    scores = (q * (scale * LOG2_E)) @ k.swapaxes(-1, -2)
    if mask is not None:
        scores = mx.where(mask, scores, NOTHING)
    weights = exp2(scores - scores.max(axis=-1, keepdims=True))
    return (weights @ v) / weights.sum(axis=-1, keepdims=True)
