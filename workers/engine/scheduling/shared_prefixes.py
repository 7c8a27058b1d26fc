"""Which waiting prompts have a prefix in common, and which of them prefills it for the others. Pure.

The first stops at the end of the prefix and stores it in the prefix cache; the others wait and match it there. Tasks
stand in the order of their ids, so what two of them have in common is the least that any neighbours between them have.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from workers.engine.prefixes.radix import SMALLEST
from workers.engine.scheduling.plan import WORTH, Task


class Prefixes:
    """``waiting``: as a view has them."""

    def __init__(self, waiting: Sequence[Task]) -> None:
        self._waiting = waiting
        self._pausing = {task.id for task in waiting if task.pause is not None}
        self._places: dict[str, int] = {}

    def blocked(self, task: Task) -> bool:
        """Whether another one prefills its prefix."""
        return task.leader in self._pausing

    def lead(self, task: Task) -> tuple[Task, tuple[str, ...]]:
        """The task with the pause where most is saved, and those that wait for it; as it is if nothing is worth it."""
        if task.pause is not None:
            return task, ()
        followers = sorted(self._followers(task), key=lambda each: -each[0])
        saved = {length: count * (length - task.start) for count, (length, _) in enumerate(followers, 1)}
        best = max(saved, key=lambda length: saved[length], default=0)
        if not best or saved[best] < WORTH:
            return task, ()
        return replace(task, pause=best), tuple(other.id for length, other in followers if length >= best)

    def _followers(self, task: Task) -> Iterator[tuple[int, Task]]:
        """The tasks that could go on from it, each with the length they have in common."""
        for length, other in self._neighbours(task):
            if not other.done and not self.blocked(other) and length > max(other.cached, task.start):
                yield length, other

    def _neighbours(self, task: Task) -> Iterator[tuple[int, Task]]:
        self._places = self._places or {each.id: place for place, each in enumerate(self._waiting)}
        place = self._places[task.id]
        yield from self._alike(task, range(place - 1, -1, -1), 1)
        yield from self._alike(task, range(place + 1, len(self._waiting)), 0)

    def _alike(self, task: Task, places: Iterable[int], beside: int) -> Iterator[tuple[int, Task]]:
        length = task.tokens
        for place in places:
            length = min(length, self._waiting[place + beside].shares)
            if length < SMALLEST or length <= task.start:
                return
            yield length, self._waiting[place]
