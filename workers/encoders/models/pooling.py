"""Pools a text's last hidden states into one vector, by sentence-transformers' modes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx

Pool = Callable[[mx.array, mx.array], mx.array]  # hidden (texts, tokens, size), weights (texts, tokens, 1)


def _first(hidden: mx.array, weights: mx.array) -> mx.array:
    """The first token of the text, also where a prompt's tokens are not pooled."""
    return hidden[:, 0]


def _max(hidden: mx.array, weights: mx.array) -> mx.array:
    return mx.where(weights > 0, hidden, -mx.inf).max(axis=1)


def _mean(hidden: mx.array, weights: mx.array) -> mx.array:
    return (hidden * weights).sum(axis=1) / mx.maximum(weights.sum(axis=1), 1e-9)


def _mean_by_root(hidden: mx.array, weights: mx.array) -> mx.array:
    return (hidden * weights).sum(axis=1) / mx.sqrt(mx.maximum(weights.sum(axis=1), 1e-9))


def _weighted_mean(hidden: mx.array, weights: mx.array) -> mx.array:
    """The later a token, the more it counts (SGPT)."""
    return _mean(hidden, weights * mx.arange(1, hidden.shape[1] + 1)[None, :, None])


def _last(hidden: mx.array, weights: mx.array) -> mx.array:
    at = (weights > 0) * mx.arange(hidden.shape[1])[None, :, None]
    return mx.take_along_axis(hidden, at.max(axis=1, keepdims=True), axis=1)[:, 0]


MODES: dict[str, Pool] = {
    "cls": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_by_root,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
"""The pooling modes, in the order in which several are concatenated."""


@dataclass(frozen=True)
class Pooling:
    """``modes``: of MODES; the results of several are joined."""

    modes: tuple[str, ...]

    def __call__(self, hidden: mx.array, lengths: Sequence[int], skipped: Sequence[int]) -> mx.array:
        """(texts, tokens, size) -> (texts, size * modes). ``skipped``: a text's first tokens that do not count."""
        at = mx.arange(hidden.shape[1])[None]
        counted = (at < mx.array(list(lengths))[:, None]) & (at >= mx.array(list(skipped))[:, None])
        weights = counted[..., None].astype(mx.float32)
        pooled = [MODES[mode](hidden, weights) for mode in MODES if mode in self.modes]
        return pooled[0] if len(pooled) == 1 else mx.concatenate(pooled, axis=-1)


def normalised(vectors: mx.array) -> mx.array:
    """Normalises vectors to length 1; a zero vector stays zero."""
    return vectors / mx.maximum(mx.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
