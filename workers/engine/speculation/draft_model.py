"""A smaller model with the same tokens, which guesses what a sequence says next: one token after another.

Rule 1: only this module calls the draft model. What it guesses changes no token of an answer, whatever it is.
Rule 2: each sequence has keys and values of its own here. A wrong guess is taken back, which is a length.
Rule 3: a prompt is read a part at a time, so that a step is never held up for a whole one.
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


@dataclass
class _Read:
    """What the model has read of a sequence; ``fed``: the ids in ``cache``, guesses included."""

    cache: Cache
    sampler: Sampler
    readable: bool  # whether the model has embeddings for the prompt
    fed: list[int] = field(default_factory=list)


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
        return sum(nbytes(read.cache) for read in self._read.values() if read.fed)

    def read(self, sequences: Sequence[TokenSequence]) -> None:
        """Reads on in what these sequences have said, the first ones first."""
        began, left = self._clock(), self._chunk
        for sequence in sequences:
            known = self._known(sequence)
            if left and known:
                left -= self._catch_up(self._of(sequence), known[:-1], left)
        self.spent += self._clock() - began

    def most(self, sequence: TokenSequence) -> int:
        """How many tokens it may be asked for: none before it has read the sequence."""
        known = self._known(sequence)
        read_enough = known and len(known) - len(self._of(sequence).fed) <= self._chunk
        return self._context - len(known) if read_enough else 0

    def draft(self, sequence: TokenSequence, ahead: Sequence[int], number: int) -> list[int]:
        """The ``number`` tokens behind those of the sequence and the guesses ``ahead``, drawn as the sequence draws."""
        began, read = self._clock(), self._of(sequence)
        known, drafted = [*self._known(sequence), *ahead], list[int]()
        first = len(sequence.ids) + len(ahead)
        self._catch_up(read, known[:-1], len(known))
        while len(drafted) < number:
            logits = self._pass(read, [*known, *drafted][len(read.fed) :])
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

    def _known(self, sequence: TokenSequence) -> list[int]:
        """Its ids; none where they are too many or too high for the model."""
        prompt, ids = sequence.job.prompt, sequence.ids
        if len(prompt) + len(ids) >= self._context or max(ids, default=0) >= self._readable:
            return []
        return [*prompt, *ids] if self._of(sequence).readable else []

    def _catch_up(self, read: _Read, known: list[int], most: int) -> int:
        """Takes back what was guessed wrong, and reads at most so many tokens of ``known``; gives their number."""
        same = _alike(read.fed, known)
        if same < len(read.fed):
            for layer in read.cache:
                layer.trim(len(read.fed) - same)
            del read.fed[same:]
        if more := known[same : same + most]:
            feed(self.model, read.cache, [more])
            read.fed += more
        return len(more)

    def _pass(self, read: _Read, ids: list[int]) -> mx.array:
        """Logits (1, vocabulary) behind ``ids``."""
        logits = forward(self.model, mx.array([ids]), read.cache)[:, -1, : self._vocabulary]
        read.fed += ids
        return logits


def _alike(these: Sequence[int], those: Sequence[int]) -> int:
    """How many ids they have in common at their beginnings."""
    if these == those[: len(these)]:
        return len(these)
    pairs = enumerate(zip(these, those, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(these), len(those)))
