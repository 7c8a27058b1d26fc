"""A queue in which callers take turns: the first come of each first. Pure."""

from collections import OrderedDict, deque
from collections.abc import Iterator
from itertools import chain
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[T]] = (
            OrderedDict()
        )  # none of them empty; whose turn is next, first

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __bool__(self) -> bool:
        return bool(self._queues)

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable(self._queues.values())

    def put(self, caller: str, item: T) -> None:
        self._queues.setdefault(caller, deque()).append(item)

    def take(self) -> T:
        """Raises KeyError when nothing waits."""
        caller, queue = self._queues.popitem(last=False)
        item = queue.popleft()
        if queue:
            self._queues[caller] = queue
        return item

    def remove(self, caller: str, item: T) -> bool:
        """Whether it was here."""
        queue = self._queues.get(caller)
        if queue is None or item not in queue:
            return False
        queue.remove(item)
        if not queue:
            del self._queues[caller]
        return True
