"""A prefix in parts that others hold: what the prefix cache gives for a hit.

It is copied once, to where a pass attends to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
from mlx_lm.models.cache import KVCache

from workers.engine.kv.footprint import GROWTH, rounded

Cache = list[KVCache]


@dataclass(frozen=True)
class SharedPrefix:
    """``parts``: full-attention caches in the order of their tokens, which nobody writes to; of all layers.

    ``length``: how many of their tokens are the prefix.
    """

    parts: Sequence[Cache]
    length: int

    @property
    def nbytes(self) -> int:
        """Of a copy."""
        there: int = sum(part[0].offset for part in self.parts)
        size: int = sum(layer.nbytes for part in self.parts for layer in part)
        return size * self.length // there

    def layers(self) -> list[tuple[KVCache, ...]]:
        """By layer: what holds its tokens."""
        return list(zip(*self.parts, strict=True))

    def copied(self, more: int = 0) -> Cache:
        """A cache to be written to, with room for so many more tokens; lazy."""
        return [joined_layers(layers, self.length, more) for layers in self.layers()]


def joined_layers(layers: Sequence[KVCache], length: int, more: int = 0) -> KVCache:
    """The first ``length`` tokens of these in a row, with room for so many more; lazy."""
    joined = KVCache()
    keys, values = ([getattr(layer, name) for layer in layers] for name in ("keys", "values"))
    joined.state = _in_a_row(keys, length, more), _in_a_row(values, length, more), length
    return joined


def cut_to(arrays: Sequence[mx.array], length: int) -> list[mx.array]:
    """The arrays (rows, heads, tokens, size) of which the first ``length`` tokens are."""
    cut, left = [], length
    for array in arrays:
        if left > 0:
            cut.append(array if array.shape[2] <= left else array[:, :, :left])
        left -= array.shape[2]
    return cut


def _in_a_row(arrays: Sequence[mx.array], length: int, more: int) -> mx.array:
    """(1, heads, tokens, size)."""
    wanted = cut_to(arrays, length)
    heads, size, dtype = arrays[0].shape[1], arrays[0].shape[3], arrays[0].dtype
    room = mx.zeros((1, heads, rounded(length + more, GROWTH) - length, size), dtype=dtype)
    return mx.concatenate([*wanted, room], axis=2)
