"""Computes exponentials on a CPU in one to two nanoseconds; MLX takes twelve (mlx 0.32 on x86).

MLX's exponential is not vectorized; all operations used here are. 2^z is assembled from its bits: the integer part of z
is the exponent, and a polynomial gives the mantissa. The relative error is 1e-7, as MLX's, besides the rounding of z
(6e-8 of z). Without a compiler (g++) MLX does not fuse the operations, and an exponential takes four nanoseconds.
"""

from functools import partial

import mlx.core as mx

LOG2_E = 1.4426950408889634
# Polynomial of 2^(f+1) - 1 for f in (-1, 0], in units of the mantissa's last place (least squares at Chebyshev's
# points, error at most 9e-8). It is exactly 1 at 0, where the carry increments the exponent.
MANTISSA = (
    8388608.0,
    11629019.35258928,
    4029533.339902711,
    927680.0777619055,
    154386.9007017672,
    15829.485746421782,
)


def exp2(z: mx.array) -> mx.array:
    """2^z for z <= 0, float32 of any shape. It is 0 for z <= -127 and slightly too small just above that."""
    return _exp2_bits(z).view(mx.float32)


def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """x gate / (1 + e^-gate), float32."""
    return _gated(gate, _exp_bits_of_minus_abs(gate).view(mx.float32), x)


def _bits(z: mx.array) -> mx.array:
    z = mx.maximum(z, -127.0)
    whole = z.astype(mx.int32)  # rounds towards zero
    f = z - whole
    f2 = f * f
    c0, c1, c2, c3, c4, c5 = MANTISSA
    # The terms are paired, because MLX fuses a chain of eleven operations at most.
    mantissa = (c0 + c1 * f) + f2 * ((c2 + c3 * f) + f2 * (c4 + c5 * f))
    return mx.left_shift(whole + 126, 23) + mantissa.astype(mx.int32)


@partial(mx.compile, shapeless=True)
def _exp2_bits(z: mx.array) -> mx.array:
    return _bits(z)


@partial(mx.compile, shapeless=True)
def _exp_bits_of_minus_abs(x: mx.array) -> mx.array:
    return _bits(mx.abs(x) * -LOG2_E)


@partial(mx.compile, shapeless=True)
def _gated(gate: mx.array, small: mx.array, x: mx.array) -> mx.array:
    """x * gate / (1 + e^-gate). ``small``: e^-|gate|, which cannot overflow. mx.where is not vectorized."""
    positive = mx.minimum(mx.maximum(gate * 1e38, 0.0), 1.0)
    return gate * x * (mx.maximum(small, positive) / (1 + small))
