"""Log-probabilities: of drawn tokens among the rows that asked, and of a prompt's own tokens.

A token's value in ``chosen`` and in ``top`` is the same float: clients compare them with ``==``.
"""

from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx

from workers.engine.caches import Cache, evaluate
from workers.engine.rows import LogprobsOf

SCORED = 128  # tokens whose logits are held at once while a prompt is scored


@dataclass(frozen=True)
class Best:
    """Arrays of (rows,), (rows, k), (rows, k); the best first."""

    chosen: mx.array
    ids: mx.array
    top: mx.array

    @property
    def arrays(self) -> list[mx.array]:
        return [self.chosen, self.ids, self.top]

    def entries(self) -> list[LogprobsOf]:
        chosen = cast(list[float], self.chosen.tolist())
        ids = cast(list[list[int]], self.ids.tolist())
        top = cast(list[list[float]], self.top.tolist())
        return [
            LogprobsOf(value, list(zip(near, values, strict=True)))
            for value, near, values in zip(chosen, ids, top, strict=True)
        ]


def best_of(logits: mx.array, tokens: mx.array, depth: int) -> Best:
    """``logits`` (rows, vocabulary) in float32, ``tokens`` (rows,); at least one best is looked for."""
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    chosen = mx.take_along_axis(logprobs, tokens[:, None], axis=-1)[:, 0]
    depth = max(1, min(depth, logits.shape[-1] - 1))
    ids = mx.argpartition(-logprobs, depth, axis=-1)[:, :depth]
    top = mx.take_along_axis(logprobs, ids, axis=-1)
    order = mx.argsort(-top, axis=-1)
    return Best(chosen, mx.take_along_axis(ids, order, axis=-1), mx.take_along_axis(top, order, axis=-1))


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
            best = best_of(logits[0, : len(wanted)].astype(mx.float32), mx.array(wanted), depth)
            mx.eval(best.arrays)
            entries += best.entries()
        evaluate(cache)
    return entries
