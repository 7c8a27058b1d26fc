"""A queue in which callers take turns, and each caller's items stay in their order. Pure."""

from collections import OrderedDict, deque
from collections.abc import Iterator
from itertools import chain
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    def __init__(self) -> None:
        # By caller, never empty; the caller whose turn is next comes first.
        self._queues: OrderedDict[str, deque[T]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __bool__(self) -> bool:
        return bool(self._queues)

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable(self._queues.values())

    def put(self, caller: str, item: T) -> None:
        self._queues.setdefault(caller, deque()).append(item)

    def take(self) -> T:
        """Raises KeyError if the queue is empty."""
        caller, queue = self._queues.popitem(last=False)
        item = queue.popleft()
        if queue:
            self._queues[caller] = queue
        return item

    def remove(self, caller: str, item: T) -> bool:
        """Returns whether the item was queued."""
        queue = self._queues.get(caller)
        if queue is None or item not in queue:
            return False
        queue.remove(item)
        if not queue:
            del self._queues[caller]
        return True
