"""The next token of every row, in one vectorized pass.

Rule 1: a row's choice depends on its own logits, parameters and key; never on its neighbours.
Rule 2: a row costs nothing that no request asked for: an all-greedy batch is one argmax, only rows with penalties keep
counts, only rows that ask get log-probabilities.
Rule 3: draws are exact. Of equal logits the lower id is the better one.
Rule 4: on a CPU they are numpy's, which looks at few tokens and so has to see the logits; on an accelerator mlx's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType

import mlx.core as mx
import numpy as np

from shared.protocol import Sampling
from workers.engine.sampling import dense, sparse, sparse_cuts
from workers.engine.sampling.logit_processors import LogitProcessor, LogitProcessors
from workers.engine.sampling.logprobs import Best, Unscored
from workers.engine.sampling.randomness import Array, keys_array, library, library_of, row_key

Draw = Callable[[Array, Array, Sequence[Sampling]], Array]  # scaled logits, keys, samplings -> tokens (rows,)


@dataclass(frozen=True)
class SequenceParameters:
    """What sampling knows of a row."""

    sampling: Sampling
    choice: int = 0
    logprobs: int | None = None
    processor: LogitProcessor | None = None

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
    best: Best | Unscored | None = None

    @property
    def arrays(self) -> list[mx.array]:
        return [self.tokens, *(self.best.arrays if self.best else [])]


class Sampler:
    """The parameters of the rows of a batch, as arrays; made anew when rows join or leave."""

    def __init__(self, rows: Sequence[SequenceParameters], xp: ModuleType | None = None) -> None:
        self._rows = rows
        self._xp = xp or library()
        self._draw_open: Draw = sparse.draw_open if self._xp is np else dense.draw_open
        self._draw_cut: Draw = sparse_cuts.draw_cut if self._xp is np else dense.draw_cut
        self._greedy = [i for i, row in enumerate(rows) if row.greedy]
        self._open = [i for i, row in enumerate(rows) if not row.greedy and not row.needs_cut]
        self._cut = [i for i, row in enumerate(rows) if not row.greedy and row.needs_cut]
        self._asking = [i for i, row in enumerate(rows) if row.logprobs is not None]
        self._depth = max((row.logprobs or 0 for row in rows), default=0)
        adjusted = any(row.processor for row in rows)
        self._processors = LogitProcessors([row.processor for row in rows]) if adjusted else None

    @property
    def waits(self) -> bool:
        """Whether ``draw`` must see the logits: for numpy, or to know if the candidates were enough."""
        if self._xp is np:
            return len(self._greedy) < len(self._rows)
        return any(self._rows[i].sampling.top_p < 1 for i in self._cut)

    def draw(
        self,
        logits: mx.array,
        indices: Sequence[int],
        allowed: mx.array | None = None,
        last: mx.array | None = None,
    ) -> Drawn:
        """``logits``, ``allowed`` (rows, vocabulary); ``indices`` the index of each row's next token.

        ``last`` (rows,): each row's token at the index before, maybe not computed yet.
        """
        raw = logits.astype(mx.float32)
        logits = raw if self._processors is None else self._processors.apply(raw, indices, last)
        if allowed is not None:
            logits = mx.where(allowed, logits, -mx.inf)
        tokens = (
            mx.argmax(logits, axis=-1)
            if len(self._greedy) == len(self._rows)
            else self._draw(logits, indices)
        )
        return Drawn(tokens, self._asking, self._best(raw, tokens))

    def _draw(self, logits: mx.array, indices: Sequence[int]) -> mx.array:
        xp = self._xp
        values: Array = xp.asarray(logits)
        tokens: Array = xp.zeros(len(self._rows), dtype=xp.uint32)
        if self._greedy:
            tokens = _put(tokens, self._greedy, xp.argmax(_pick(values, self._greedy), axis=-1))
        for rows, draw in ((self._open, self._draw_open), (self._cut, self._draw_cut)):
            if rows:
                samplings = [self._rows[i].sampling for i in rows]
                scaled = _pick(values, rows) / xp.array(
                    [[s.temperature] for s in samplings], dtype=xp.float32
                )
                tokens = _put(tokens, rows, draw(scaled, self._keys(rows, indices), samplings))
        return mx.array(tokens)

    def _keys(self, rows: list[int], indices: Sequence[int]) -> Array:
        keys = [row_key(self._rows[i].sampling.seed, self._rows[i].choice, indices[i]) for i in rows]
        return keys_array(keys, self._xp)

    def _best(self, raw: mx.array, tokens: mx.array) -> Best | Unscored | None:
        """The model's own distribution: before temperature, penalties and cuts."""
        if not self._asking:
            return None
        unscored = Unscored(_pick(raw, self._asking), _pick(tokens, self._asking), self._depth)
        return unscored if self._xp is np else unscored.scored(mx)


def _pick(array: Array, rows: list[int]) -> Array:
    return array if len(rows) == array.shape[0] else array[library_of(array).array(rows)]


def _put(values: Array, rows: list[int], drawn: Array) -> Array:
    if len(rows) == values.shape[0]:
        return drawn.astype(values.dtype)
    values[library_of(values).array(rows)] = drawn.astype(values.dtype)
    return values
