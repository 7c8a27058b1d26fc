"""A draw from the whole vocabulary that looks at a small part of it; for a CPU, in numpy.

The token with the greatest sum of scaled logit and noise wins, and it is found exactly. Noise has a loudest value, so
nothing can win whose logit is further than that below the best sum so far; and between there and the best logits only
noise can win that is louder than the distance, which its bits tell without a logarithm.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from shared.protocol import Sampling
from workers.engine.sampling.candidates import Candidates, Floats, Ids, greatest, listed, nearest
from workers.engine.sampling.randomness import NOISE_BOUND, gumbel, hashed, least_bits

TOGETHER = 40_000  # tokens
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
    owners, ids = _contenders(scaled, keys, end, floors, sums)
    if len(ids):
        last = listed(scaled, np.append(np.arange(len(tokens)), owners), np.append(tokens, ids))
        tokens, _ = last.winners(last.values + noise_of(last, keys))
    return OpenDraw(tokens, near, end)


def noise_of(tokens: Candidates, keys: Ids) -> Floats:
    noise: Floats = gumbel(keys[tokens.owners], tokens.ids[:, None])[:, 0]
    return noise


def _contenders(
    scaled: Floats, keys: Ids, end: Floats, floors: Floats, sums: Floats
) -> tuple[NDArray[np.intp], Ids]:
    """The tokens below ``end`` whose noise may be loud enough to reach ``sums``, and maybe more; and whose they are."""
    rounding = 1e-3 + 1e-6 * np.abs(sums)
    least = np.maximum(sums - np.float32(NOISE_BOUND) - rounding, floors)
    found = [_reaching(row, *to) for row, *to in zip(scaled, least, end, strict=True)]
    bits = least_bits(sums - end - rounding)
    noisy = [_noisy_enough(rows, found, keys, bits) for rows in _groups([len(some) for some in found])]
    owners, ids = (np.concatenate(parts) for parts in zip(*noisy, strict=True))
    kept = scaled[owners, ids] >= floors[owners]
    return owners[kept], ids[kept]


def _reaching(row: Floats, least: np.float32, end: np.float32) -> NDArray[np.generic]:
    """The ids of the values from ``least`` on, if these are more than those from ``end`` on; or all, if very many."""
    if not least < end:
        return _all_ids(0)
    reach = row >= least
    if np.count_nonzero(reach) * 6 > len(row):  # to look at all costs less than to find those
        return _all_ids(len(row))
    return np.flatnonzero(reach)


def _noisy_enough(
    rows: NDArray[np.intp], found: Sequence[NDArray[np.generic]], keys: Ids, bits: Ids
) -> tuple[NDArray[np.intp], Ids]:
    """Of the tokens ``found`` those with so many ``bits``, and whose they are."""
    owners = np.repeat(rows, [len(found[i]) for i in rows])
    of_tokens = owners if len(rows) > 1 else rows
    ids = np.concatenate([found[i] for i in rows]).astype(np.uint32, copy=False)
    noisy = np.flatnonzero(hashed(ids, keys[of_tokens, 0], keys[of_tokens, 1]) >= bits[of_tokens])
    return owners[noisy], ids[noisy]


@cache
def _all_ids(vocabulary: int) -> Ids:
    return np.arange(vocabulary, dtype=np.uint32)


def _groups(counts: Sequence[int]) -> Iterator[NDArray[np.intp]]:
    """Rows next to each other whose tokens fit into a core's cache together."""
    start = 0
    for stop in range(1, len(counts) + 1):
        if stop == len(counts) or sum(counts[start : stop + 1]) > TOGETHER:
            yield np.arange(start, stop)
            start = stop
