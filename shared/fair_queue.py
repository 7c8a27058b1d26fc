"""A queue in which callers take turns, and the groups of one caller within its turns. Pure.

Rule 1: the requests of one group keep their order.
Rule 2: a caller, or a group, that has had its turn goes behind all others that wait.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from typing import Generic, Protocol, TypeVar

from shared.callers import Asker


class Asked(Protocol):
    @property
    def asker(self) -> Asker: ...


T = TypeVar("T", bound=Asked)


def _in_turns(queues: Sequence[Iterable[T]]) -> Iterator[T]:
    """The first of each, then the second of each."""
    for turn in zip_longest(*queues):
        yield from (item for item in turn if item is not None)


class FairQueue(Generic[T]):
    def __init__(self) -> None:
        self._callers: OrderedDict[str, OrderedDict[str, deque[T]]] = OrderedDict()  # nothing in it is empty

    def __bool__(self) -> bool:
        return bool(self._callers)

    def __iter__(self) -> Iterator[T]:
        groups = chain.from_iterable(groups.values() for groups in self._callers.values())
        return chain.from_iterable(groups)

    def in_order(self) -> Iterator[T]:
        """As they will be taken if nothing else comes."""
        callers = [list(_in_turns(list(groups.values()))) for groups in self._callers.values()]
        return _in_turns(callers)

    def put(self, item: T) -> None:
        caller, group = item.asker
        self._callers.setdefault(caller, OrderedDict()).setdefault(group, deque()).append(item)

    def heads(self) -> Iterator[T]:
        """The next request of each caller; the caller whose turn it is comes first."""
        return (next(iter(groups.values()))[0] for groups in self._callers.values())

    def take(self, item: T) -> None:
        """Removes it as its caller's turn."""
        self.remove(item)
        caller, group = item.asker
        if groups := self._callers.get(caller):
            self._callers.move_to_end(caller)
            if group in groups:
                groups.move_to_end(group)

    def remove(self, item: T) -> None:
        """Removes it without a turn being used. Raises KeyError or ValueError when it is not here."""
        caller, group = item.asker
        groups = self._callers[caller]
        groups[group].remove(item)
        if not groups[group]:
            del groups[group]
        if not groups:
            del self._callers[caller]
