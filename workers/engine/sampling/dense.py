"""Draws tokens from the whole vocabulary of all rows at once; for an accelerator, in mlx.

Nothing here waits for the device: a top_p nucleus is cut out of all of a row, which is sorted in any case.
"""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from shared.protocol import Sampling
from workers.engine.sampling.fused import Fused
from workers.engine.sampling.randomness import noise
from workers.engine.sampling.shortlist import best_ids


def draw_open(scaled: mx.array, keys: mx.array, samplings: Sequence[Sampling]) -> mx.array:
    """Draws a token (rows,) of each row with neither top_k nor top_p. ``scaled``: (rows, vocabulary)."""
    ids = mx.arange(scaled.shape[-1], dtype=mx.uint32)[None]
    if not any(sampling.min_p > 0 for sampling in samplings):
        return best_with_noise(scaled, keys[:, :1], keys[:, 1:], ids)
    floor = mx.max(scaled, axis=-1, keepdims=True) + _log_min_p(samplings)
    return best_above_floor(scaled, keys[:, :1], keys[:, 1:], ids, floor)


def draw_cut(scaled: mx.array, keys: mx.array, samplings: Sequence[Sampling]) -> mx.array:
    """Draws a token (rows,) of each row with top_k or top_p. ``scaled``: (rows, vocabulary).

    To look whether fewer candidates hold a nucleus would wait for the device, so it is cut out of all.
    """
    vocabulary = scaled.shape[-1]
    has_nucleus = any(sampling.top_p < 1 for sampling in samplings)
    most = vocabulary if has_nucleus else min(vocabulary, _enough(samplings))
    ids = best_ids(scaled, most)
    top_p = mx.array([[sampling.top_p] for sampling in samplings])
    top_k = mx.array([[sampling.top_k or most] for sampling in samplings])
    norm = _log_mass(scaled, exactly=has_nucleus)
    best = mx.take_along_axis(scaled, ids, axis=-1)
    return best_of_cut(best, keys[:, :1], keys[:, 1:], ids, norm, top_p, top_k, _log_min_p(samplings))


def _enough(samplings: Sequence[Sampling]) -> int:
    """Candidates for any top_k; a power of two, because MLX keeps what it traced of each shape for ever."""
    return 1 << (max(sampling.top_k for sampling in samplings) - 1).bit_length()


def _best_with_noise(scaled: mx.array, low: mx.array, high: mx.array, ids: mx.array) -> mx.array:
    return mx.argmax(scaled + noise(low, high, ids), axis=-1)


def _best_above_floor(
    scaled: mx.array, low: mx.array, high: mx.array, ids: mx.array, floor: mx.array
) -> mx.array:
    return mx.argmax(mx.where(scaled >= floor, scaled + noise(low, high, ids), -mx.inf), axis=-1)


def _best_of_cut(
    best: mx.array,
    low: mx.array,
    high: mx.array,
    ids: mx.array,
    norm: mx.array,
    top_p: mx.array,
    top_k: mx.array,
    log_min_p: mx.array,
) -> mx.array:
    """``best``, ``ids`` (rows, n): logits in descending order, and their ids; the others (rows, 1)."""
    share = mx.exp(best - norm)
    mass = mx.cumsum(share, axis=-1)
    rank = mx.arange(best.shape[-1])[None]
    keep = ((mass - share < top_p) | (top_p >= 1)) & (rank < top_k)
    keep = keep & (best >= best[:, :1] + log_min_p)
    keep = keep | (rank == 0)  # the best token stays even with top_p 0
    return _winners(mx.where(keep, best + noise(low, high, ids), -mx.inf), ids)


def _example() -> list[mx.array]:
    """Logits (2, n), the words of keys (2, 1) and ids (1, n)."""
    logits = mx.random.normal((2, 1 << 15), key=mx.random.key(0)) * 4
    words = [mx.array([[one], [other]], dtype=mx.uint32) for one, other in ((1, 0xFFFFFFFF), (0x9E3779B9, 0))]
    return [logits, *words, mx.arange(1 << 15, dtype=mx.uint32)[None]]


def _example_with_floor() -> list[mx.array]:
    return [*_example(), mx.array([[0.0], [9.0]])]


def _example_of_cut() -> list[mx.array]:
    logits, *words, ids = _example()
    best = -mx.sort(-logits, axis=-1)
    ids = mx.broadcast_to(ids, best.shape)
    columns = mx.logsumexp(best, axis=-1, keepdims=True), mx.array([[0.9], [0.5]])
    return [best, *words, ids, *columns, mx.array([[1 << 15], [40]]), mx.array([[-3.0], [-80.0]])]


best_with_noise = Fused(_best_with_noise, _example)
best_above_floor = Fused(_best_above_floor, _example_with_floor)
best_of_cut = Fused(_best_of_cut, _example_of_cut)


def _winners(noisy: mx.array, ids: mx.array) -> mx.array:
    """The id of the highest sum of each row; of equal sums the lowest id, as argmax over the vocabulary gives."""
    is_best = noisy == mx.max(noisy, axis=-1, keepdims=True)
    return mx.min(mx.where(is_best, ids.astype(mx.uint32), mx.array(0xFFFFFFFF, dtype=mx.uint32)), axis=-1)


def _log_mass(scaled: mx.array, *, exactly: bool) -> mx.array:
    """The logsumexp of each row (rows, 1). Without ``exactly`` the row maximum stands in, as only top_p needs more."""
    maxima = mx.max(scaled, axis=-1, keepdims=True)
    if not exactly:
        return maxima
    return maxima + mx.log(mx.sum(mx.exp(scaled - maxima), axis=-1, keepdims=True))


def _log_min_p(samplings: Sequence[Sampling]) -> mx.array:
    """log(min_p) (rows, 1); min_p 0 becomes 1e-37, which no draw can tell from 0."""
    return mx.array(np.log(np.array([[max(sampling.min_p, 1e-37)] for sampling in samplings], np.float32)))
