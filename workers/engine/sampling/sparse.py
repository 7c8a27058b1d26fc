"""Draws from the whole vocabulary while computing noise for few tokens; for a CPU, in numpy.

The token with the highest sum of scaled logit and noise wins, and it is found exactly. Noise is bounded, so a token
cannot win if its logit is further than the noise bound below the best sum so far. A token above that wins only with
noise larger than its distance; its hash shows that without a logarithm.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from shared.protocol import Sampling
from workers.engine.sampling.candidates import Candidates, Floats, Ids, above_floors, group_by_row, row_maxima
from workers.engine.sampling.randomness import NOISE_BOUND, gumbel, hashed, least_hash

TOGETHER = 40_000  # tokens hashed at once; they fit into a core's cache
NEAR, MOST = 6.0, 256  # candidates: logits up to 6 below the best, at most 256 tokens; some dozen as a rule


@dataclass(frozen=True)
class OpenDraw:
    """``tokens``: (rows,). ``near``: the tokens of each row at or above its ``end`` (rows,)."""

    tokens: Ids
    near: Candidates
    end: Floats


def draw_open(scaled: Floats, keys: Ids, samplings: Sequence[Sampling]) -> Ids:
    """Draws a token (rows,) of each row with neither top_k nor top_p.

    ``scaled`` (rows, vocabulary) may be written to; ``keys``: (rows, 2).
    """
    best = row_maxima(scaled)
    return search(scaled, best, keys, min_p_floors(best, samplings)).tokens


def min_p_floors(best: Floats, samplings: Sequence[Sampling]) -> Floats:
    """The least logits that min_p keeps (rows,). ``best``: the row maxima. min_p 0 becomes 1e-37."""
    floors: Floats = best + np.log(np.array([max(s.min_p, 1e-37) for s in samplings], dtype=np.float32))
    return floors


def search(scaled: Floats, best: Floats, keys: Ids, floors: Floats) -> OpenDraw:
    """Draws from the tokens at or above the floor of their row; ``best``: the row maxima."""
    near, end = above_floors(scaled, np.maximum(best - np.float32(NEAR), floors), MOST)
    tokens, sums = near.winners(near.values + noise_of(near, keys))
    owners, ids = _contenders(scaled, keys, end, floors, sums)
    if len(ids):
        last = group_by_row(scaled, np.append(np.arange(len(tokens)), owners), np.append(tokens, ids))
        tokens, _ = last.winners(last.values + noise_of(last, keys))
    return OpenDraw(tokens, near, end)


def noise_of(tokens: Candidates, keys: Ids) -> Floats:
    noise: Floats = gumbel(keys[tokens.owners], tokens.ids[:, None])[:, 0]
    return noise


def _contenders(
    scaled: Floats, keys: Ids, end: Floats, floors: Floats, sums: Floats
) -> tuple[NDArray[np.intp], Ids]:
    """Rows and ids of the tokens below ``end`` whose sum may reach ``sums``; a few of them cannot."""
    rounding = 1e-3 + 1e-6 * np.abs(sums)
    least = np.maximum(sums - np.float32(NOISE_BOUND) - rounding, floors)
    found = [_reaching(row, *to) for row, *to in zip(scaled, least, end, strict=True)]
    bits = least_hash(sums - end - rounding)
    noisy = [_noisy_enough(rows, found, keys, bits) for rows in _groups([len(some) for some in found])]
    owners, ids = (np.concatenate(parts) for parts in zip(*noisy, strict=True))
    kept = scaled[owners, ids] >= floors[owners]
    return owners[kept], ids[kept]


def _reaching(row: Floats, least: np.float32, end: np.float32) -> NDArray[np.generic]:
    """The ids of the values at or above ``least``; none if ``least`` is not below ``end``; all ids if they are many."""
    if not least < end:
        return _all_ids(0)
    reach = row >= least
    if np.count_nonzero(reach) * 6 > len(row):  # hashing all ids costs less than selecting them
        return _all_ids(len(row))
    return np.flatnonzero(reach)


def _noisy_enough(
    rows: NDArray[np.intp], found: Sequence[NDArray[np.generic]], keys: Ids, bits: Ids
) -> tuple[NDArray[np.intp], Ids]:
    """Rows and ids of the tokens ``found[row]`` whose hash is at least ``bits[row]``."""
    owners = np.repeat(rows, [len(found[i]) for i in rows])
    of_tokens = owners if len(rows) > 1 else rows
    ids = np.concatenate([found[i] for i in rows]).astype(np.uint32, copy=False)
    noisy = np.flatnonzero(hashed(ids, keys[of_tokens, 0], keys[of_tokens, 1]) >= bits[of_tokens])
    return owners[noisy], ids[noisy]


@cache
def _all_ids(vocabulary: int) -> Ids:
    return np.arange(vocabulary, dtype=np.uint32)


def _groups(counts: Sequence[int]) -> Iterator[NDArray[np.intp]]:
    """Splits the rows into runs with at most ``TOGETHER`` tokens each."""
    start = 0
    for stop in range(1, len(counts) + 1):
        if stop == len(counts) or sum(counts[start : stop + 1]) > TOGETHER:
            yield np.arange(start, stop)
            start = stop
