"""Log-probabilities: of drawn tokens among the rows that asked, and of a prompt's own tokens.

A token's value in ``chosen`` and in ``top`` is the same float: clients compare them with ``==``.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any, cast

import mlx.core as mx
import numpy as np

from workers.engine.kv.mlx_caches import Cache, evaluate
from workers.engine.sampling.candidates import Floats, Ids, best
from workers.engine.sampling.randomness import Array, library
from workers.sequence import LogprobsOf

SCORED = 128  # tokens whose logits are held at once while a prompt is scored


@dataclass(frozen=True)
class Best:
    """Arrays of (rows,), (rows, k), (rows, k), mlx's or numpy's; the best first, of equal ones the lower id."""

    chosen: Array
    ids: Array
    top: Array

    @property
    def arrays(self) -> list[Array]:
        return [self.chosen, self.ids, self.top]

    def entries(self) -> list[LogprobsOf]:
        chosen = cast(list[float], self.chosen.tolist())
        ids = cast(list[list[int]], self.ids.tolist())
        top = cast(list[list[float]], self.top.tolist())
        return [
            LogprobsOf(value, list(zip(near, values, strict=True)))
            for value, near, values in zip(chosen, ids, top, strict=True)
        ]


@dataclass(frozen=True)
class Unscored:
    """What log-probabilities are made of: ``logits`` (rows, vocabulary) in float32, ``tokens`` (rows,).

    At least one best is looked for.
    """

    logits: mx.array
    tokens: mx.array
    depth: int

    @property
    def arrays(self) -> list[mx.array]:
        return [self.logits, self.tokens]

    def entries(self) -> list[LogprobsOf]:
        return self.scored(library()).entries()

    def scored(self, xp: ModuleType) -> Best:
        depth = max(1, min(self.depth, self.logits.shape[-1]))
        if xp is np:
            return _by_numpy(np.asarray(self.logits), np.asarray(self.tokens), depth)
        return _by_mlx(self.logits, self.tokens, depth)


def _by_numpy(logits: Floats, tokens: Ids, depth: int) -> Best:
    """Row by row: one fits into a core's cache."""
    greatest = np.max(logits, axis=-1)
    room = np.empty(logits.shape[-1], dtype=np.float32)
    masses = [
        np.exp(np.subtract(row, most, room), room).sum() for row, most in zip(logits, greatest, strict=True)
    ]
    norms = greatest + np.log(np.array(masses))
    ids = np.array([best(row, depth) for row in logits])
    rows = np.arange(len(logits))
    return Best(logits[rows, tokens] - norms, ids, logits[rows[:, None], ids] - norms[:, None])


def _by_mlx(logits: mx.array, tokens: mx.array, depth: int) -> Best:
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    ids = mx.argsort(-logprobs, axis=-1)[:, :depth]  # stable, and what a partition is on an accelerator
    top = mx.take_along_axis(logprobs, ids, axis=-1)
    return Best(mx.take_along_axis(logprobs, tokens[:, None], axis=-1)[:, 0], ids, top)


def score_one(
    model: Any, cache: Cache, tokens: list[int], following: list[int], depth: int
) -> list[LogprobsOf]:
    """Reads ``tokens`` into the cache of one sequence, and says how likely ``following`` were.

    ``following[i]`` stands behind ``tokens[i]``; there may be fewer of them.
    """
    entries: list[LogprobsOf] = []
    for start in range(0, len(tokens), SCORED):
        part = tokens[start : start + SCORED]
        wanted = following[start : start + SCORED]
        logits = model(mx.array([part]), cache=cache)
        if wanted:
            unscored = Unscored(logits[0, : len(wanted)].astype(mx.float32), mx.array(wanted), depth)
            mx.eval(unscored.arrays)
            entries += unscored.entries()
        evaluate(cache)
    return entries
