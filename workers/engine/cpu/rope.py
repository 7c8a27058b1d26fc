"""Rotary positions for a CPU. MLX makes the sines of every layer anew, and of some twenty operations what three can do;
with 8 rows of a 135M model that is a twelfth of a step.

A rotation is x cos + swap(x) sin, where swapping is a product with a matrix that has one 1 or -1 in a row: to the last
bit what MLX computes. The sines are MLX's own: it is given ones, and rotates them.
"""

from functools import cache, partial
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from workers.engine.pass_memo import PassMemo

_theirs = mx.fast.rope
_tables: PassMemo["tuple[mx.array, mx.array]"] = PassMemo()


class Plane(NamedTuple):
    """How the elements of a head are paired. ``swap``: (size, size), the others (size,)."""

    swap: mx.array
    ones: mx.array  # at the first of each pair, and at what is not rotated
    first: mx.array  # by element, where the first of its pair is
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
    """As ``mx.fast.rope``. Prompts of several rows are left to it: each of their layers has its own offsets."""
    many = isinstance(offset, mx.array) and x.ndim == 4 and x.shape[2] > 1
    if many or x.ndim != 4 or x.dtype != mx.float32 or stream is not None:
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
        turned = _theirs(
            ones, dims, traditional=traditional, base=base, scale=scale, offset=offset, freqs=freqs
        )
        return turned[..., plane.first], turned[..., plane.second] * plane.rotated

    kind = size, dims, traditional, base, scale
    cosines, sines = _tables.get(kind, (rows, tokens, offset, freqs), table)
    return _turned(x, x @ plane.swap, cosines, sines)


@partial(mx.compile, shapeless=True)
def _turned(x: mx.array, swapped: mx.array, cosines: mx.array, sines: mx.array) -> mx.array:
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
