"""What the engine stores in the prefix cache, of prompts and of ended sequences, and matches there again."""

from collections.abc import Callable
from functools import partial

from workers.engine.batch import BatchSlot
from workers.engine.kv.mlx_caches import Cache, TokenSpan, cut_out, extract, set_out
from workers.engine.kv.prefix_cache import PrefixCache
from workers.engine.prefill import PrefillTask

WORTH_KEEPING = 64  # prefilled tokens; a shorter prompt is prefilled faster than copied
EVERY = 512  # tokens of a long prompt behind which a checkpoint is stored, for prompts that differ further on


class PrefixReuse:
    """``full_attention``: of every layer; ``batches``: the caches of many sequences are one."""

    def __init__(self, prefixes: PrefixCache, *, full_attention: bool, batches: bool) -> None:
        self._prefixes = prefixes
        self._full_attention = full_attention
        self._batches = batches

    def match(self, task: PrefillTask) -> None:
        """Advances a task that has not begun behind the longest prefix that the cache has."""
        hit = (
            None if task.cache is not None or task.scores else self._prefixes.find(task.namespace, task.read)
        )
        if hit:
            task.advance(hit.cache, hit.length)
            task.now(kept=hit.length)
            for sequence in task.sequences:
                sequence.cached_tokens = min(hit.length, len(sequence.job.prompt))

    def wants_checkpoint(self, task: PrefillTask) -> bool:
        """Whether a long prompt has come far enough since the last one; with full attention all lengths match."""
        return not self._full_attention and task.done - task.shown.kept >= EVERY

    def half_prefilled(self, task: PrefillTask) -> None:
        """Stores the prefilled part of a task; a cancelled task stores it for its retry."""
        if task.cache is not None:
            task.now(kept=task.done)
            cache, span = task.cache, TokenSpan(0, 0, task.done)
            self._keep(task.namespace, task.ids[: task.done], partial(self._cut_out, cache, span))

    def prefilled(self, task: PrefillTask, cache: Cache, span: TokenSpan, tokens: int) -> None:
        """Stores a prompt whose last pass had ``tokens``; a short one is stored with its answer."""
        if tokens >= WORTH_KEEPING or not self._batches:
            self._keep(task.namespace, task.ids[: span.length], partial(self._cut_out, cache, span))

    def ended(self, slot: BatchSlot, cache: Callable[[int], Cache]) -> None:
        """Stores prompt and answer, the prefix of the conversation's next turn."""
        self._keep(slot.sequence.job.generation.cache_namespace, slot.fed, cache)

    def _keep(self, namespace: str, ids: list[int], cache: Callable[[int], Cache]) -> None:
        """Stores what is missing of ``ids``; ``cache`` copies a sequence's cache from a token on."""
        start = self._prefixes.missing(namespace, ids)
        if start is None:
            return
        own = cache(start)
        set_out(own)
        self._prefixes.keep(namespace, ids, own)

    def _cut_out(self, cache: Cache, span: TokenSpan, start: int) -> Cache:
        """A copy of one sequence's cache; of full layers from token ``start`` on."""
        if self._full_attention:
            return cut_out(cache, TokenSpan(span.row, span.start + start, span.length - start))
        return extract(cache, span.row, start)
