"""A smaller model with the same tokens, which guesses what a sequence says next: one token after another.

Rule 1: only this module calls the draft model. What it guesses changes no token of an answer, whatever it is.
Rule 2: each sequence has keys and values of its own here. A wrong guess is taken back, which is a length.
Rule 3: a prompt is read a part at a time, so that a step is never held up for a whole one.
Rule 4: of a sequence's ids only those are touched that are new since the last step, however long its prompt is.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import mlx.core as mx

from workers.engine.forward import feed, forward
from workers.engine.kv.mlx_caches import Cache, nbytes, new_cache
from workers.engine.sampling.sampler import Sampler, SequenceParameters
from workers.sequence import TokenSequence

SMOOTHING = 0.4  # weight of the newest measurement
FORGOTTEN = 0.02  # the part of the price that an untried draft forgets, so that it is tried again


class _Text:
    """Ids of a sequence and guesses behind them, as one text of which parts are copied."""

    def __init__(self, sequence: TokenSequence, ahead: Sequence[int] = ()) -> None:
        self._parts = sequence.job.prompt, sequence.ids, ahead
        self.said = len(sequence.job.prompt) + len(sequence.ids)  # without the guesses

    def __len__(self) -> int:
        return self.said + len(self._parts[2])

    def part(self, start: int, end: int) -> list[int]:
        found, first = list[int](), 0
        for ids in self._parts:
            found += ids[max(0, start - first) : max(0, end - first)]
            first += len(ids)
        return found


@dataclass
class _Read:
    """What the model has read of a sequence: so many of its ids (``said``), and ``guesses`` behind them."""

    cache: Cache
    sampler: Sampler
    readable: bool  # whether the model has embeddings for all ids that were looked at
    looked: int = 0  # ids of the answer that were looked at
    said: int = 0
    guesses: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens in ``cache``."""
        return self.said + len(self.guesses)

    def took(self, text: _Text, length: int) -> None:
        """``cache`` holds so many ids of ``text``, the first of which it held before."""
        self.said = min(length, text.said)
        self.guesses = text.part(self.said, length)


class DraftModel:
    """``vocabulary``: the ids that the large model can draw. ``readable``: those that this one has embeddings for.

    ``context``: the longest text, ``chunk``: the most tokens of prompts that one step reads. ``price``: seconds that a
    guess takes, as measured; ``spent``: all seconds so far.
    """

    def __init__(
        self,
        model: Any,
        *,
        vocabulary: int,
        readable: int,
        context: int,
        chunk: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.model = model
        self.price = self.spent = 0.0
        self._vocabulary, self._readable = vocabulary, readable
        self._context, self._chunk = context, chunk
        self._clock = clock
        self._read: dict[int, _Read] = {}  # by the identity of the sequence, which the speculator keeps alive

    @property
    def nbytes(self) -> int:
        return sum(nbytes(read.cache) for read in self._read.values() if read.length)

    def read(self, sequences: Sequence[TokenSequence]) -> None:
        """Reads on in what these sequences have said, the first ones first."""
        began, left = self._clock(), self._chunk
        for sequence in sequences:
            if left and self._reads(sequence):
                text = _Text(sequence)
                left -= self._catch_up(self._of(sequence), text, len(text) - 1, left)
        self.spent += self._clock() - began

    def most(self, sequence: TokenSequence) -> int:
        """How many tokens it may be asked for: none before it has read the sequence."""
        length = _Text(sequence).said
        read_enough = self._reads(sequence) and length - self._of(sequence).length <= self._chunk
        return self._context - length if read_enough else 0

    def draft(self, sequence: TokenSequence, ahead: Sequence[int], number: int) -> list[int]:
        """The ``number`` tokens behind those of the sequence and the guesses ``ahead``, drawn as the sequence draws."""
        began, read = self._clock(), self._of(sequence)
        text, drafted = _Text(sequence, ahead), list[int]()
        first = len(sequence.ids) + len(ahead)
        self._catch_up(read, text, len(text) - 1, len(text))
        while len(drafted) < number:
            logits = self._pass(read, _Text(sequence, [*ahead, *drafted]))
            [drawn] = cast(list[int], read.sampler.draw(logits, [first + len(drafted)]).tokens.tolist())
            drafted.append(drawn)
            if drawn >= self._readable:
                break
        self.spent += self._clock() - began
        seconds = (self._clock() - began) / len(drafted)
        self.price = self.price + SMOOTHING * (seconds - self.price) if self.price else seconds
        return drafted

    def untried(self) -> None:
        """A draft was too dear to be asked for."""
        self.price *= 1 - FORGOTTEN

    def keep(self, sequences: Sequence[TokenSequence]) -> None:
        """Forgets all others."""
        here = {id(sequence) for sequence in sequences}
        self._read = {key: read for key, read in self._read.items() if key in here}

    def _of(self, sequence: TokenSequence) -> _Read:
        if id(sequence) not in self._read:
            as_it_draws = SequenceParameters(sequence.job.generation.sampling, sequence.choice)
            readable = max(sequence.job.prompt) < self._readable
            self._read[id(sequence)] = _Read(new_cache(self.model), Sampler([as_it_draws]), readable)
        return self._read[id(sequence)]

    def _reads(self, sequence: TokenSequence) -> bool:
        """Whether its ids are neither too many nor too high for the model."""
        if len(sequence.job.prompt) + len(sequence.ids) >= self._context:
            return False
        read = self._of(sequence)
        read.readable &= all(id < self._readable for id in sequence.ids[read.looked :])
        read.looked = len(sequence.ids)
        return read.readable

    def _catch_up(self, read: _Read, text: _Text, end: int, most: int) -> int:
        """Takes back what was guessed wrong, and reads on in ``text``, to ``end`` at the furthest.

        Reads at most so many tokens, and gives their number.
        """
        right = _alike(read.guesses, text.part(read.said, read.length))
        same = min(read.said + right, end)
        if same < read.length:
            for layer in read.cache:
                layer.trim(read.length - same)
        more = text.part(same, min(same + most, end))
        if more:
            feed(self.model, read.cache, [more])
        read.took(text, same + len(more))
        return len(more)

    def _pass(self, read: _Read, text: _Text) -> mx.array:
        """Logits (1, vocabulary) behind ``text``, of which all but the end was read."""
        ids = text.part(read.length, len(text))
        logits = forward(self.model, mx.array([ids]), read.cache)[:, -1, : self._vocabulary]
        read.took(text, len(text))
        return logits


def _alike(these: Sequence[int], those: Sequence[int]) -> int:
    """How many ids they have in common at their beginnings."""
    pairs = enumerate(zip(these, those, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(these), len(those)))
