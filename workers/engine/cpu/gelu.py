"""Computes GELU on a CPU, where MLX's error function takes longer than the matrix products around it.

The error function is Abramowitz and Stegun's formula 7.1.26 (error at most 1.5e-7), with the exponentials of ``exp``.
"""

import math
from functools import partial

import mlx.core as mx

from workers.engine.cpu.exp import LOG2_E, exp2
from workers.engine.cpu.model_patches import WORTH_TWO_CORES
from workers.engine.cpu.two_cores import on_two_cores

_P = 0.3275911
_ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def gelu(x: mx.array) -> mx.array:
    """GELU of a float32 array; a large array is split between two cores along its first axis."""
    if x.size < WORTH_TWO_CORES:
        return _gelu(x)
    return on_two_cores(lambda some: _gelu(x[some]), x.shape[0])


def _gelu(x: mx.array) -> mx.array:
    return _from_bell(x, exp2(x * x * (-0.5 * LOG2_E)))


@partial(mx.compile, shapeless=True)
def _from_bell(x: mx.array, bell: mx.array) -> mx.array:
    """GELU from ``bell`` = e^(-x²/2). Its distance to max(x, 0) is the same for x and -x."""
    size = mx.abs(x)
    t = 1 / (1 + (_P * math.sqrt(0.5)) * size)
    a1, a2, a3, a4, a5 = (0.5 * each for each in _ERF)
    t2 = t * t
    return mx.maximum(x, 0.0) - size * bell * t * ((a1 + a2 * t) + t2 * ((a3 + a4 * t) + t2 * a5))
