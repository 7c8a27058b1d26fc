"""The states of a recurrent layer in the decode batch: arrays with a row for each sequence, in the order of the batch.

A pass replaces the arrays: the model makes new ones of as many rows as the pass has. Room for more rows would have to
be copied in each pass, so there is none. A sequence that leaves moves at most one other row where the batch does. One
that joins is put beside the others with one copy of the layer's rows, less than what a pass writes.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache

MovedRow = tuple[int, int, mx.array]  # the array, the new row, and what it holds
State = list[mx.array | None]  # of one sequence, each (1, ...); None before the first token


class StateRows(ArraysCache):
    """The interface of mlx-lm's cache, because models ask for its class."""

    cache: list[Any]  # arrays, or None before the first token

    @property
    def row_bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays())

    def arrays(self) -> list[mx.array]:
        return [array for array in self.cache if array is not None]

    def join(self, states: Sequence[State], order: Sequence[int]) -> None:
        """Adds rows and puts all of them into ``order``: indices of the rows before, then of the new ones."""
        before = len(order) - len(states)
        self.cache = [
            _joined(array, before, [state[entry] for state in states], order)
            for entry, array in enumerate(self.cache)
        ]

    def copies(self, order: Sequence[int]) -> list[MovedRow]:
        """Copies of the rows that move to come to this order; to be computed before ``keep``."""
        moves = [(row, to) for to, row in enumerate(order) if row != to]
        if 2 * len(moves) > len(order):
            return []
        return [
            (entry, to, array[mx.array([row])])
            for entry, array in enumerate(self.cache)
            if array is not None
            for row, to in moves
        ]

    def keep(self, order: Sequence[int], copies: Sequence[MovedRow]) -> None:
        """Keeps these rows, in this order."""
        if not order:
            self.cache = [None] * len(self.cache)
        elif copies or list(order) == list(range(len(order))):
            for entry, to, copy in copies:
                self.cache[entry][to : to + 1] = copy
            self.cache = [None if array is None else array[: len(order)] for array in self.cache]
        else:
            self.cache = [None if array is None else array[mx.array(list(order))] for array in self.cache]


def state_of(cache: ArraysCache, row: int | None) -> State:
    """One row of a prefilled cache; ``row`` None: of a sequence of which nothing was prefilled."""
    arrays: list[Any] = cache.cache
    return [None if array is None or row is None else array[row : row + 1] for array in arrays]


def _joined(
    array: mx.array | None, before: int, new: Sequence[mx.array | None], order: Sequence[int]
) -> mx.array | None:
    """One array of all rows; a sequence without a state begins with zeros."""
    like = array if array is not None else next((state for state in new if state is not None), None)
    if like is None:
        return None
    zeros = mx.zeros((1, *like.shape[1:]), dtype=like.dtype)
    old = [array] if array is not None else [zeros] * before
    together = mx.concatenate([*old, *(zeros if state is None else state for state in new)])
    return together if list(order) == list(range(len(order))) else together[mx.array(list(order))]
