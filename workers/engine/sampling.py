"""The next token of every row, in one vectorized pass.

Rule 1: a row's choice depends on its own logits, parameters and key; never on its neighbours.
Rule 2: nobody pays for what nobody asked: an all-greedy batch is one argmax, only rows with penalties keep counts,
only rows that ask get log-probabilities.
Rule 3: a nucleus is exact. It is searched among the best candidates first and in the whole vocabulary when they do
not hold enough mass (a full sort costs ten times the candidates' cut).
Rule 4: noise and cuts are computed with the library that is faster here, see ``randomness``; the code is the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import cast

import mlx.core as mx
import numpy as np

from shared.protocol import Sampling
from workers.engine.adjustment import Adjustment
from workers.engine.randomness import Array, gumbel, keys_array, library, library_of, row_key
from workers.engine.scoring import Best, best_of

CANDIDATES = 256
WIDER = 16  # how many times more candidates a nucleus gets that did not fit


@dataclass(frozen=True)
class RowParameters:
    """What sampling knows of a row."""

    sampling: Sampling
    choice: int = 0
    logprobs: int | None = None
    adjustment: Adjustment | None = None

    @property
    def greedy(self) -> bool:
        return self.sampling.temperature < 1e-5 or self.sampling.top_k == 1

    @property
    def needs_cut(self) -> bool:
        return self.sampling.top_p < 1 or self.sampling.top_k > 0


@dataclass
class Drawn:
    """``tokens``: (rows,) uint32, maybe not computed yet."""

    tokens: mx.array
    asking: list[int] = field(default_factory=list)  # the rows ``best`` is of, in its order
    best: Best | None = None

    @property
    def arrays(self) -> list[mx.array]:
        return [self.tokens, *(self.best.arrays if self.best else [])]


class Sampler:
    """The parameters of the rows of a batch, as arrays; made anew when rows join or leave."""

    def __init__(self, rows: Sequence[RowParameters], xp: ModuleType | None = None) -> None:
        self._rows = rows
        self._xp = xp or library()
        self._open = [i for i, row in enumerate(rows) if not row.greedy and not row.needs_cut]
        self._cut = [i for i, row in enumerate(rows) if not row.greedy and row.needs_cut]
        self._asking = [i for i, row in enumerate(rows) if row.logprobs is not None]
        self._depth = max((row.logprobs or 0 for row in rows), default=0)

    @property
    def waits(self) -> bool:
        """Whether ``draw`` must see the logits: for numpy, or to know if the candidates were enough."""
        return bool(self._cut) and (self._xp is np or self._has_nucleus)

    @property
    def _has_nucleus(self) -> bool:
        return any(self._rows[i].sampling.top_p < 1 for i in self._cut)

    def draw(self, logits: mx.array, indices: Sequence[int], allowed: mx.array | None = None) -> Drawn:
        """``logits``, ``allowed`` (rows, vocabulary); ``indices`` the index of each row's next token."""
        raw = logits.astype(mx.float32)
        logits = self._adjusted(raw, indices)
        if allowed is not None:
            logits = mx.where(allowed, logits, -mx.inf)
        tokens = mx.argmax(logits, axis=-1)
        if self._open:
            tokens = _put(tokens, self._open, self._draw_open(logits, indices))
        if self._cut:
            tokens = _put(tokens, self._cut, self._draw_cut(logits, indices))
        for i, row in enumerate(self._rows):
            if row.adjustment:
                row.adjustment.count(tokens[i : i + 1])
        return Drawn(tokens, self._asking, self._best(raw, tokens))

    def _adjusted(self, logits: mx.array, indices: Sequence[int]) -> mx.array:
        changed = {
            i: row.adjustment.apply(logits[i], indices[i])
            for i, row in enumerate(self._rows)
            if row.adjustment
        }
        if not changed:
            return logits
        return mx.stack([changed[i] if i in changed else logits[i] for i in range(len(self._rows))])

    def _draw_open(self, logits: mx.array, indices: Sequence[int]) -> mx.array:
        """Rows that sample from the whole vocabulary, bounded by min_p at most."""
        rows = self._open
        scaled = _pick(logits, rows) / _column(self._rows, rows, "temperature", mx)
        noisy = scaled + self._noise(rows, indices, logits.shape[-1])
        if any(self._rows[i].sampling.min_p > 0 for i in rows):
            floor = mx.max(scaled, axis=-1, keepdims=True) + _log(_column(self._rows, rows, "min_p", mx))
            noisy = mx.where(scaled >= floor, noisy, -mx.inf)
        return mx.argmax(noisy, axis=-1)

    def _noise(self, rows: list[int], indices: Sequence[int], vocabulary: int) -> mx.array:
        """Of the whole vocabulary; by numpy row by row, because a row fits into the processor's cache."""
        keys = _keys(self._rows, rows, indices, self._xp)
        ids = self._xp.arange(vocabulary, dtype=self._xp.uint32)[None]
        if self._xp is mx:
            noise: mx.array = gumbel(keys, ids)
            return noise
        return mx.array(np.concatenate([gumbel(keys[i : i + 1], ids) for i in range(len(rows))]))

    def _draw_cut(self, logits: mx.array, indices: Sequence[int]) -> mx.array:
        """Rows with top_k or top_p: among the best candidates; rows whose nucleus is wider, among more."""
        xp = self._xp
        cut = Cut(self._rows, self._cut, xp.asarray(_pick(logits, self._cut)), indices)
        vocabulary = logits.shape[-1]
        most = max(CANDIDATES, *(self._rows[i].sampling.top_k for i in self._cut))
        tokens, enough = cut.draw(min(most, vocabulary))
        while (
            self._has_nucleus
            and most < vocabulary
            and (wider := [i for i, ok in enumerate(cast(list[bool], enough.tolist())) if not ok])
        ):
            most *= WIDER
            again, settled = cut.only(wider).draw(min(most, vocabulary))
            tokens = _put(tokens, wider, again)
            enough = _put(enough, wider, settled)
        return mx.array(tokens)

    def _best(self, raw: mx.array, tokens: mx.array) -> Best | None:
        """The model's own distribution: before temperature, penalties and cuts."""
        if not self._asking:
            return None
        return best_of(_pick(raw, self._asking), _pick(tokens, self._asking), self._depth)


class Cut:
    """Rows that sample among their best tokens only. ``rows`` index ``parameters``, ``logits`` has one row each."""

    def __init__(
        self, parameters: Sequence[RowParameters], rows: list[int], logits: Array, indices: Sequence[int]
    ) -> None:
        xp = self._xp = library_of(logits)
        self._samplings = [parameters[i].sampling for i in rows]
        self._keys = _keys(parameters, rows, indices, xp)
        self._scaled = logits / _column(parameters, rows, "temperature", xp)
        self._top_p = _column(parameters, rows, "top_p", xp)
        self._min_p = _column(parameters, rows, "min_p", xp)
        self._norm = xp.max(self._scaled, axis=-1, keepdims=True)
        if any(sampling.top_p < 1 for sampling in self._samplings):
            mass = xp.sum(xp.exp(self._scaled - self._norm), axis=-1, keepdims=True)
            self._norm = self._norm + xp.log(mass)

    def only(self, rows: list[int]) -> "Cut":
        chosen = object.__new__(Cut)
        chosen._xp = self._xp
        chosen._samplings = [self._samplings[i] for i in rows]
        for name in ("_keys", "_scaled", "_top_p", "_min_p", "_norm"):
            setattr(chosen, name, _pick(getattr(self, name), rows))
        return chosen

    def draw(self, most: int) -> tuple[Array, Array]:
        """Tokens (rows,), and for each row whether ``most`` candidates hold all of its nucleus."""
        xp = self._xp
        best, ids = self._candidates(most)
        share = xp.exp(best - self._norm)
        mass = xp.cumsum(share, axis=-1)
        rank = xp.arange(most)[None]
        top_k = xp.array([[sampling.top_k or most] for sampling in self._samplings])
        keep = ((mass - share < self._top_p) | (self._top_p >= 1)) & (rank < top_k)
        keep = keep & (best >= best[:, :1] + _log(self._min_p))
        keep = keep | (rank == 0)  # top_p 0 and rounding leave the best one
        noisy = xp.where(keep, best + gumbel(self._keys, ids), -xp.inf)
        tokens = xp.take_along_axis(ids, xp.argmax(noisy, axis=-1, keepdims=True), axis=-1)[:, 0]
        bounded = xp.array(
            [0 < sampling.top_k <= most or sampling.top_p >= 1 for sampling in self._samplings]
        )
        return tokens.astype(xp.uint32), (mass[:, -1] >= self._top_p[:, 0]) | bounded

    def _candidates(self, most: int) -> tuple[Array, Array]:
        """The best logits, descending, and their ids; both (rows, most)."""
        xp = self._xp
        if most == self._scaled.shape[-1]:
            ids = xp.argsort(-self._scaled, axis=-1)
            return xp.take_along_axis(self._scaled, ids, axis=-1), ids
        ids = xp.argpartition(self._scaled, -most, axis=-1)[:, -most:]
        best = xp.take_along_axis(self._scaled, ids, axis=-1)
        order = xp.argsort(-best, axis=-1)
        return xp.take_along_axis(best, order, axis=-1), xp.take_along_axis(ids, order, axis=-1)


def _keys(
    parameters: Sequence[RowParameters], rows: list[int], indices: Sequence[int], xp: ModuleType
) -> Array:
    keys = [row_key(parameters[i].sampling.seed, parameters[i].choice, indices[i]) for i in rows]
    return keys_array(keys, xp)


def _column(parameters: Sequence[RowParameters], rows: list[int], field: str, xp: ModuleType) -> Array:
    return xp.array([[getattr(parameters[i].sampling, field)] for i in rows], dtype=xp.float32)


def _pick(array: Array, rows: list[int]) -> Array:
    return array if len(rows) == array.shape[0] else array[library_of(array).array(rows)]


def _put(values: Array, rows: list[int], drawn: Array) -> Array:
    if len(rows) == values.shape[0]:
        return drawn.astype(values.dtype)
    values[library_of(values).array(rows)] = drawn.astype(values.dtype)
    return values


def _log(column: Array) -> Array:
    """log, with a finite floor for 0: e^-87 of the best is no chance."""
    xp = library_of(column)
    return xp.log(xp.maximum(column, 1e-38))
