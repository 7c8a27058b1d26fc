"""Changes logits before sampling: penalties, logit bias, and no end-of-sequence token before min_tokens.

Only tokens that a sequence contains or has a bias for are processed: some hundreds of a vocabulary. The host counts
all tokens but the last, which may not be computed yet. The device counts that one, so that penalties do not make a
batch wait for the host.
"""

from collections.abc import Iterable, Sequence

import mlx.core as mx
import numpy as np

from shared.protocol import Generation, Sampling, TokenPrompt
from workers.engine.sampling.candidates import Floats

_NEVER = -1e9  # below every real logit, and finite so that no sum becomes NaN
ID, COUNT, BIAS, PROMPT, EOS = range(5)  # rows of a table; ids up to 16 million are exact in float32


class LogitProcessor:
    """The penalties and biases of one sequence.

    The presence and frequency penalties count generated tokens, the repetition penalty counts the prompt too.
    ``generated`` grows with the sequence. Its last token may be missing while the device computes it.
    """

    def __init__(
        self,
        generation: Generation,
        prompt: Iterable[int],
        generated: Sequence[int],
        eos: Iterable[int],
        vocabulary: int,
    ) -> None:
        s = self.sampling = generation.sampling
        self.min_tokens = generation.stopping.min_tokens
        self.counts = bool(s.presence_penalty or s.frequency_penalty or s.repetition_penalty != 1)
        prompt = set(prompt if s.repetition_penalty != 1 else ())
        eos = set(eos if self.min_tokens else ())
        ids = [id for id in sorted({*prompt, *eos, *s.logit_bias}) if 0 <= id < vocabulary] or [0]
        bias = [s.logit_bias.get(id, 0) for id in ids]
        rows = [ids, [0] * len(ids), bias, [id in prompt for id in ids], [id in eos for id in ids]]
        self._columns = {id: column for column, id in enumerate(ids)}
        self._table = np.array(rows, dtype=np.float32)
        self._generated = generated
        self._counted = 0
        self._vocabulary = vocabulary

    def table(self, index: int) -> Floats:
        """A table (5, n), one column per processed id, for drawing the token at ``index``.

        The token before ``index`` is not counted; ``LogitProcessors`` counts it on the device.
        """
        if self.counts:
            for id in self._generated[self._counted : max(0, index - 1)]:
                self._counted += 1
                self._count(id)
        return self._table[:, : len(self._columns)]

    def _count(self, id: int) -> None:
        if not 0 <= id < self._vocabulary:
            return
        column = self._columns.setdefault(id, len(self._columns))
        if column == self._table.shape[1]:
            self._table = np.concatenate([self._table, np.zeros_like(self._table)], axis=1)
        self._table[ID, column] = id
        self._table[COUNT, column] += 1


def logit_processor_for(
    generation: Generation,
    prompt: Sequence[int],
    generated: Sequence[int],
    eos: Iterable[int],
    vocabulary: int,
) -> LogitProcessor | None:
    """None for a sequence whose logits stay as they are."""
    s = generation.sampling
    adjusts = s.logit_bias or s.presence_penalty or s.frequency_penalty or s.repetition_penalty != 1
    if not adjusts and not generation.stopping.min_tokens:
        return None
    return LogitProcessor(generation, prompt, generated, eos, vocabulary)


class LogitProcessors:
    """The logit processors of all sequences of a batch, applied together."""

    def __init__(self, sequences: Sequence[LogitProcessor | None]) -> None:
        """``sequences``: None for a sequence whose logits stay as they are."""
        neutral = LogitProcessor(_NEUTRAL, [], [], [], 1)
        self._processors = [each or neutral for each in sequences]
        samplings = [each.sampling for each in self._processors]
        self._repetition = mx.array([[s.repetition_penalty] for s in samplings])
        self._frequency = mx.array([[s.frequency_penalty] for s in samplings])
        self._presence = mx.array([[s.presence_penalty] for s in samplings])

    def apply(self, logits: mx.array, indices: Sequence[int], last: mx.array | None) -> mx.array:
        """``logits`` (sequences, vocabulary) of the tokens at ``indices``; ``last`` (sequences,): those before."""
        pairs = list(zip(self._processors, indices, strict=True))
        counting = mx.array([[each.counts and index > 0] for each, index in pairs])
        too_early = mx.array([[index < each.min_tokens] for each, index in pairs])
        table = _stacked([each.table(index) for each, index in pairs])
        if last is not None:
            table = _with_last(table, counting, last[:, None].astype(mx.float32))
        ids = table[:, ID].astype(mx.uint32)
        counts = table[:, COUNT]
        values = mx.take_along_axis(logits, ids, axis=-1)
        divided = mx.where(values > 0, values / self._repetition, values * self._repetition)
        values = mx.where((counts > 0) | (table[:, PROMPT] > 0), divided, values)
        values = values - self._frequency * counts - self._presence * (counts > 0) + table[:, BIAS]
        values = mx.where((table[:, EOS] > 0) & too_early, _NEVER, values)
        return mx.put_along_axis(logits, ids, values, axis=-1)


def _stacked(tables: Sequence[Floats]) -> mx.array:
    """One table (sequences, 5, width). Short ones repeat their first column, so that an id has one value everywhere."""
    stacked = np.empty((len(tables), 5, max(table.shape[1] for table in tables)), dtype=np.float32)
    for part, table in zip(stacked, tables, strict=True):
        part[:, : table.shape[1]] = table
        part[:, table.shape[1] :] = table[:, :1]
    return mx.array(stacked)


def _with_last(table: mx.array, counting: mx.array, last: mx.array) -> mx.array:
    """Adds the ``last`` tokens (sequences, 1) to the counts, where ``counting`` is set.

    An id without a column gets a new one.
    """
    found = (table[:, ID] == last) & counting
    new = counting & ~mx.any(found, axis=-1, keepdims=True)
    one_more = mx.zeros_like(table)
    one_more[:, COUNT] = found.astype(mx.float32)
    table = table + one_more
    none = mx.zeros_like(last)
    entry = mx.stack([last, none + 1, none, none, none], axis=1)
    return mx.concatenate([table, mx.where(new[:, None], entry, table[:, :, :1])], axis=-1)


_NEUTRAL = Generation(prompt=TokenPrompt(ids=[0]), sampling=Sampling(seed=0))
