"""What all layers of a pass need alike, made by the first of them."""

import threading
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import mlx.core as mx

T = TypeVar("T")

_own = threading.local()


def begin_pass() -> None:
    """Before each pass of a batch: a cache may count its offsets on in the arrays of the pass before."""
    _own.passes = _passes() + 1


def _passes() -> int:
    return getattr(_own, "passes", 0)


class PassMemo(threading.local, Generic[T]):
    """Remembers the last value of each key in this pass, with the sources it was computed from."""

    def __init__(self) -> None:
        self._made: dict[Hashable, tuple[tuple[Any, ...], T]] = {}

    def get(self, key: Hashable, sources: tuple[Any, ...], make: Callable[[], T]) -> T:
        """The value of ``key``; computed by ``make`` in a new pass or with other sources.

        Arrays among ``sources`` are compared by identity, and referenced so that no other array gets their id.
        """
        sources = _passes(), *sources
        known = self._made.get(key)
        if known is None or not all(map(_same, known[0], sources)):
            known = self._made[key] = sources, make()
        return known[1]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, mx.array) or isinstance(other, mx.array):
        return one is other
    return bool(one == other)
