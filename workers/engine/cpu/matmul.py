"""Matrix products on a CPU that give a row, to the last bit, what they give it among any number of other rows.

OpenBLAS sums the products of one number of the result in the same order however many rows there are, with two
exceptions on processors with AVX-512 (0.3.21, found by comparing, and in line with its source): small products of a
transposed matrix have a kernel that sums in another order, and sums of more than 320 products are cut in parts at
places that depend on their number. So there are no such small products here (``rows_for``), and sums over keys, which
are as many as a batch's longest row has, are cut at fixed places, see ``attention``. With other kernels (Haswell's and
Zen's) its result depends on the number of rows in other ways too, and rows agree but for rounding: ``invariance``
measures which it is.
"""

import mlx.core as mx
from mlx.nn.layers.linear import Linear

SMALL_RESULT, SMALL = (
    1_200,
    1_000_000,
)  # up to so many numbers in the result, and products; sgemm_small_kernel_permit

_linear = Linear.__call__


def rows_for(rows: int, columns: int, inner: int) -> int:
    """How many rows the product must have, to be no small one."""
    return max(rows, min(SMALL_RESULT // columns, SMALL // (columns * inner)) + 1)


def times_transposed(x: mx.array, other: mx.array) -> mx.array:
    """``x`` (..., rows, inner) @ ``other`` (..., columns, inner) transposed."""
    rows, inner = x.shape[-2:]
    needed = rows_for(rows, other.shape[-2], inner)
    if needed == rows:
        return x @ other.swapaxes(-1, -2)
    return (_more(x, needed) @ other.swapaxes(-1, -2))[..., :rows, :]


def linear(layer: Linear, x: mx.array) -> mx.array:
    """``nn.Linear``; of few rows, see above."""
    columns, inner = layer.weight.shape
    rows = x.size // inner
    needed = rows_for(rows, columns, inner)
    if needed == rows:
        return _linear(layer, x)
    more = _more(x.reshape(rows, inner), needed)
    given: mx.array = _linear(layer, more)
    return given[:rows].reshape(*x.shape[:-1], columns)


def _more(x: mx.array, needed: int) -> mx.array:
    """The rows (..., rows, inner) over and over, ``needed`` or a few more."""
    *others, rows, inner = x.shape
    times = -(-needed // rows)
    again = mx.broadcast_to(x[..., None, :, :], (*others, times, rows, inner))
    return again.reshape(*others, times * rows, inner)
