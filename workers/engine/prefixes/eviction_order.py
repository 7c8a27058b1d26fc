"""Which node of the prefix cache goes next: a heap with lazy deletion, so that an eviction costs O(log n). Pure.

Rule 1: a node is offered whenever it may go for the first time since its last use; it is never taken out by hand.
Rule 2: an entry counts as long as its node still may go and was not used again; other entries are dropped when they
come to the top, or all at once when most of the heap would be such.
"""

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from workers.engine.prefixes.radix import Node

SPARE = 64  # entries that need not count

Held = TypeVar("Held")


class EvictionOrder(Generic[Held]):
    """``may_go``: whether a node, where it is now, may be evicted."""

    def __init__(self, may_go: Callable[[Node[Held]], bool]) -> None:
        self._may_go = may_go
        self._heap: list[tuple[int, int, Node[Held]]] = []
        self._offers = 0  # breaks ties, as nodes have no order
        self.visits = 0  # entries that were looked at

    def __len__(self) -> int:
        return len(self._heap)

    def offer(self, node: Node[Held], count: int) -> None:
        """``count``: how many nodes may be evicted at the most."""
        if self._may_go(node):
            self._offers += 1
            heappush(self._heap, (node.used, self._offers, node))
            if len(self._heap) > 2 * count + SPARE:
                self._drop_stale()

    def next(self) -> Node[Held] | None:
        """Takes the least recently used node that may go; None if there is none."""
        while self._heap:
            used, _, node = heappop(self._heap)
            self.visits += 1
            if self._counts(used, node):
                return node
        return None

    def _counts(self, used: int, node: Node[Held]) -> bool:
        return node.used == used and self._may_go(node)

    def _drop_stale(self) -> None:
        self.visits += len(self._heap)
        once = {node: (used, number, node) for used, number, node in self._heap if self._counts(used, node)}
        self._heap = list(once.values())
        heapify(self._heap)
