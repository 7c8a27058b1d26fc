"""A draw from the whole vocabulary that looks at a small part of it; for a CPU, in numpy.

The token with the greatest sum of scaled logit and noise wins, and it is found exactly. Noise has a loudest value, so
nothing can win whose logit is further than that below the best sum so far; and between there and the best logits only
noise can win that is louder than the distance, which its bits tell without a logarithm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from shared.protocol import Sampling
from workers.engine.candidates import Candidates, Floats, Ids, chosen, greatest, nearest
from workers.engine.randomness import LOUDEST, as_loud_as, gumbel

NEAR, MOST = 6.0, 256  # below the best logit, and so many: some dozen tokens as a rule


@dataclass(frozen=True)
class OpenDraw:
    """``tokens`` (rows,); ``near`` are all tokens of a row at or above its ``end``."""

    tokens: Ids
    near: Candidates
    end: Floats


def draw_open(scaled: Floats, keys: Ids, samplings: Sequence[Sampling]) -> Ids:
    """Rows that sample from the whole vocabulary, bounded by min_p at most.

    ``scaled`` (rows, vocabulary) is the caller's to give away, ``keys`` (rows, 2).
    """
    best = greatest(scaled)
    return search(scaled, best, keys, min_p_floors(best, samplings)).tokens


def min_p_floors(best: Floats, samplings: Sequence[Sampling]) -> Floats:
    """``best``: (rows,), each row's greatest logit; for a min_p of 0, e^-85 of it is no chance."""
    floors: Floats = best + np.log(np.array([max(s.min_p, 1e-37) for s in samplings], dtype=np.float32))
    return floors


def search(scaled: Floats, best: Floats, keys: Ids, floors: Floats) -> OpenDraw:
    """From all tokens at or above their row's of ``floors``."""
    near, end = nearest(scaled, np.maximum(best - np.float32(NEAR), floors), MOST)
    tokens, sums = near.winners(near.values + noise_of(near, keys))
    rivals = [
        np.append(_rivals(*row), token)
        for token, *row in zip(tokens, scaled, keys, end, floors, sums, strict=True)
    ]
    if any(len(those) > 1 for those in rivals):
        last = chosen(scaled, rivals)
        tokens, _ = last.winners(last.values + noise_of(last, keys))
    return OpenDraw(tokens, near, end)


def noise_of(tokens: Candidates, keys: Ids) -> Floats:
    noise: Floats = gumbel(keys[tokens.owners], tokens.ids[:, None])[:, 0]
    return noise


@cache
def _all_ids(vocabulary: int) -> Ids:
    return np.arange(vocabulary, dtype=np.uint32)


def _rivals(row: Floats, key: Ids, end: np.float32, floor: np.float32, best: np.float32) -> Ids:
    """The tokens below ``end`` whose noise may be loud enough to reach the sum ``best``, and maybe some above."""
    rounding = 1e-3 + 1e-6 * abs(float(best))
    least = max(float(best) - LOUDEST - rounding, float(floor))
    if not least < end:
        return np.zeros(0, np.uint32)
    level = float(best) - float(end) - rounding
    reach = row >= np.float32(least)
    if np.count_nonzero(reach) * 6 > len(row):  # to look at all costs less than to find those
        ids = _all_ids(len(row))
        return ids[as_loud_as(level, key, ids) & reach]
    ids = np.flatnonzero(reach).astype(np.uint32)
    return ids[as_loud_as(level, key, ids)]
