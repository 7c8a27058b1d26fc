"""The padded prefill batch: full-attention keys and values of prompts in one pass, all aligned at their starts.

mlx-lm's batch cache aligns sequences at their ends. Aligned at their starts, as in ``slots``, the sums of a sequence do
not depend on how many tokens of the others were prefilled before (rule 1 of ``attention``). And the arrays of a pass
can become those of a slab, without a copy: see ``slab``.
"""

from collections.abc import Sequence

import mlx.core as mx
from mlx_lm.models.cache import KVCache

from workers.engine.kv.footprint import slab_tokens
from workers.engine.kv.kept_prefix import KeptPrefix, cut_to, in_a_row

Parts = Sequence[KVCache]  # of one layer: what holds the tokens of a row that were prefilled before, in order


class PaddedPrefillLayer:
    """The padded keys and values of one layer for one pass: (rows, heads, tokens, size), or None before any token.

    The arrays may have room behind the tokens of the pass, as a slab has. ``keys`` and ``values`` are made when they
    are first asked for, because a pass makes others.
    """

    def __init__(self, offset: mx.array, done: list[int], begun: Sequence[Parts]) -> None:
        self.offset = offset  # (rows,): the position of the first new token; the same array in all layers
        self._before = offset  # tokens prefilled before
        self._done = done
        self._begun = begun
        self._width = max(done)
        self._more: list[int] | None = None  # tokens of each row in the pass, if some are padded
        self._arrays: tuple[mx.array | None, mx.array | None] | None = None

    @property
    def keys(self) -> mx.array | None:
        return self._made()[0]

    @property
    def values(self) -> mx.array | None:
        return self._made()[1]

    def _made(self) -> tuple[mx.array | None, mx.array | None]:
        if self._arrays is None:
            self._arrays = self._side_by_side("keys"), self._side_by_side("values")
        return self._arrays

    def let_go(self) -> None:
        """Of the arrays: they are others' from now on."""
        self._arrays, self._begun = (None, None), []

    def prepare(self, *, lengths: list[int], right_padding: list[int]) -> None:
        """As mlx-lm's batch caches: how many tokens each row has in the pass; what pads the others is not kept."""
        self._more = lengths

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Appends the same number of tokens to every row; shorter rows are padded at their ends."""
        self._width = max(self._done) + keys.shape[2]
        self._arrays = self._side_by_side("keys", keys), self._side_by_side("values", values)
        self._begun = []
        return self.keys_and_values()

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """The keys and values; also read by layers that share this layer's cache."""
        keys, values = self._made()
        assert keys is not None and values is not None
        return keys[:, :, : self._width], values[:, :, : self._width]

    def place(self, positions: mx.array) -> None:
        """Gives the first new token of each row this position; it is written behind those before all the same."""
        self.offset = positions

    def make_mask(
        self, n: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | str | None:
        """The mask (rows, 1, tokens, keys), or \"causal\", or None if everything is visible."""
        if min(self._done) == max(self._done) and window_size is None and not return_array:
            return "causal" if n > 1 else None
        there = mx.arange(max(self._done) + n)
        here = (self._before[:, None] + mx.arange(n))[:, None, :, None]
        seen = there <= here
        return seen if window_size is None else seen & (here < there + window_size)

    @property
    def state(self) -> list[mx.array]:
        return [array for array in (self.keys, self.values) if array is not None]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.state)

    def _side_by_side(self, name: str, new: mx.array | None = None) -> mx.array | None:
        """The keys or the values of all rows, each with its new ones; lazy, and each token is copied once."""
        if not any(self._done):
            return new
        begun = [
            cut_to([getattr(part, name) for part in parts], length) if length else []
            for parts, length in zip(self._begun, self._done, strict=True)
        ]
        if new is not None:
            more = self._more or [new.shape[2]] * len(begun)
            for row, arrays in enumerate(begun):
                arrays.append(new[row : row + 1, :, : more[row]])
        tokens = slab_tokens(self._width)
        return in_a_row(begun[0], tokens) if len(begun) == 1 else _below_each_other(begun, tokens)


def padded_prefill_batch(begun: Sequence[Sequence[KVCache] | KeptPrefix]) -> list[PaddedPrefillLayer]:
    """One padded batch cache for sequences of unlike length."""
    rows = [each.layers() if isinstance(each, KeptPrefix) else [(layer,) for layer in each] for each in begun]
    done = [each.length if isinstance(each, KeptPrefix) else each[0].offset for each in begun]
    offset = mx.array(done, dtype=mx.int32)
    return [PaddedPrefillLayer(offset, done, layers) for layers in zip(*rows, strict=True)]


def _below_each_other(rows: Sequence[Sequence[mx.array]], tokens: int) -> mx.array:
    """(rows, heads, ``tokens``, size): the tokens of each row's arrays, then zeros."""
    like = next(array for arrays in rows for array in arrays)
    together = mx.zeros((len(rows), like.shape[1], tokens, like.shape[3]), dtype=like.dtype)
    for row, arrays in enumerate(rows):
        start = 0
        for array in arrays:
            together[row : row + 1, :, start : start + array.shape[2]] = array
            start += array.shape[2]
    return together
