"""Closes thinking at a budget: from then on only the tokens of its end delimiter are allowed, one after the other.

Stands in front of a choice's grammar, if it has one. Its state is a function of the ids taken and of what the choice's
filter says of them, so a resumed choice comes to the same state.
"""

from collections.abc import Callable, Sequence

import numpy as np

from workers.grammars.grammar import Guide, Mask


class ThinkingBudget:
    """``due``: whether the choice thinks and has used its budget; ``closing``: ids; ``size``: ids of the vocabulary."""

    def __init__(
        self, inner: Guide | None, due: Callable[[], bool], closing: Sequence[int], size: int
    ) -> None:
        self._inner = inner
        self._due = due
        self._closing = closing
        self._size = size
        self._closed = 0  # ids of ``closing`` that were taken

    @property
    def complete(self) -> bool:
        return self._inner is not None and self._inner.complete

    @property
    def failed(self) -> bool:
        return self._inner is not None and self._inner.failed

    def take(self, id: int) -> None:
        self._closed += self._closes
        if self._inner is not None:
            self._inner.take(id)

    def mask(self) -> Mask:
        if self._closes:
            bits = np.zeros(8 * -(-self._size // 8), dtype=np.uint8)
            bits[self._closing[self._closed]] = 1
        elif self._inner is not None:
            return self._inner.mask()
        else:
            bits = np.ones(8 * -(-self._size // 8), dtype=np.uint8)
        return np.packbits(bits, bitorder="little")

    def forced(self) -> list[int]:
        if self._closes:
            return list(self._closing[self._closed :])
        return self._inner.forced() if self._inner is not None else []

    @property
    def _closes(self) -> bool:
        if self._closed == len(self._closing):
            return False
        return self._closed > 0 or self._due()
