"""Admission by memory for keys and values: which prompts may be prefilled, and what gives way; see ``kv.cost``.

It owns no state: it reads the batch and the queue, and tells the caches and the prefix cache to shrink.
"""

from collections.abc import Sequence
from functools import partial

from workers.engine.batch import Batch
from workers.engine.kv.budget import Budget
from workers.engine.kv.prefix_cache import PrefixCache
from workers.engine.prefill import PrefillQueue, PrefillTask, width_of
from workers.engine.prefix_reuse import PrefixReuse


class KvAdmission:
    def __init__(
        self, budget: Budget, batch: Batch, waiting: PrefillQueue, prefixes: PrefixCache, reuse: PrefixReuse
    ) -> None:
        self._budget = budget
        self._batch = batch
        self._waiting = waiting
        self._prefixes = prefixes
        self._reuse = reuse

    @property
    def held(self) -> int:
        """Bytes of the decoding sequences, headroom included, and of the partly prefilled tasks."""
        return self._batch.nbytes + self._waiting.bytes

    def admits(self, task: PrefillTask, besides: Sequence[PrefillTask] = ()) -> bool:
        """Whether ``task`` and the tasks ``besides`` it fit beside all sequences; the prefix cache gives way.

        One always fits: when no sequence decodes, partly prefilled tasks give way too.
        """
        together = [*besides, task]
        if self._fits(together):
            return True
        if besides or len(self._batch):
            return False
        self._squeeze(together)
        return True

    def sequences_fit(self) -> bool:
        """Whether the decoding sequences can have their next pass; the last one always can."""
        if self._fits():
            return True
        if len(self._batch) > 1:
            return False
        self._squeeze()
        return True

    def cap_prefix_cache(self) -> None:
        """The prefix cache may have what sequences and tasks leave."""
        self._prefixes.shrink(max(0, self._budget.size - self.held))

    def _fits(self, task: Sequence[PrefillTask] = ()) -> bool:
        """The prefix cache gives way first, then the headroom; neither for what would not fit anyway."""
        free = self._budget.size - self._waiting.bytes + sum(each.bytes for each in task)
        joining = [len(each.ids) for each in task for _ in each.sequences]
        needed_when = partial(self._budget.needed, joining, len(task), width_of(task))
        needed = needed_when(compact=False)
        if compact := needed > free:
            needed = needed_when(compact=True)
        if needed > free:
            return False
        self._budget.caches.compact = compact
        self._prefixes.shrink(free - needed)
        return True

    def _squeeze(self, task: Sequence[PrefillTask] = ()) -> None:
        """Frees memory for the task that always fits: restarts partly prefilled tasks, then clears the prefix cache."""
        for other in self._waiting.half_prefilled():
            if other not in task:
                self._reuse.half_prefilled(other)
                other.restart()
        if not self._fits(task):
            self._budget.caches.compact = True
            self._prefixes.shrink(0)
