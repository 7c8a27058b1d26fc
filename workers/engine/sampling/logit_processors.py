"""What changes logits before sampling: penalties, bias, and no end before min_tokens.

Only the tokens that a row has seen, or has a bias for, are looked at: some hundreds of a vocabulary. They are known to
the host, except the last one, which may not be computed yet; it is counted on the device, so that a row with penalties
does not make its batch wait.
"""

from collections.abc import Iterable, Sequence

import mlx.core as mx
import numpy as np

from shared.protocol import Generation, Sampling, TokenPrompt
from workers.engine.sampling.candidates import Floats

_NEVER = -1e9  # a logit no real one comes near, finite so that no sum becomes NaN
ID, COUNT, BIAS, PROMPT, EOS = range(
    5
)  # the lines of a table; all are exact in float32, ids up to 16 million


class LogitProcessor:
    """One row's. The presence and frequency penalties count generated tokens, the repetition penalty the prompt too.

    ``generated`` grows while the row lives; the last token may be missing, as it is still being computed.
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
        lines = [ids, [0] * len(ids), bias, [id in prompt for id in ids], [id in eos for id in ids]]
        self._places = {id: place for place, id in enumerate(ids)}
        self._table = np.array(lines, dtype=np.float32)
        self._generated = generated
        self._counted = 0
        self._vocabulary = vocabulary

    def table(self, index: int) -> Floats:
        """(5, n): of all ids that matter, each once, when the token at ``index`` is drawn; but for the one before."""
        if self.counts:
            for id in self._generated[self._counted : max(0, index - 1)]:
                self._counted += 1
                self._count(id)
        return self._table[:, : len(self._places)]

    def _count(self, id: int) -> None:
        if not 0 <= id < self._vocabulary:
            return
        place = self._places.setdefault(id, len(self._places))
        if place == self._table.shape[1]:
            self._table = np.concatenate([self._table, np.zeros_like(self._table)], axis=1)
        self._table[ID, place] = id
        self._table[COUNT, place] += 1


def logit_processor_for(
    generation: Generation,
    prompt: Sequence[int],
    generated: Sequence[int],
    eos: Iterable[int],
    vocabulary: int,
) -> LogitProcessor | None:
    """None for a row whose logits are taken as they are."""
    s = generation.sampling
    asks = s.logit_bias or s.presence_penalty or s.frequency_penalty or s.repetition_penalty != 1
    if not asks and not generation.stopping.min_tokens:
        return None
    return LogitProcessor(generation, prompt, generated, eos, vocabulary)


class LogitProcessors:
    """Those of all rows of a batch, in one pass."""

    def __init__(self, rows: Sequence[LogitProcessor | None]) -> None:
        """A row without one gets its logits back."""
        neutral = LogitProcessor(_NOTHING, [], [], [], 1)
        self._rows = [row or neutral for row in rows]
        samplings = [row.sampling for row in self._rows]
        self._repetition = mx.array([[s.repetition_penalty] for s in samplings])
        self._frequency = mx.array([[s.frequency_penalty] for s in samplings])
        self._presence = mx.array([[s.presence_penalty] for s in samplings])

    def apply(self, logits: mx.array, indices: Sequence[int], last: mx.array | None) -> mx.array:
        """``logits`` (rows, vocabulary) of the tokens at ``indices``; ``last`` (rows,): those before, if any."""
        rows = list(zip(self._rows, indices, strict=True))
        counting = mx.array([[row.counts and index > 0] for row, index in rows])
        too_early = mx.array([[index < row.min_tokens] for row, index in rows])
        table = _side_by_side([row.table(index) for row, index in rows])
        if last is not None:
            table = _counted(table, counting, last[:, None].astype(mx.float32))
        ids = table[:, ID].astype(mx.uint32)
        counts = table[:, COUNT]
        values = mx.take_along_axis(logits, ids, axis=-1)
        divided = mx.where(values > 0, values / self._repetition, values * self._repetition)
        values = mx.where((counts > 0) | (table[:, PROMPT] > 0), divided, values)
        values = values - self._frequency * counts - self._presence * (counts > 0) + table[:, BIAS]
        values = mx.where((table[:, EOS] > 0) & too_early, _NEVER, values)
        return mx.put_along_axis(logits, ids, values, axis=-1)


def _side_by_side(rows: Sequence[Floats]) -> mx.array:
    """(rows, 5, width). Lines are filled up with their first entry, so that an id has the same one each time."""
    table = np.empty((len(rows), 5, max(row.shape[1] for row in rows)), dtype=np.float32)
    for line, row in zip(table, rows, strict=True):
        line[:, : row.shape[1]] = row
        line[:, row.shape[1] :] = row[:, :1]
    return mx.array(table)


def _counted(table: mx.array, counting: mx.array, last: mx.array) -> mx.array:
    """With the ``last`` tokens (rows, 1) of the rows that are ``counting``: one more of its entry, or a new one."""
    found = (table[:, ID] == last) & counting
    new = counting & ~mx.any(found, axis=-1, keepdims=True)
    one_more = mx.zeros_like(table)
    one_more[:, COUNT] = found.astype(mx.float32)
    table = table + one_more
    none = mx.zeros_like(last)
    entry = mx.stack([last, none + 1, none, none, none], axis=1)
    return mx.concatenate([table, mx.where(new[:, None], entry, table[:, :, :1])], axis=-1)


_NOTHING = Generation(prompt=TokenPrompt(ids=[0]), sampling=Sampling(seed=0))
