"""Admission by memory for keys and values: who may join the rows that decode, and what gives way; see ``kv.cost``.

It owns nothing: it looks at the rows and the prompts, and tells the caches and the prefix cache to give way.
"""

from collections.abc import Sequence
from functools import partial

from workers.engine.batch import Batch
from workers.engine.kv.budget import Budget
from workers.engine.kv.prefix_cache import PrefixCache
from workers.engine.prefill import Reading, Waiting, width_of
from workers.engine.prefix_reuse import Keeping


class Admission:
    def __init__(
        self, budget: Budget, batch: Batch, waiting: Waiting, prefixes: PrefixCache, keeping: Keeping
    ) -> None:
        self._budget = budget
        self._batch = batch
        self._waiting = waiting
        self._prefixes = prefixes
        self._keeping = keeping

    @property
    def held(self) -> int:
        """Bytes of the rows, their reserve included, and of the prompts that are read half-way."""
        return self._batch.nbytes + self._waiting.bytes

    def admits(self, reading: Reading, besides: Sequence[Reading] = ()) -> bool:
        """Whether it, and ``besides`` it others, can be read and seated beside all rows; the kept prompts give way.

        One always fits: when nobody decodes, what others have read half-way gives way too.
        """
        together = [*besides, reading]
        if self._fits(together):
            return True
        if besides or len(self._batch):
            return False
        self._squeeze(together)
        return True

    def rows_fit(self) -> bool:
        """Whether those that decode can have their next pass; the last one always can."""
        if self._fits():
            return True
        if len(self._batch) > 1:
            return False
        self._squeeze()
        return True

    def cap_kept(self) -> None:
        """Kept prompts may have what nobody else holds."""
        self._prefixes.shrink(max(0, self._budget.size - self.held))

    def _fits(self, reading: Sequence[Reading] = ()) -> bool:
        """Kept prompts give way first, then the reserve of the rows' caches; neither for what will not fit anyway."""
        free = self._budget.size - self._waiting.bytes + sum(each.bytes for each in reading)
        joining = [len(each.ids) for each in reading for _ in each.rows]
        needed_when = partial(self._budget.needed, joining, len(reading), width_of(reading))
        needed = needed_when(tight=False)
        if tight := needed > free:
            needed = needed_when(tight=True)
        if needed > free:
            return False
        self._budget.caches.tight = tight
        self._prefixes.shrink(free - needed)
        return True

    def _squeeze(self, reading: Sequence[Reading] = ()) -> None:
        """For the one that always fits: the half-read give way, and if need be all that is kept."""
        for other in self._waiting.half_read():
            if other not in reading:
                self._keeping.half_read(other)
                other.restart()
        if not self._fits(reading):
            self._budget.caches.tight = True
            self._prefixes.shrink(0)
