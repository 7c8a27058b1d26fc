"""The sequences that decode together, and the one forward pass that a step gives all of them.

A sequence joins with its first token if its prompt was prefilled with last logits, else it gets it from its first pass.
``launch`` may start a pass before the tokens of the last one were read, so that host and model work at the same time.
A sequence that turns out to have ended takes part in one more pass, whose token is dropped. Beside a sequence with a
grammar ``start`` runs the model, its last token makes the mask meanwhile, and ``draw`` gives the pass its tokens.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import cast

import mlx.core as mx

from workers.engine.kv.decode_caches import DecodeCaches
from workers.engine.kv.mlx_caches import Cache, TokenSpan
from workers.engine.sampling.grammar_masks import GrammarMasks
from workers.engine.sampling.logit_processors import logit_processor_for
from workers.engine.sampling.sampler import Drawn, Sampler, SequenceParameters
from workers.engine.scheduling.plan import Row
from workers.sequence import TokenLogprobs, TokenMask, TokenSequence

Forward = Callable[[mx.array, Cache], mx.array]  # tokens (rows, n), cache -> logits (rows, n, vocabulary)
Guided = tuple[int, TokenMask]  # the place of a sequence with a grammar


@dataclass
class BatchSlot:
    """A sequence in the batch. ``drawn``: index of its next draw, ahead of ``sequence.ids`` by the pending steps."""

    sequence: TokenSequence
    parameters: SequenceParameters
    drawn: int
    token: int  # the last known one; the first input, if the cache does not hold it yet
    launched: bool = False  # a pass had it
    id: str = ""

    def __post_init__(self) -> None:
        self.id = f"{self.sequence.job.request_id}/{self.sequence.choice}"

    @property
    def begun(self) -> bool:
        """Whether its client has tokens, or a launched pass will give some."""
        return self.launched or bool(self.sequence.ids)

    @property
    def length(self) -> int:
        """Tokens in its cache."""
        return len(self.sequence.job.prompt) - 1 + self.drawn

    @property
    def fed(self) -> list[int]:
        """The ids its cache holds."""
        known = [*self.sequence.job.prompt, *self.sequence.ids]
        return known[: self.length]

    @property
    def done(self) -> bool:
        return self.sequence.ended or self.drawn >= self.sequence.job.max_tokens


@dataclass
class PendingStep:
    """A pass that was launched: its batch slots, and the tokens it will give."""

    slots: list[BatchSlot]
    drawn: Drawn

    def collect(self) -> list[tuple[TokenSequence, int, TokenLogprobs | None]]:
        """Waits for the tokens; leaves out sequences that have ended meanwhile."""
        mx.eval(self.drawn.arrays)
        ids = cast(list[int], self.drawn.tokens.tolist())
        logprobs = self._logprobs()
        return [
            (slot.sequence, id, logprobs.get(i))
            for i, (slot, id) in enumerate(zip(self.slots, ids, strict=True))
            if not slot.sequence.ended
        ]

    def _logprobs(self) -> dict[int, TokenLogprobs]:
        logprobs = self.drawn.logprobs
        return dict(zip(self.drawn.logprob_rows, logprobs.entries(), strict=True)) if logprobs else {}


class Batch:
    """``leaving`` gets each sequence that ends, with a function that gives its cache."""

    def __init__(
        self,
        forward: Forward,
        caches: DecodeCaches,
        leaving: Callable[[BatchSlot, Callable[[int], Cache]], None],
    ) -> None:
        self._forward = forward
        self._caches = caches
        self._leaving = leaving
        self._slots: list[BatchSlot] = []
        self._inputs = mx.array([], dtype=mx.uint32)
        self._sampler = Sampler([])
        self._guided: list[Guided] = []

    def __len__(self) -> int:
        return sum(not slot.done for slot in self._slots)

    @property
    def occupied(self) -> bool:
        """Also by sequences that have ended and were not dropped yet."""
        return bool(self._slots)

    @property
    def fresh(self) -> bool:
        """Whether no sequence here has emitted a token."""
        return not any(slot.begun for slot in self._slots if not slot.done)

    @property
    def nbytes(self) -> int:
        return self._caches.nbytes

    def shown(self) -> tuple[Row, ...]:
        """What the scheduler is shown of the sequences; those that have ended must have been dropped."""
        jobs = (slot.sequence.job for slot in self._slots)
        return tuple(
            Row(slot.id, job.asker, slot.drawn, slot.begun, job.priority)
            for slot, job in zip(self._slots, jobs, strict=True)
        )

    def preempt(self, ids: Collection[str]) -> list[TokenSequence]:
        """Takes these sequences out, in this order. No step may be pending."""
        leaving = {slot.id: slot.sequence for slot in self._slots if slot.id in ids}
        self._keep_slots([i for i, slot in enumerate(self._slots) if slot.id not in leaving])
        return [leaving[id] for id in ids]

    @property
    def waits(self) -> bool:
        """Whether a draw needs its logits on the host, or a mask the last token: then collect before ``draw``."""
        return self._sampler.waits or bool(self._guided)

    def join(
        self, slots: list[BatchSlot], read: Cache, spans: list[TokenSpan], logits: mx.array | None = None
    ) -> PendingStep | None:
        """``spans`` are those of the batch slots' tokens in what was read.

        ``logits`` (slots, vocabulary) if the prompts were prefilled with them; the pending step has the first tokens.
        """
        self.drop_done()
        order = self._caches.join(read, spans)
        tokens = mx.array([slot.token for slot in slots], dtype=mx.uint32)
        first = None
        if logits is not None:
            first = _draw(slots, _sampler(slots), _guided(slots), logits, tokens)
            tokens = first.drawn.tokens
        self._inputs = mx.concatenate([self._inputs, tokens])
        self._slots = [*self._slots, *slots]
        self._set_order(order)
        return first

    def launch(self) -> PendingStep | None:
        """The pass that gives each sequence its next token; None when no sequence needs one."""
        logits = self.start()
        return None if logits is None else self.draw(logits)

    def start(self) -> mx.array | None:
        """Logits (sequences, vocabulary); MLX computes them at once if ``waits``."""
        self.drop_done()
        if not self._slots:
            return None
        self._caches.begin()
        logits = self._forward(self._inputs[:, None], self._caches.layers)[:, -1, :]
        if self.waits:
            mx.async_eval(logits)
        return logits

    def draw(self, logits: mx.array) -> PendingStep:
        """``logits`` as ``start`` gave them; sequences that ended since still take part."""
        pending = _draw(self._slots, self._sampler, self._guided, logits, self._inputs)
        self._inputs = pending.drawn.tokens
        for slot in self._slots:
            slot.launched = True
        return pending

    @property
    def sequences(self) -> list[TokenSequence]:
        return [slot.sequence for slot in self._slots]

    def make_room(self) -> Callable[[int], int]:
        """Drops what has ended and grows the caches for a pass; gives how many tokens of a sequence it may have."""
        self.drop_done()
        self._caches.resize()
        return self._caches.room

    def verify(self, guesses: Sequence[list[int]]) -> Iterator[PendingStep]:
        """One pass over the last token of each sequence and its guesses; then the draws of one index after another.

        The tokens of a pending step must have been pushed before the next one is asked for. A sequence takes part as
        long as the token it drew is the one that was guessed, so each draw has the logits, the grammar's state and the
        counts of a draw without guesses. Nothing may be pending.
        """
        slots, before = self._slots, [slot.drawn for slot in self._slots]
        fed = [[_last(slot), *some] for slot, some in zip(slots, guesses, strict=True)]
        starts = list(accumulate(map(len, fed), initial=0))
        self._caches.begin([len(ids) for ids in fed])
        inputs = mx.array([id for ids in fed for id in ids], dtype=mx.uint32)
        logits = self._forward(inputs[:, None], self._caches.layers)[:, -1, :]
        mx.eval(logits)
        left, place = list(range(len(slots))), 0
        while left:
            rows = mx.array([starts[i] + place for i in left], dtype=mx.int32)
            some = [slots[i] for i in left]
            yield _draw(some, _sampler(some), _guided(some), logits[rows], inputs[rows])
            place += 1
            left = [
                i
                for i in left
                if fed[i][place : place + 1] == slots[i].sequence.ids[-1:] and not slots[i].done
            ]
        self._caches.take_back(
            [len(ids) - slot.drawn + drawn for ids, slot, drawn in zip(fed, slots, before, strict=True)]
        )
        self._inputs = mx.array([_last(slot) for slot in slots], dtype=mx.uint32)
        for slot in slots:
            slot.launched = True

    def drop_done(self) -> None:
        """Takes out the sequences that have ended."""
        keep = [i for i, slot in enumerate(self._slots) if not slot.done]
        if len(keep) == len(self._slots):
            return
        for i, slot in enumerate(self._slots):
            if slot.done:
                self._leaving(slot, partial(self._caches.cache_of, i))
        self._keep_slots(keep)

    def _keep_slots(self, keep: list[int]) -> None:
        self._set_order(self._caches.keep(keep))

    def _set_order(self, order: list[int]) -> None:
        self._inputs = self._inputs[mx.array(order, dtype=mx.uint32)]
        self._slots = [self._slots[i] for i in order]
        self._sampler, self._guided = _sampler(self._slots), _guided(self._slots)


def parameters_of(sequence: TokenSequence, vocabulary: int) -> SequenceParameters:
    generation = sequence.job.generation
    return SequenceParameters(
        sampling=generation.sampling,
        choice=sequence.choice,
        logprobs=generation.logprobs,
        processor=logit_processor_for(
            generation, sequence.job.prompt, sequence.ids, sequence.ending, vocabulary
        ),
    )


def _sampler(slots: list[BatchSlot]) -> Sampler:
    return Sampler([slot.parameters for slot in slots])


def _last(slot: BatchSlot) -> int:
    return (slot.sequence.ids or [slot.token])[-1]


def _guided(slots: list[BatchSlot]) -> list[Guided]:
    return [(i, slot.sequence.guide) for i, slot in enumerate(slots) if slot.sequence.guide]


def _draw(
    slots: list[BatchSlot], sampler: Sampler, guided: list[Guided], logits: mx.array, last: mx.array
) -> PendingStep:
    """``last`` (slots,): the tokens before."""
    guided = [(i, guide) for i, guide in guided if not slots[i].sequence.ended]
    masks = GrammarMasks([(i, guide.mask()) for i, guide in guided]) if guided else None
    drawn = sampler.draw(logits, [slot.drawn for slot in slots], masks, last)
    mx.async_eval(drawn.arrays)
    for slot in slots:
        slot.drawn += 1
    return PendingStep(list(slots), drawn)
