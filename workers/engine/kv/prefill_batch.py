"""The padded prefill batch: full-attention keys and values of prompts in one pass, all aligned at their starts.

mlx-lm's batch cache aligns sequences at their ends. Aligned at their starts, as in ``slots``, the sums of a sequence do
not depend on how many tokens of the others were prefilled before (rule 1 of ``attention``).
"""

from collections.abc import Sequence

import mlx.core as mx
from mlx_lm.models.cache import KVCache


class PaddedPrefillLayer:
    """The padded keys and values of one layer for one pass: (rows, heads, tokens, size), or None before any token."""

    def __init__(self, offset: mx.array, done: list[int], begun: Sequence[KVCache]) -> None:
        self.offset = offset  # (rows,): tokens prefilled before; the same array in all layers
        self._done = done
        self._begun = begun
        self.keys = _side_by_side([layer.keys for layer in begun], done)
        self.values = _side_by_side([layer.values for layer in begun], done)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Appends the same number of tokens to every row; shorter rows are padded at their ends."""
        begun, self._begun = self._begun, []
        self.keys = _side_by_side([layer.keys for layer in begun], self._done, keys)
        self.values = _side_by_side([layer.values for layer in begun], self._done, values)
        return self.keys_and_values()

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """The keys and values; also read by layers that share this layer's cache."""
        assert self.keys is not None and self.values is not None
        return self.keys, self.values

    def make_mask(
        self, n: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | str | None:
        """The mask (rows, 1, tokens, keys), or \"causal\", or None if everything is visible."""
        if min(self._done) == max(self._done) and window_size is None and not return_array:
            return "causal" if n > 1 else None
        there = mx.arange(max(self._done) + n)
        here = (self.offset[:, None] + mx.arange(n))[:, None, :, None]
        seen = there <= here
        return seen if window_size is None else seen & (here < there + window_size)

    @property
    def state(self) -> list[mx.array]:
        return [array for array in (self.keys, self.values) if array is not None]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.state)


def padded_prefill_batch(caches: list[list[KVCache]]) -> list[PaddedPrefillLayer]:
    """One padded batch cache for sequences of unlike length."""
    done = [cache[0].offset for cache in caches]
    offset = mx.array(done, dtype=mx.int32)
    return [PaddedPrefillLayer(offset, done, layers) for layers in zip(*caches, strict=True)]


def _side_by_side(
    begun: Sequence[mx.array | None], done: list[int], new: mx.array | None = None
) -> mx.array | None:
    """Pads to (rows, heads, tokens, size): the first ``done`` tokens of each row, then its new tokens."""
    if not any(done):
        return new
    before = [
        array if array is None else array[:, :, :length] for array, length in zip(begun, done, strict=True)
    ]
    if min(done) == max(done):
        together = mx.concatenate([array for array in before if array is not None])
        return together if new is None else mx.concatenate([together, new], axis=2)
    like = next(array for array in before if array is not None)
    more = 0 if new is None else new.shape[2]
    room = mx.zeros((len(done), like.shape[1], max(done) + more, like.shape[3]), dtype=like.dtype)
    for row, (array, length) in enumerate(zip(before, done, strict=True)):
        if array is not None:
            room[row : row + 1, :, :length] = array
        if new is not None:
            room[row : row + 1, :, length : length + more] = new[row : row + 1]
    return room
