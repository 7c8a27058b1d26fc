"""Exponentials for a CPU. MLX takes twelve nanoseconds for one (mlx 0.32 on x86: one at a time, with a call for each
fused multiply-add), here it is one to two, as all it is made of is done four at a time.

2^z is put together from its bits: the whole part of z is the exponent, and a polynomial gives the mantissa. As exact
as MLX's: to 1e-7 beside what rounding z does, which is 6e-8 of z. Without a compiler (g++) MLX runs the same operations
one by one, and it takes four.
"""

from functools import partial

import mlx.core as mx

LOG2_E = 1.4426950408889634
# 2^(f+1) - 1 for f in (-1, 0], in units of the last place of a mantissa: 9e-8 off at most (least squares at Chebyshev's
# points). Exactly 1 at 0, where the carry makes it the next exponent.
MANTISSA = (
    8388608.0,
    11629019.35258928,
    4029533.339902711,
    927680.0777619055,
    154386.9007017672,
    15829.485746421782,
)


def exp2(z: mx.array) -> mx.array:
    """2^z for z <= 0, float32 of any shape. 0 from -127 on, and a little less than it should be just above that."""
    return _exp2_bits(z).view(mx.float32)


def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """x gate / (1 + e^-gate), float32."""
    return _gated(gate, _exp_bits_of_minus_size(gate).view(mx.float32), x)


def _bits(z: mx.array) -> mx.array:
    z = mx.maximum(z, -127.0)
    whole = z.astype(mx.int32)  # towards zero
    f = z - whole
    f2 = f * f
    c0, c1, c2, c3, c4, c5 = MANTISSA
    # In pairs, not one after the other: MLX fuses eleven operations in a row at most.
    mantissa = (c0 + c1 * f) + f2 * ((c2 + c3 * f) + f2 * (c4 + c5 * f))
    return mx.left_shift(whole + 126, 23) + mantissa.astype(mx.int32)


@partial(mx.compile, shapeless=True)
def _exp2_bits(z: mx.array) -> mx.array:
    return _bits(z)


@partial(mx.compile, shapeless=True)
def _exp_bits_of_minus_size(x: mx.array) -> mx.array:
    return _bits(mx.abs(x) * -LOG2_E)


@partial(mx.compile, shapeless=True)
def _gated(gate: mx.array, small: mx.array, x: mx.array) -> mx.array:
    """``small``: e^-|gate|, which is never too large for a float. A choice by mx.where would be made one at a time."""
    positive = mx.minimum(mx.maximum(gate * 1e38, 0.0), 1.0)
    return gate * x * (mx.maximum(small, positive) / (1 + small))
