"""Computes batch-invariant matrix products on a CPU: a row's result is bit-identical among any number of rows.

OpenBLAS 0.3.21 with AVX-512 sums a number of the result in the same order for any number of rows, with two exceptions
(found by comparing, and confirmed in its source). Small products with a transposed matrix use a kernel that sums in
another order, so ``rows_for`` makes small products larger. Sums of more than 320 terms are split at positions that
depend on their number, so ``attention`` splits sums over keys at fixed positions. With the Haswell and Zen kernels the
result depends on the number of rows in further ways; ``invariance`` measures it.
"""

import mlx.core as mx
from mlx.nn.layers.linear import Linear

SMALL_RESULT, SMALL = (
    1_200,
    1_000_000,
)  # numbers in the result, multiplications; the limits of sgemm_small_kernel_permit

_linear = Linear.__call__


def rows_for(rows: int, columns: int, inner: int) -> int:
    """How many rows a product needs so that OpenBLAS does not use its small kernel."""
    return max(rows, min(SMALL_RESULT // columns, SMALL // (columns * inner)) + 1)


def times_transposed(x: mx.array, other: mx.array) -> mx.array:
    """``x`` (..., rows, inner) @ ``other`` (..., columns, inner) transposed."""
    rows, inner = x.shape[-2:]
    needed = rows_for(rows, other.shape[-2], inner)
    if needed == rows:
        return x @ other.swapaxes(-1, -2)
    return (_repeated(x, needed) @ other.swapaxes(-1, -2))[..., :rows, :]


def linear(layer: Linear, x: mx.array) -> mx.array:
    """``nn.Linear``, batch-invariant also for few rows."""
    columns, inner = layer.weight.shape
    rows = x.size // inner
    needed = rows_for(rows, columns, inner)
    if needed == rows:
        return _linear(layer, x)
    repeated = _repeated(x.reshape(rows, inner), needed)
    result: mx.array = _linear(layer, repeated)
    return result[:rows].reshape(*x.shape[:-1], columns)


def _repeated(x: mx.array, needed: int) -> mx.array:
    """Repeats the rows of ``x`` (..., rows, inner) until there are at least ``needed``."""
    *others, rows, inner = x.shape
    times = -(-needed // rows)
    again = mx.broadcast_to(x[..., None, :, :], (*others, times, rows, inner))
    return again.reshape(*others, times * rows, inner)
