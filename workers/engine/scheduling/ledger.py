"""Memory and batch slots as the plan in the making would leave them: what fits, and what gives way. Pure.

Rule 1: the prefix cache gives way first, then the headroom; neither for what would not fit anyway.
Rule 2: one always fits. When no sequence decodes, partly prefilled tasks give way to the oldest one that may run, and
to no other: two that took each other's room in turn would never end. Beside it, once it is begun, fits what leaves room
for the whole of it.
See ``memory.cost`` for the rules of the bytes.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from workers.engine.kv.footprint import GROWTH
from workers.engine.memory.cost import HEADROOM
from workers.engine.scheduling.plan import Row, Task, View


@dataclass(frozen=True)
class Room:
    """What must give way before something fits. ``cache_bytes``: what the prefix cache may keep."""

    compact: bool = False
    cache_bytes: int = 0
    restart: tuple[str, ...] = ()


class Ledger:
    def __init__(self, view: View) -> None:
        self._memory = view.memory
        self._most_rows = view.limits.rows
        self._begun = [task for task in view.waiting if task.bytes]
        self._half_prefilled = sum(task.bytes for task in self._begun)
        self._places = list(range(len(view.running)))  # in the batch, of the rows that stay
        self._footprint = view.memory.footprint
        self.rows = list(view.running)
        self.oldest: Task | None = None  # of the tasks that may run; see rule 2
        self.preempted: list[str] = []
        self.room = Room(cache_bytes=view.memory.size)

    @property
    def free_rows(self) -> int:
        return self._most_rows - len(self.rows)

    def shares(self) -> Counter[str]:
        """Sequences of each caller in the batch."""
        return Counter(row.asker.caller for row in self.rows)

    def fits(self, task: Task, besides: Sequence[Task] = ()) -> Room | None:
        """What gives way for ``task`` and the tasks ``besides`` it, or None."""
        together = [*besides, task]
        if sum(each.sequences for each in together) > self.free_rows:
            return None
        return self._room_for(together)

    def oldest_fits(self) -> Room | None:
        """Rule 2; None where sequences decode."""
        return None if self.rows or self.oldest is None else self._squeezed([self.oldest])

    def take(self, room: Room) -> None:
        self.room = room

    def let_rows_grow(self) -> None:
        """Preempts the youngest sequences until the others can have their next pass; the last one always can."""
        while self.rows:
            if room := self._room_for(()):
                return self.take(room)
            if len(self.rows) == 1:
                return self.take(self._squeezed(()))
            self.preempt_youngest(self.rows)
        return None

    def preempt_youngest(self, rows: Iterable[Row]) -> None:
        """The one with fewest drawn tokens."""
        youngest = min(rows, key=lambda row: row.drawn)
        at = self.rows.index(youngest)
        self.rows.pop(at)
        self._places.pop(at)
        self.preempted.append(youngest.id)
        gone = set(range(len(self.preempted) + len(self.rows))).difference(self._places)
        self._footprint = self._memory.footprint.without(gone)

    def _room_for(self, tasks: Sequence[Task], restart: Sequence[Task] = ()) -> Room | None:
        free = self._memory.size - self._half_prefilled + sum(task.bytes for task in (*tasks, *restart))
        free -= self._kept_for_oldest(tasks)
        needed = self._needed(tasks, compact=False)
        if compact := needed > free:
            needed = self._needed(tasks, compact=True)
        return None if needed > free else Room(compact, free - needed, tuple(task.id for task in restart))

    def _kept_for_oldest(self, tasks: Sequence[Task]) -> int:
        """Bytes that the oldest task needs yet, beside ``tasks``."""
        oldest = self.oldest
        if not tasks or self.rows or oldest is None or not oldest.bytes or oldest in tasks:
            return 0
        whole = self._memory.cost.bytes(oldest.tokens + GROWTH, 1, chunk=self._memory.chunk)
        return max(0, whole - oldest.bytes)

    def _squeezed(self, tasks: Sequence[Task]) -> Room:
        """For what always fits."""
        kept = {task.id for task in tasks}
        restart = [task for task in self._begun if task.id not in kept]
        ids = tuple(task.id for task in restart)
        return self._room_for(tasks, restart) or Room(compact=True, cache_bytes=0, restart=ids)

    def _needed(self, tasks: Sequence[Task], *, compact: bool) -> int:
        """The peak of bytes from now until the prefilled sequences have joined the batch."""
        before = self._held((), 1, compact=compact)
        if not tasks:
            return before
        joining = [task.tokens for task in tasks for _ in range(task.sequences)]
        joins = joining, [tokens - 1 for tokens in joining]  # the last token is prefilled, or it is not
        after = (self._held(each, more, compact=compact) for each in joins for more in (1, HEADROOM))
        read = self._memory.cost.bytes(width_of(tasks) + GROWTH, len(tasks), chunk=self._memory.chunk)
        return max(before + read, *after)

    def _held(self, joining: Sequence[int], more: int, *, compact: bool) -> int:
        arrays, cost = self._footprint.arrays(joining, more, compact=compact), self._memory.cost
        spare = sum(rows for rows, _ in arrays) - len(self.rows) - len(joining)  # recurrent states have none
        return sum(cost.bytes(tokens, rows) for rows, tokens in arrays) - spare * cost.fixed


def width_of(tasks: Sequence[Task]) -> int:
    """The tokens of the tasks' padded cache, in which each rest begins after the longest ``start``."""
    start = max((task.start for task in tasks), default=0)
    return start + max((task.tokens - task.start for task in tasks), default=0)
