"""Draws among a row's best tokens only: top_k, top_p, min_p; for a CPU, in numpy.

Nothing is sorted. A token is drawn from the whole vocabulary and kept if it ranks among those that are let in; if not,
the next is drawn from the tokens that rank above it. That is the draw among those let in: noise belongs to a token, not
to a draw, and whoever ranks below a token that is out is out as well. A token's rank, and the mass above it, are sums
over the few that rank above it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.protocol import Sampling
from workers.engine.sampling.candidates import Candidates, Floats, Ids, bound, chosen, greatest
from workers.engine.sampling.sparse import OpenDraw, min_p_floors, noise_of, search

Flags = NDArray[np.bool_]


def draw_cut(scaled: Floats, keys: Ids, samplings: Sequence[Sampling]) -> Ids:
    """Rows with top_k or top_p. ``scaled`` (rows, vocabulary) is the caller's to give away, ``keys`` (rows, 2)."""
    best = greatest(scaled)
    drawn = search(scaled, best, keys, _floors(scaled, best, samplings))
    cuts = _Cuts(scaled, best, samplings)
    tokens = drawn.tokens
    pool = chosen(scaled, [_in_question(i, token, cuts, drawn) for i, token in enumerate(tokens)])
    while True:
        above = _above(pool, tokens)
        out = cuts.shut_out(pool, above)
        if not np.any(out):
            return tokens
        pool = pool.only(np.where(out[pool.owners], above, pool.ids == tokens[pool.owners]))
        tokens, _ = pool.winners(pool.values + noise_of(pool, keys))


def _floors(scaled: Floats, best: Floats, samplings: Sequence[Sampling]) -> Floats:
    """What lies below is out: by min_p, by top_k, or because too little mass lies there for a nucleus to reach it."""
    vocabulary = scaled.shape[-1]
    rest = np.array([max(1 - s.top_p, 1e-37) / vocabulary for s in samplings], dtype=np.float32)
    floors: Floats = np.maximum(min_p_floors(best, samplings), best + np.log(rest) - np.float32(0.01))
    for i, sampling in enumerate(samplings):
        if 0 < sampling.top_k < vocabulary:
            floors[i] = max(floors[i], bound(scaled[i], sampling.top_k))
    return floors


def _in_question(i: int, token: np.uint32, cuts: "_Cuts", drawn: OpenDraw) -> NDArray[np.generic]:
    """The tokens of row ``i`` that rank at or above the one drawn, and maybe more; it alone if it is let in."""
    row = cuts.scaled[i]
    if row[token] >= drawn.end[i]:
        return drawn.near.of_row(i)
    above = row > row[token]
    above[:token] |= row[:token] == row[token]
    if not cuts.row_shuts_out(i, above):
        return np.array([token])
    above[token] = True
    return np.flatnonzero(above)


def _above(pool: Candidates, tokens: Ids) -> Flags:
    """Which tokens rank above their row's of ``tokens``."""
    token = tokens[pool.owners]
    values = np.maximum.reduceat(np.where(pool.ids == token, pool.values, np.float32(-np.inf)), pool.starts)
    than = values[pool.owners]
    flags: Flags = (pool.values > than) | ((pool.values == than) & (pool.ids < token))
    return flags


class _Cuts:
    """What top_k and top_p let in. A whole row's mass is summed only when what was seen of it does not decide."""

    def __init__(self, scaled: Floats, best: Floats, samplings: Sequence[Sampling]) -> None:
        self.scaled = scaled
        self._best = best
        self._top_k = np.array([sampling.top_k or scaled.shape[-1] for sampling in samplings])
        self._top_p = np.array([sampling.top_p for sampling in samplings])
        self._mass = np.zeros(len(samplings))  # at least
        self._summed = self._top_p >= 1  # or does not matter

    def shut_out(self, pool: Candidates, above: Flags) -> Flags:
        """Whether a row's token is out, that has those with a flag above it. The best one is always in."""
        ranks = pool.sums(above)
        shares = np.exp(pool.values - self._best[pool.owners])
        held = pool.sums(shares * above)
        self._mass = np.maximum(self._mass, pool.sums(shares))
        for i in np.flatnonzero((held >= self._top_p * self._mass) & ~self._summed):
            self._sum(int(i))
        beyond = (held >= self._top_p * self._mass) & (self._top_p < 1)
        out: Flags = (ranks > 0) & ((ranks >= self._top_k) | beyond)
        return out

    def row_shuts_out(self, i: int, above: Flags) -> bool:
        """The same of one row, where many are above its token."""
        if np.count_nonzero(above) >= self._top_k[i]:
            return True
        if self._summed[i]:
            return False
        held = (self._sum(i) * above).sum(dtype=np.float64)
        return bool(held >= self._top_p[i] * self._mass[i])

    def _sum(self, i: int) -> Floats:
        """The row's shares of its mass."""
        shares: Floats = np.exp(self.scaled[i] - self._best[i])
        self._mass[i] = max(self._mass[i], shares.sum(dtype=np.float64))
        self._summed[i] = True
        return shares
