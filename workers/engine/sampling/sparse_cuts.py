"""Draws with top_k, top_p and min_p; for a CPU, in numpy, without sorting.

A token is drawn from the whole vocabulary and accepted if top_k and top_p keep it. If they exclude it, the next token
is drawn from the tokens that rank above it. This equals a draw among the kept tokens: a token has the same noise in
each draw, and each token that ranks below an excluded one is excluded too. The rank of a token and the mass above it
are sums over the few tokens that rank above it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.protocol import Sampling
from workers.engine.sampling.candidates import Candidates, Floats, Ids, candidates_of, lower_bound, row_maxima
from workers.engine.sampling.sparse import OpenDraw, min_p_floors, noise_of, search

Flags = NDArray[np.bool_]


def draw_cut(scaled: Floats, keys: Ids, samplings: Sequence[Sampling]) -> Ids:
    """Draws a token (rows,) of each row with top_k or top_p.

    ``scaled`` (rows, vocabulary) may be written to; ``keys``: (rows, 2).
    """
    best = row_maxima(scaled)
    drawn = search(scaled, best, keys, _floors(scaled, best, samplings))
    cuts = _Cuts(scaled, best, samplings)
    tokens = drawn.tokens
    pool = candidates_of(scaled, [_ranked_from(i, token, cuts, drawn) for i, token in enumerate(tokens)])
    while True:
        above = _ranks_above(pool, tokens)
        excluded = cuts.excludes(pool, above)
        if not np.any(excluded):
            return tokens
        pool = pool.select(np.where(excluded[pool.owners], above, pool.ids == tokens[pool.owners]))
        tokens, _ = pool.winners(pool.values + noise_of(pool, keys))


def _floors(scaled: Floats, best: Floats, samplings: Sequence[Sampling]) -> Floats:
    """Logits (rows,) below which min_p or top_k excludes a token, or no top_p nucleus reaches it."""
    vocabulary = scaled.shape[-1]
    rest = np.array([max(1 - s.top_p, 1e-37) / vocabulary for s in samplings], dtype=np.float32)
    floors: Floats = np.maximum(min_p_floors(best, samplings), best + np.log(rest) - np.float32(0.01))
    for i, sampling in enumerate(samplings):
        if 0 < sampling.top_k < vocabulary:
            floors[i] = max(floors[i], lower_bound(scaled[i], sampling.top_k))
    return floors


def _ranked_from(i: int, token: np.uint32, cuts: "_Cuts", drawn: OpenDraw) -> NDArray[np.generic]:
    """The tokens of row ``i`` that rank at or above ``token``, and maybe more; only ``token`` if it is kept."""
    row = cuts.scaled[i]
    if row[token] >= drawn.end[i]:
        return drawn.near.ids_of_row(i)
    above = row > row[token]
    above[:token] |= row[:token] == row[token]
    if not cuts.excludes_in_row(i, above):
        return np.array([token])
    above[token] = True
    return np.flatnonzero(above)


def _ranks_above(pool: Candidates, tokens: Ids) -> Flags:
    """Flags of the tokens in ``pool`` that rank above the token of their row in ``tokens``."""
    token = tokens[pool.owners]
    values = np.maximum.reduceat(np.where(pool.ids == token, pool.values, np.float32(-np.inf)), pool.starts)
    value = values[pool.owners]
    flags: Flags = (pool.values > value) | ((pool.values == value) & (pool.ids < token))
    return flags


class _Cuts:
    """What top_k and top_p keep. The mass of a whole row is summed only if the candidates' mass does not decide."""

    def __init__(self, scaled: Floats, best: Floats, samplings: Sequence[Sampling]) -> None:
        self.scaled = scaled
        self._best = best
        self._top_k = np.array([sampling.top_k or scaled.shape[-1] for sampling in samplings])
        self._top_p = np.array([sampling.top_p for sampling in samplings])
        self._mass = np.zeros(len(samplings))  # lower bounds
        self._summed = self._top_p >= 1  # true also where top_p does not cut

    def excludes(self, pool: Candidates, above: Flags) -> Flags:
        """Whether each row's drawn token is excluded (rows,). ``above``: flags of the tokens that rank above it."""
        ranks = pool.sums(above)
        shares = np.exp(pool.values - self._best[pool.owners])
        mass_above = pool.sums(shares * above)
        self._mass = np.maximum(self._mass, pool.sums(shares))
        for i in np.flatnonzero((mass_above >= self._top_p * self._mass) & ~self._summed):
            self._sum(int(i))
        beyond = (mass_above >= self._top_p * self._mass) & (self._top_p < 1)
        excluded: Flags = (ranks > 0) & ((ranks >= self._top_k) | beyond)
        return excluded

    def excludes_in_row(self, i: int, above: Flags) -> bool:
        """Whether the drawn token of row ``i`` is excluded. ``above`` (vocabulary,): the tokens that rank above it."""
        if np.count_nonzero(above) >= self._top_k[i]:
            return True
        if self._summed[i]:
            return False
        mass_above = (self._sum(i) * above).sum(dtype=np.float64)
        return bool(mass_above >= self._top_p[i] * self._mass[i])

    def _sum(self, i: int) -> Floats:
        """The exponentials of row ``i``; stores their sum as its mass."""
        shares: Floats = np.exp(self.scaled[i] - self._best[i])
        self._mass[i] = max(self._mass[i], shares.sum(dtype=np.float64))
        self._summed[i] = True
        return shares
