"""Draws the next token of every sequence of a batch in one vectorized pass.

Rule 1: a drawn token depends on its sequence's logits, parameters and key, and on no other sequence.
Rule 2: a batch computes only what its requests ask for: an all-greedy batch is one argmax, counts exist for sequences
with penalties, log-probabilities for requests with logprobs.
Rule 3: draws are exact. Of equal logits the lower id ranks first.
Rule 4: a CPU draws with numpy from few candidates, on the host; an accelerator draws with mlx.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType

import mlx.core as mx
import numpy as np

from shared.protocol import Sampling
from workers.engine.sampling import dense, sparse, sparse_cuts
from workers.engine.sampling.grammar_masks import GrammarMasks
from workers.engine.sampling.logit_processors import LogitProcessor, LogitProcessors
from workers.engine.sampling.logprobs import TopLogprobs, UnscoredLogits
from workers.engine.sampling.randomness import Array, draw_key, keys_array, library, library_of

Draw = Callable[[Array, Array, Sequence[Sampling]], Array]  # scaled logits, keys, samplings -> tokens (rows,)


@dataclass(frozen=True)
class SequenceParameters:
    """The sampling parameters of one sequence."""

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
    """``tokens``: (sequences,) uint32, maybe not computed yet."""

    tokens: mx.array
    logprob_rows: list[int] = field(
        default_factory=list
    )  # indices of the sequences in ``logprobs``, in its order
    logprobs: TopLogprobs | UnscoredLogits | None = None

    @property
    def arrays(self) -> list[mx.array]:
        return [self.tokens, *(self.logprobs.arrays if self.logprobs else [])]


class Sampler:
    """The sampling parameters of a batch as arrays; built again when a sequence joins or leaves."""

    def __init__(self, sequences: Sequence[SequenceParameters], xp: ModuleType | None = None) -> None:
        self._sequences = sequences
        self._xp = xp or library()
        self._draw_open: Draw = sparse.draw_open if self._xp is np else dense.draw_open
        self._draw_cut: Draw = sparse_cuts.draw_cut if self._xp is np else dense.draw_cut
        self._greedy = [i for i, each in enumerate(sequences) if each.greedy]
        self._open = [i for i, each in enumerate(sequences) if not each.greedy and not each.needs_cut]
        self._cut = [i for i, each in enumerate(sequences) if not each.greedy and each.needs_cut]
        self._logprob_rows = [i for i, each in enumerate(sequences) if each.logprobs is not None]
        self._depth = max((each.logprobs or 0 for each in sequences), default=0)
        adjusted = any(each.processor for each in sequences)
        self._processors = LogitProcessors([each.processor for each in sequences]) if adjusted else None

    @property
    def waits(self) -> bool:
        """Whether ``draw`` waits for the logits, which numpy needs on the host."""
        return self._xp is np and len(self._greedy) < len(self._sequences)

    def draw(
        self,
        logits: mx.array,
        indices: Sequence[int],
        masks: GrammarMasks | None = None,
        last: mx.array | None = None,
    ) -> Drawn:
        """``logits``: (sequences, vocabulary); ``indices``: the index of each sequence's next token.

        ``last`` (sequences,): the tokens at the indices before, maybe not computed yet.
        """
        raw = logits.astype(mx.float32)
        logits = raw if self._processors is None else self._processors.apply(raw, indices, last)
        if masks is not None:
            logits = masks.applied(logits, self._xp)
        tokens = (
            mx.argmax(logits, axis=-1)
            if len(self._greedy) == len(self._sequences)
            else self._draw(logits, indices)
        )
        return Drawn(tokens, self._logprob_rows, self._logprobs(raw, tokens))

    def _draw(self, logits: mx.array, indices: Sequence[int]) -> mx.array:
        xp = self._xp
        values: Array = xp.asarray(logits)
        tokens: Array = xp.zeros(len(self._sequences), dtype=xp.uint32)
        if self._greedy:
            tokens = _put(tokens, self._greedy, xp.argmax(_pick(values, self._greedy), axis=-1))
        for rows, draw in ((self._open, self._draw_open), (self._cut, self._draw_cut)):
            if rows:
                samplings = [self._sequences[i].sampling for i in rows]
                scaled = _pick(values, rows) / xp.array(
                    [[s.temperature] for s in samplings], dtype=xp.float32
                )
                tokens = _put(tokens, rows, draw(scaled, self._keys(rows, indices), samplings))
        return mx.array(tokens)

    def _keys(self, rows: list[int], indices: Sequence[int]) -> Array:
        keys = [
            draw_key(self._sequences[i].sampling.seed, self._sequences[i].choice, indices[i]) for i in rows
        ]
        return keys_array(keys, self._xp)

    def _logprobs(self, raw: mx.array, tokens: mx.array) -> TopLogprobs | UnscoredLogits | None:
        """Log-probabilities of the model's own distribution, before temperature, penalties, top_k, top_p and min_p."""
        if not self._logprob_rows:
            return None
        unscored = UnscoredLogits(
            _pick(raw, self._logprob_rows), _pick(tokens, self._logprob_rows), self._depth
        )
        return unscored if self._xp is np else unscored.scored(mx)


def _pick(array: Array, rows: list[int]) -> Array:
    return array if len(rows) == array.shape[0] else array[library_of(array).array(rows)]


def _put(values: Array, rows: list[int], drawn: Array) -> Array:
    if len(rows) == values.shape[0]:
        return drawn.astype(values.dtype)
    values[library_of(values).array(rows)] = drawn.astype(values.dtype)
    return values
