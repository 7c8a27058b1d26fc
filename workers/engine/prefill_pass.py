"""Runs the prefill pass of a plan: a chunk of one prompt, or the rest of several whose sequences then join the batch.

It waits for the pass or, where passes are launched ahead, only starts it. It is given the chunks of a plan and writes
the tasks of the queue, their caches and what the prefix cache stores of them. It knows no batch: what a pass gives is a
value (``Prefilled``), the sequences that are ready to join among it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import mlx.core as mx

from workers.engine.batch import BatchSlot, parameters_of
from workers.engine.forward import Compute, end_of, feed, feed_to_ends, start
from workers.engine.kv.decode_caches import DecodeCaches
from workers.engine.kv.kept_prefix import KeptPrefix
from workers.engine.kv.mlx_caches import (
    Cache,
    TokenSpan,
    evaluate,
    merge,
    new_cache,
    spans,
)
from workers.engine.prefill import PrefillQueue, PrefillTask
from workers.engine.prefix_reuse import PrefixReuse
from workers.engine.sampling.logprobs import score_prompt_tokens
from workers.engine.scheduling.pass_costs import PassCosts
from workers.engine.scheduling.plan import Chunk, Task
from workers.sequence import TokenLogprobs, TokenSequence

T = TypeVar("T")


@dataclass
class Joining:
    """Sequences that are ready to join the batch, as ``Batch.join`` takes them."""

    slots: list[BatchSlot]
    cache: Cache
    spans: list[TokenSpan]
    logits: mx.array | None  # (slots, vocabulary)


@dataclass
class RunningPrefill:
    """A pass that was started; ``ended`` is there when it has ended.

    ``tokens``: with padding, behind a context of ``behind``.
    """

    tokens: int
    behind: int
    ended: mx.array


@dataclass
class Prefilled:
    """What a pass gave. ``tokens``: without padding; ``unbegun``: sequences that want no token and must be finished.

    ``running``: None if the pass has ended.
    """

    tasks: list[Task]
    tokens: int
    running: RunningPrefill | None = None
    unbegun: list[TokenSequence] = field(default_factory=list)
    joining: Joining | None = None


class PrefillPasses:
    """``last_logits``: the pass that prefills the rest of a prompt gives its first token.

    ``land``: given where passes are only started. It waits for the pending ones, before a pass that has to be waited
    for, so that its time is its own.
    """

    def __init__(
        self,
        model: Any,
        vocabulary_size: int,
        waiting: PrefillQueue,
        reuse: PrefixReuse,
        caches: DecodeCaches,
        costs: PassCosts,
        *,
        last_logits: bool,
        land: Callable[[], None] | None,
    ) -> None:
        self._model = model
        self._vocabulary_size = vocabulary_size
        self._waiting = waiting
        self._reuse = reuse
        self._caches = caches
        self._costs = costs
        self._last_logits = last_logits
        self._land = land

    def run(self, chunks: Sequence[Chunk], *, behind_decode: bool = False) -> Prefilled | None:
        """Runs the pass of a plan; None if there is nothing to run.

        ``behind_decode``: a decode pass of this step has sized the batch's buffers, for as many tokens as were planned.
        """
        tasks = self._waiting.find(chunk.task for chunk in chunks)
        for task, chunk in zip(tasks, chunks, strict=True):
            self._reuse.match(task, chunk.start)
        # A prefix that was evicted for this plan is missing: the task has another turn.
        ready = [(task, chunk) for task, chunk in zip(tasks, chunks, strict=True) if task.done == chunk.start]
        for task, chunk in ready:
            self._lead(task, chunk)
        if not ready:
            return None
        if not behind_decode:
            self._caches.resize()
        if chunks[0].joins:
            return self._finish([task for task, _ in ready])
        [(task, chunk)] = ready
        return self._advance(task, chunk.end - chunk.start)

    def _lead(self, task: PrefillTask, chunk: Chunk) -> None:
        """The followers wait until the task has come to its pause."""
        if chunk.pause is not None:
            task.now(pause=chunk.pause)
            for follower in self._waiting.find(chunk.followers):
                follower.now(leader=task.id)

    # ------------------------------------------------------------ a chunk

    def _advance(self, task: PrefillTask, size: int) -> Prefilled:
        """Prefills a chunk of one prompt."""
        cache = self._own(task.cache, len(task.ids))
        stop, stops = task.shown.stop, task.shown.stops
        tokens, running = task.ids[task.done : task.done + size], None
        if task.scores:
            self._feed_scored(task, cache, tokens)
        else:
            _, running = self._computed(
                (size, task.done), cache, lambda compute: feed(self._model, cache, [tokens], compute)
            )
        task.advance(cache, size)
        self._reuse.advanced(task, cache, size)
        if (stops and task.done == stop) or self._reuse.wants_checkpoint(task, cache):
            self._reuse.half_prefilled(task)
        return Prefilled([task.shown], size, running)

    def _computed(
        self, size: tuple[int, int], cache: Cache, feed: Callable[[Compute], T]
    ) -> tuple[T, RunningPrefill | None]:
        """What ``feed`` gives. ``size``: tokens, and those of their context."""
        if self._land:
            return feed(start), RunningPrefill(*size, end_of(cache))
        with self._costs.timing(*size):
            return feed(evaluate), None

    def _feed_scored(self, task: PrefillTask, cache: Cache, tokens: list[int]) -> None:
        """Waits for the pass, because its log-probabilities are read."""
        if self._land:
            self._land()
        following = task.ids[task.done + 1 : task.done + 1 + len(tokens)]
        depth = task.sequences[0].job.generation.logprobs or 0
        with self._costs.timing(len(tokens), task.done):
            scores = score_prompt_tokens(self._model, cache, tokens, following, depth)
        _score(task.sequences, scores)

    # ------------------------------------------------------------ the rest

    def _finish(self, tasks: list[PrefillTask]) -> Prefilled:
        """Prefills the rest of these prompts; they leave the queue."""
        shown, sequences = [task.shown for task in tasks], [each for task in tasks for each in task.sequences]
        tokens, cache, where, logits, running = self._rest(tasks)
        self._waiting.remove(tasks)
        for task in tasks:
            if task.scores:
                _score(task.sequences, [])  # a prompt of one token had nothing to score
        unbegun = [sequence for sequence in sequences if not sequence.job.max_tokens]
        return Prefilled(shown, tokens, running, unbegun, self._joining(tasks, cache, where, logits))

    def _rest(
        self, tasks: list[PrefillTask]
    ) -> tuple[int, Cache, list[TokenSpan], mx.array | None, RunningPrefill | None]:
        """Tokens read, a cache of all tasks, the span of each in it, and the last logits (tasks, vocabulary).

        A task alone is not copied into a batch cache. The last ids are left out, and so the logits, where they would
        need a pass of their own.
        """
        to_ends = self._last_logits and any(task.left for task in tasks)
        rest = [task.ids[task.done : None if to_ends else -1] for task in tasks]
        padded = max(map(len, rest)) * len(rest)
        done, more = [task.done for task in tasks], [len(ids) for ids in rest]
        cache = self._taken(tasks)
        where = spans(cache, done, more)
        logits, running = None, None
        if padded:
            read = feed_to_ends if to_ends else feed
            logits, running = self._computed(
                (padded, max(done)), cache, lambda compute: read(self._model, cache, rest, compute)
            )
        for task, tokens, span in zip(tasks, more, where, strict=True):
            self._reuse.prefilled(task, cache, span, tokens)
        return sum(more), cache, where, logits, running

    def _taken(self, tasks: list[PrefillTask]) -> Cache:
        """One cache of the tasks, which keep none: a layer of theirs is freed when it was read beside the others."""
        if len(tasks) == 1 and self._caches.joins_alone:
            return self._own(tasks[0].give_up_cache(), len(tasks[0].ids))
        return merge([task.give_up_cache() or new_cache(self._model) for task in tasks])

    def _own(self, begun: Cache | KeptPrefix | None, tokens: int) -> Cache:
        """A cache to prefill into; behind a hit with room for so many tokens in all, so that none is copied again."""
        if begun is None:
            return new_cache(self._model)
        return begun.copied(tokens) if isinstance(begun, KeptPrefix) else begun

    def _joining(
        self, tasks: list[PrefillTask], cache: Cache, where: list[TokenSpan], logits: mx.array | None
    ) -> Joining | None:
        """The sequences that begin to decode, with what was prefilled for them."""
        beginning = [
            (i, sequence)
            for i, task in enumerate(tasks)
            for sequence in task.sequences
            if sequence.job.max_tokens and not sequence.ended
        ]
        if not beginning:
            return None
        slots = [
            BatchSlot(
                sequence, parameters_of(sequence, self._vocabulary_size), len(sequence.ids), tasks[i].ids[-1]
            )
            for i, sequence in beginning
        ]
        if logits is not None:
            logits = logits[mx.array([i for i, _ in beginning])]
        return Joining(slots, cache, [where[i] for i, _ in beginning], logits)


def _score(sequences: list[TokenSequence], scores: list[TokenLogprobs]) -> None:
    """The sequences of one prompt share the entries, which may be a hundred thousand."""
    sequences[0].score_prompt(scores)
    for sequence in sequences[1:]:
        sequence.prompt_logprobs = sequences[0].prompt_logprobs
