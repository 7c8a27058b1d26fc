"""Draws tokens from the whole vocabulary of all rows at once; for an accelerator, in mlx.

Nothing here waits for the device: a top_p nucleus is cut out of all of a row, which is sorted in any case.
"""

from collections.abc import Sequence

import mlx.core as mx

from shared.protocol import Sampling
from workers.engine.sampling.randomness import gumbel
from workers.engine.sampling.shortlist import best_ids


def draw_open(scaled: mx.array, keys: mx.array, samplings: Sequence[Sampling]) -> mx.array:
    """Draws a token (rows,) of each row with neither top_k nor top_p. ``scaled``: (rows, vocabulary)."""
    noisy = scaled + gumbel(keys, mx.arange(scaled.shape[-1], dtype=mx.uint32)[None])
    if any(sampling.min_p > 0 for sampling in samplings):
        floor = mx.max(scaled, axis=-1, keepdims=True) + _log_min_p(samplings)
        noisy = mx.where(scaled >= floor, noisy, -mx.inf)
    return mx.argmax(noisy, axis=-1)


def draw_cut(scaled: mx.array, keys: mx.array, samplings: Sequence[Sampling]) -> mx.array:
    """Draws a token (rows,) of each row with top_k or top_p. ``scaled``: (rows, vocabulary)."""
    vocabulary = scaled.shape[-1]
    has_nucleus = any(sampling.top_p < 1 for sampling in samplings)
    cut = _Cut(scaled, keys, samplings, norm=_log_mass(scaled, exactly=has_nucleus))
    # To look whether fewer candidates hold the nucleus would wait for the device, and all are sorted anyway.
    most = vocabulary if has_nucleus else max(sampling.top_k for sampling in samplings)
    return cut.draw(min(most, vocabulary))


class _Cut:
    """Draws that keep only the best tokens of each row."""

    def __init__(
        self, scaled: mx.array, keys: mx.array, samplings: Sequence[Sampling], norm: mx.array
    ) -> None:
        self._samplings = samplings
        self._scaled = scaled
        self._keys = keys
        self._norm = norm
        self._top_p = mx.array([[sampling.top_p] for sampling in samplings])

    def draw(self, most: int) -> mx.array:
        """Tokens (rows,), drawn from the ``most`` best of each row."""
        best, ids = self._candidates(most)
        share = mx.exp(best - self._norm)
        mass = mx.cumsum(share, axis=-1)
        rank = mx.arange(most)[None]
        top_k = mx.array([[sampling.top_k or most] for sampling in self._samplings])
        keep = ((mass - share < self._top_p) | (self._top_p >= 1)) & (rank < top_k)
        keep = keep & (best >= best[:, :1] + _log_min_p(self._samplings))
        keep = keep | (rank == 0)  # the best token stays even with top_p 0
        noisy = mx.where(keep, best + gumbel(self._keys, ids), -mx.inf)
        return _winners(noisy, ids)

    def _candidates(self, most: int) -> tuple[mx.array, mx.array]:
        """The best logits in descending order and their ids, equal logits by ascending id; both (rows, most)."""
        ids = best_ids(self._scaled, most)
        return mx.take_along_axis(self._scaled, ids, axis=-1), ids


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
    return mx.log(mx.array([[max(sampling.min_p, 1e-37)] for sampling in samplings]))
