"""Computes log-probabilities of drawn tokens and of prompt tokens.

A token has the same float in ``chosen`` and in ``top``, because clients compare them with ``==``.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any, cast

import mlx.core as mx
import numpy as np

from workers.engine.forward import forward
from workers.engine.kv.mlx_caches import Cache, evaluate
from workers.engine.sampling.candidates import Floats, Ids, top_ids
from workers.engine.sampling.randomness import Array, library
from workers.engine.sampling.shortlist import best_ids
from workers.sequence import TokenLogprobs

SCORE_CHUNK = 128  # prompt tokens whose logits are in memory at once


@dataclass(frozen=True)
class TopLogprobs:
    """mlx or numpy arrays: ``chosen`` (rows,); ``ids`` and ``top`` (rows, k), best first, equal values by id."""

    chosen: Array
    ids: Array
    top: Array

    @property
    def arrays(self) -> list[Array]:
        return [self.chosen, self.ids, self.top]

    def entries(self) -> list[TokenLogprobs]:
        chosen = cast(list[float], self.chosen.tolist())
        ids = cast(list[list[int]], self.ids.tolist())
        top = cast(list[list[float]], self.top.tolist())
        return [
            TokenLogprobs(value, list(zip(near, values, strict=True)))
            for value, near, values in zip(chosen, ids, top, strict=True)
        ]


@dataclass(frozen=True)
class UnscoredLogits:
    """Logits (rows, vocabulary) in float32 and drawn ``tokens`` (rows,), before log-probabilities are computed.

    ``depth``: how many best tokens are returned; 0 counts as 1.
    """

    logits: mx.array
    tokens: mx.array
    depth: int

    @property
    def arrays(self) -> list[mx.array]:
        return [self.logits, self.tokens]

    def entries(self) -> list[TokenLogprobs]:
        return self.scored(library()).entries()

    def scored(self, xp: ModuleType) -> TopLogprobs:
        depth = max(1, min(self.depth, self.logits.shape[-1]))
        if xp is np:
            return _by_numpy(np.asarray(self.logits), np.asarray(self.tokens), depth)
        return _by_mlx(self.logits, self.tokens, depth)


def _by_numpy(logits: Floats, tokens: Ids, depth: int) -> TopLogprobs:
    """Sums one row at a time, because a row fits into a core's cache."""
    maxima = np.max(logits, axis=-1)
    room = np.empty(logits.shape[-1], dtype=np.float32)
    masses = [
        np.exp(np.subtract(row, most, room), room).sum() for row, most in zip(logits, maxima, strict=True)
    ]
    norms = maxima + np.log(np.array(masses))
    ids = np.array([top_ids(row, depth) for row in logits])
    rows = np.arange(len(logits))
    return TopLogprobs(logits[rows, tokens] - norms, ids, logits[rows[:, None], ids] - norms[:, None])


def _by_mlx(logits: mx.array, tokens: mx.array, depth: int) -> TopLogprobs:
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    ids = best_ids(logprobs, depth)
    top = mx.take_along_axis(logprobs, ids, axis=-1)
    return TopLogprobs(mx.take_along_axis(logprobs, tokens[:, None], axis=-1)[:, 0], ids, top)


def score_prompt_tokens(
    model: Any, cache: Cache, tokens: list[int], following: list[int], depth: int
) -> list[TokenLogprobs]:
    """Prefills ``tokens`` into the cache of one sequence and gives the log-probabilities of ``following``.

    ``following[i]`` is the token after ``tokens[i]``; ``following`` may be shorter than ``tokens``.
    """
    entries: list[TokenLogprobs] = []
    for start in range(0, len(tokens), SCORE_CHUNK):
        part = tokens[start : start + SCORE_CHUNK]
        wanted = following[start : start + SCORE_CHUNK]
        logits = forward(model, mx.array([part]), cache)
        if wanted:
            unscored = UnscoredLogits(logits[0, : len(wanted)].astype(mx.float32), mx.array(wanted), depth)
            mx.eval(unscored.arrays)
            entries += unscored.entries()
        evaluate(cache)
    return entries
