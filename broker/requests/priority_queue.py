"""Fair queues by priority: high before normal before low, with ageing, so that low never starves. Pure.

Rule 1: each level below high counts one ``ageing`` less of its waiting; the level whose oldest request has then waited
    longest goes first. So requests of higher priority that come two ``ageing`` later do not go before it.
Rule 2: within one priority callers take turns: see `shared.fair_queue`.
"""

from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import accumulate, chain
from typing import Generic, Protocol, TypeVar, get_args

from shared.callers import Asker
from shared.fair_queue import FairQueue
from shared.key_terms import Priority

LEVELS: tuple[Priority, ...] = get_args(Priority)  # the first goes first


class Ranked(Protocol):
    """``since``: when it began to wait, in seconds; it may be set anew while the item waits."""

    since: float

    @property
    def asker(self) -> Asker: ...
    @property
    def priority(self) -> Priority: ...


T = TypeVar("T", bound=Ranked)


class PriorityQueue(Generic[T]):
    def __init__(self, ageing: float) -> None:
        """``ageing``: seconds of waiting that weigh as much as one level."""
        self._ageing = ageing
        self._queues: dict[Priority, FairQueue[T]] = {level: FairQueue() for level in LEVELS}

    def __bool__(self) -> bool:
        return any(self._queues.values())

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable(self._queues.values())

    def in_order(self) -> Iterator[T]:
        """As they will be taken if nothing else comes."""
        return (item for _, _, item in merge(*map(self._ranked, LEVELS), key=lambda entry: entry[:2]))

    def heads(self) -> Iterator[T]:
        """The next request of each caller, in the order in which they should be taken."""
        levels = [level for level in LEVELS if self._queues[level]]
        if len(levels) > 1:
            levels.sort(key=lambda level: min(self._rank(item) for item in self._queues[level]))
        return chain.from_iterable(self._queues[level].heads() for level in levels)

    def put(self, item: T) -> None:
        self._queues[item.priority].put(item)

    def take(self, item: T) -> None:
        """Removes it as its caller's turn."""
        self._queues[item.priority].take(item)

    def remove(self, item: T) -> None:
        """Removes it without a turn being used."""
        self._queues[item.priority].remove(item)

    def _rank(self, item: T) -> float:
        return item.since + self._ageing * LEVELS.index(item.priority)

    def _ranked(self, level: Priority) -> Iterator[tuple[float, int, T]]:
        """With the least rank of all that come after it in its level, as the whole level goes by its oldest."""
        items: Sequence[T] = list(self._queues[level].in_order())
        least = [*accumulate((self._rank(item) for item in reversed(items)), min)]
        return ((rank, LEVELS.index(level), item) for rank, item in zip(reversed(least), items, strict=True))
