"""What changes logits before sampling: penalties, bias, and no end before min_tokens.

Only the tokens that a row has seen, or has a bias for, are looked at: some hundreds of a vocabulary. They are known to
the host, except the last one, which may not be computed yet; it is counted on the device, so that a row with penalties
does not make its batch wait.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from shared.protocol import Generation, Sampling, TokenPrompt

_NEVER = -1e9  # a logit no real one comes near, finite so that no sum becomes NaN
_ENTRY = np.dtype(
    [("id", np.uint32), ("count", np.float32), ("bias", np.float32), ("prompt", np.bool_), ("eos", np.bool_)]
)


class Adjustment:
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
        entries = [(id, 0, s.logit_bias.get(id, 0), id in prompt, id in eos) for id in ids]
        self._places = {id: place for place, id in enumerate(ids)}
        self._entries = np.array(entries, dtype=_ENTRY)
        self._generated = generated
        self._counted = 0
        self._vocabulary = vocabulary

    def entries(self, index: int) -> np.ndarray:
        """Of all ids that matter, each once, when the token at ``index`` is drawn; the one before is not counted."""
        if self.counts:
            for id in self._generated[self._counted : max(0, index - 1)]:
                self._counted += 1
                self._count(id)
        return self._entries[: len(self._places)]

    def _count(self, id: int) -> None:
        if not 0 <= id < self._vocabulary:
            return
        place = self._places.setdefault(id, len(self._places))
        if place == len(self._entries):
            self._entries = np.concatenate([self._entries, np.zeros_like(self._entries)])
        self._entries["id"][place] = id
        self._entries["count"][place] += 1


def adjustment_for(
    generation: Generation,
    prompt: Sequence[int],
    generated: Sequence[int],
    eos: Iterable[int],
    vocabulary: int,
) -> Adjustment | None:
    """None for a row whose logits are taken as they are."""
    s = generation.sampling
    asks = s.logit_bias or s.presence_penalty or s.frequency_penalty or s.repetition_penalty != 1
    if not asks and not generation.stopping.min_tokens:
        return None
    return Adjustment(generation, prompt, generated, eos, vocabulary)


class Adjustments:
    """Those of all rows of a batch, in one pass."""

    def __init__(self, rows: Sequence[Adjustment | None]) -> None:
        """A row without one gets its logits back."""
        neutral = Adjustment(_NOTHING, [], [], [], 1)
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
        table = _side_by_side([row.entries(index) for row, index in rows])
        if last is not None:
            table = _counted(table, counting, last[:, None])
        there = mx.take_along_axis(logits, table.ids, axis=-1)
        seen = table.prompt | (table.counts > 0)
        divided = mx.where(there > 0, there / self._repetition, there * self._repetition)
        values = mx.where(seen, divided, there) - self._frequency * table.counts
        values = values - self._presence * (table.counts > 0) + table.bias
        values = mx.where(table.eos & too_early, _NEVER, values)
        return mx.put_along_axis(logits, table.ids, values, axis=-1)


class _Table(NamedTuple):
    """(rows, width). An id that a row has more than once, to fill its line, has the same entry each time."""

    ids: mx.array
    counts: mx.array
    bias: mx.array
    prompt: mx.array
    eos: mx.array


def _side_by_side(rows: Sequence[np.ndarray]) -> _Table:
    table = np.empty((len(rows), max(map(len, rows))), dtype=_ENTRY)
    for line, entries in zip(table, rows, strict=True):
        line[: len(entries)] = entries
        line[len(entries) :] = entries[0]
    return _Table(*(mx.array(np.ascontiguousarray(table[field])) for field in _ENTRY.names or ()))


def _counted(table: _Table, counting: mx.array, last: mx.array) -> _Table:
    """With the ``last`` tokens (rows, 1), of the rows that are ``counting``: one more of its entry, or a new one."""
    found = (table.ids == last) & counting
    table = table._replace(counts=table.counts + found)
    new = counting & ~mx.any(found, axis=-1, keepdims=True)
    added = _Table(last.astype(mx.uint32), *(mx.array(value) for value in (1.0, 0.0, False, False)))
    return _Table(
        *(
            mx.concatenate([column, mx.where(new, value, column[:, :1])], axis=1)
            for column, value in zip(table, added, strict=True)
        )
    )


_NOTHING = Generation(prompt=TokenPrompt(ids=[0]), sampling=Sampling(seed=0))
