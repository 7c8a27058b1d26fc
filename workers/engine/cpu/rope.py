"""Computes rotary position embeddings on a CPU, with one table of sines per pass instead of one per layer.

MLX computes the sines in every layer, with some twenty operations; that was a twelfth of a decode step (8 sequences, a
135M model). Here a rotation is x cos + swap(x) sin, where swap is a product with a matrix that has one 1 or -1 per row.
The result is bit-identical to MLX's. MLX computes the table: it rotates an array of ones.
"""

from functools import cache, partial
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from workers.engine.pass_memo import PassMemo

_theirs = mx.fast.rope
_tables: PassMemo["tuple[mx.array, mx.array]"] = PassMemo()


class Plane(NamedTuple):
    """The pairs of elements of a head. ``swap``: (size, size), the others (size,)."""

    swap: mx.array
    ones: mx.array  # 1 at the first element of each pair and at elements that are not rotated
    first: mx.array  # for each element, the index of the first of its pair
    second: mx.array
    rotated: mx.array  # 1 or 0


def rope(
    x: mx.array,
    dims: int,
    *,
    traditional: bool,
    base: float | None,
    scale: float,
    offset: int | mx.array,
    freqs: mx.array | None = None,
    stream: mx.Stream | None = None,
) -> mx.array:
    """Replaces ``mx.fast.rope``, except for batched prompts, because each of their layers has its own offsets."""
    batched_prompts = isinstance(offset, mx.array) and x.ndim == 4 and x.shape[2] > 1
    if batched_prompts or x.ndim != 4 or x.dtype != mx.float32 or stream is not None:
        return _theirs(
            x,
            dims,
            traditional=traditional,
            base=base,
            scale=scale,
            offset=offset,
            freqs=freqs,
            stream=stream,
        )
    rows, _, tokens, size = x.shape
    plane = _plane(size, dims, traditional)

    def table() -> tuple[mx.array, mx.array]:
        ones = mx.broadcast_to(plane.ones, (rows, 1, tokens, size))
        rotated_ones = _theirs(
            ones, dims, traditional=traditional, base=base, scale=scale, offset=offset, freqs=freqs
        )
        return rotated_ones[..., plane.first], rotated_ones[..., plane.second] * plane.rotated

    kind = size, dims, traditional, base, scale
    cosines, sines = _tables.get(kind, (rows, tokens, offset, freqs), table)
    return _rotated(x, x @ plane.swap, cosines, sines)


@partial(mx.compile, shapeless=True)
def _rotated(x: mx.array, swapped: mx.array, cosines: mx.array, sines: mx.array) -> mx.array:
    return x * cosines + swapped * sines


@cache
def _plane(size: int, dims: int, traditional: bool) -> Plane:
    pairs = np.arange(dims).reshape(-1, 2) if traditional else np.arange(dims).reshape(2, -1).T
    swap, ones = np.zeros((size, size), np.float32), np.ones(size, np.float32)
    first, second, rotated = np.arange(size), np.arange(size), np.zeros(size, np.float32)
    for one, other in pairs:
        swap[other, one], swap[one, other], ones[other] = -1, 1, 0
        first[other], second[one] = one, other
        rotated[[one, other]] = 1
    arrays = Plane(*(mx.array(array) for array in (swap, ones, first, second, rotated)))
    mx.eval(arrays)
    return arrays
