"""What the engine stores in the prefix cache, of prompts and of ended sequences, and matches there again.

Rule: what came before its namespace was told to forget goes on, and nothing of it is stored any more.
"""

import time
from collections.abc import Callable
from functools import partial

from workers.engine.batch import BatchSlot
from workers.engine.disk.chain import BLOCK
from workers.engine.disk.tier import STRIDE, Disk
from workers.engine.kv.kept_prefix import KeptPrefix
from workers.engine.kv.mlx_caches import Cache, TokenSpan, copy_of, is_full_attention, set_out
from workers.engine.prefill import PrefillQueue, PrefillTask
from workers.engine.prefixes.prefix_cache import PrefixCache
from workers.job import Forgotten
from workers.sequence import TokenSequence

WORTH_KEEPING = 64  # prefilled tokens; a shorter prompt is prefilled faster than copied
EVERY = 512  # tokens of a long prompt behind which a checkpoint is stored, for prompts that differ further on


class PrefixReuse:
    """``batches``: the caches of many sequences are one."""

    def __init__(self, prefixes: PrefixCache, disk: Disk, *, batches: bool) -> None:
        self._prefixes = prefixes
        self._disk = disk
        self._batches = batches
        self.forgets = 0  # how often something was forgotten
        self._forgotten: dict[str, int] = {}  # by namespace: the last of them
        self._all_forgotten = 0

    def forget(self, namespace: str | None, done: Callable[[Forgotten], None]) -> None:
        """``done`` may be called on another thread, once nothing is on disk either."""
        self.forgets += 1
        if namespace is None:
            self._all_forgotten = self.forgets
        else:
            self._forgotten[namespace] = self.forgets
        memory = self._prefixes.forget(namespace)
        self._disk.forget(namespace, lambda disk, reason: done(Forgotten(memory, disk, reason)))

    def _may_keep(self, sequence: TokenSequence) -> bool:
        namespace = sequence.job.generation.cache_namespace
        return sequence.forgets >= max(self._all_forgotten, self._forgotten.get(namespace, 0))

    def queue(self, waiting: PrefillQueue, ids: list[int], sequences: list[TokenSequence], step: int) -> None:
        """Queues a prompt, at once or when it has been looked for on disk."""
        now, job = time.monotonic(), sequences[0].job
        memory = self._prefixes.matched(job.generation.cache_namespace, ids[:-1])
        if job.scores_prompt or not self._disk.ask(ids, sequences, step, now, memory):
            waiting.add(ids, sequences, step, now)

    def take_arrivals(
        self, waiting: PrefillQueue, free: int, seconds: Callable[[int, int], float], *, idle: bool
    ) -> None:
        """Queues prompts that were looked for on disk, with what was found of them; see ``DiskTier.landed``."""
        if idle:
            self._disk.wait()
        for ids, sequences, since, came, found in self._disk.landed(free, seconds, idle=idle):
            task = waiting.add(ids, sequences, since, came)
            if found:
                self.restored(task, *found)

    def match(self, task: PrefillTask, start: int) -> None:
        """Advances a task that has not begun behind the longest prefix that the cache has, if it ends at ``start``.

        Else a task that has to wait would hold what may be evicted or forgotten meanwhile.
        """
        if task.cache is not None or task.scores:
            return
        if self._prefixes.matched(task.namespace, task.read) != start:
            return
        if hit := self._prefixes.find(task.namespace, task.read):
            self.restored(task, hit.cache, hit.length)

    def restored(self, task: PrefillTask, cache: Cache | KeptPrefix, tokens: int) -> None:
        """Advances a task that has not begun behind what was found of it, in memory or on disk."""
        task.advance(cache, tokens)
        task.now(kept=tokens)
        for sequence in task.sequences:
            sequence.cached_tokens = min(tokens, len(sequence.job.prompt))

    def advanced(self, task: PrefillTask, cache: Cache, tokens: int) -> None:
        """Offers a long prompt to the disk now and then, so that a killed worker's is not prefilled from its start.

        What has checkpoints is offered with them.
        """
        far = task.done // STRIDE > (task.done - tokens) // STRIDE
        if far and is_full_attention(cache):
            cut = partial(copy_of, cache, TokenSpan(0, 0, task.done))
            self._offer(task.sequences[0], task.ids[: task.done // BLOCK * BLOCK], cut)

    def wants_checkpoint(self, task: PrefillTask, cache: Cache) -> bool:
        """Whether a long prompt has come far enough since the last one, where a checkpoint serves one length only."""
        return task.done - task.shown.kept >= EVERY and not is_full_attention(cache)

    def half_prefilled(self, task: PrefillTask) -> None:
        """Stores the prefilled part of a task; a cancelled task stores it for its retry."""
        if task.cache is not None and not isinstance(task.cache, KeptPrefix):
            task.now(kept=task.done)
            cut = partial(copy_of, task.cache, TokenSpan(0, 0, task.done))
            self._keep(task.sequences[0], task.ids[: task.done], cut)

    def prefilled(self, task: PrefillTask, cache: Cache, span: TokenSpan, tokens: int) -> None:
        """Stores a prompt whose last pass had ``tokens``; a short one is stored with its answer."""
        ids, cut = task.ids[: span.length], partial(copy_of, cache, span)
        if tokens >= WORTH_KEEPING or not self._batches:
            self._keep(task.sequences[0], ids, cut)
        else:
            self._offer(task.sequences[0], ids, cut)

    def ended(self, slot: BatchSlot, cache: Callable[[int], Cache]) -> None:
        """Stores prompt and answer, the prefix of the conversation's next turn."""
        self._keep(slot.sequence, slot.fed, cache)

    def _offer(self, sequence: TokenSequence, ids: list[int], cache: Callable[[int], Cache]) -> None:
        if self._may_keep(sequence):
            self._disk.offer(sequence.job.generation.cache_namespace, ids, cache)

    def _keep(self, sequence: TokenSequence, ids: list[int], cache: Callable[[int], Cache]) -> None:
        """Stores what is missing of ``ids``; ``cache`` copies a sequence's cache from a token on."""
        if not self._may_keep(sequence):
            return
        namespace = sequence.job.generation.cache_namespace
        self._disk.offer(namespace, ids, cache)
        start = self._prefixes.missing(namespace, ids)
        if start is None:
            return
        own = cache(start)
        set_out(own)
        self._prefixes.keep(namespace, ids, own)
