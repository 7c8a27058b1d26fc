"""A prefix in parts that others hold: what the prefix cache gives for a hit.

It is copied once, to where a pass attends to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
from mlx_lm.models.cache import KVCache

from workers.engine.kv.footprint import slab_tokens

Cache = list[KVCache]


@dataclass(frozen=True)
class KeptPrefix:
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

    def copied(self, tokens: int) -> Cache:
        """A cache to be written to, with room for so many tokens in all; lazy."""
        return [joined_layers(layers, self.length, tokens) for layers in self.layers()]


def joined_layers(layers: Sequence[KVCache], length: int, tokens: int) -> KVCache:
    """The first ``length`` tokens of these in a row, with room for ``tokens`` in all; lazy."""
    joined, room = KVCache(), slab_tokens(tokens)
    keys, values = (
        in_a_row(cut_to([getattr(layer, name) for layer in layers], length), room)
        for name in ("keys", "values")
    )
    joined.state = keys, values, length
    return joined


def cut_to(arrays: Sequence[mx.array], length: int) -> list[mx.array]:
    """The arrays (rows, heads, tokens, size) of which the first ``length`` tokens are."""
    cut, left = [], length
    for array in arrays:
        if left > 0:
            cut.append(array if array.shape[2] <= left else array[:, :, :left])
        left -= array.shape[2]
    return cut


def in_a_row(arrays: Sequence[mx.array], tokens: int) -> mx.array:
    """(1, heads, ``tokens``, size): the tokens of all arrays, then zeros."""
    like = arrays[0]
    missing = tokens - sum(array.shape[2] for array in arrays)
    room = mx.zeros((1, like.shape[1], missing, like.shape[3]), dtype=like.dtype)
    return mx.concatenate([*arrays, room], axis=2)
