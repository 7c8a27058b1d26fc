"""Whether arrays have to be the same to the last bit: the BLAS's kernels decide, see ``products``."""

import ctypes
import sys
from functools import cache

import mlx.core as mx

EXACT_KERNELS = {"SkylakeX", "Cooperlake", "Sapphirerapids"}  # what OpenBLAS takes on processors with AVX-512


@cache
def exact() -> bool:
    if sys.platform != "linux":
        return False
    corename = getattr(ctypes.CDLL(None), "openblas_get_corename", None)
    if corename is None:
        return False
    corename.restype = ctypes.c_char_p
    return corename().decode() in EXACT_KERNELS


def same(one: mx.array, other: mx.array) -> bool:
    if one.shape != other.shape:
        return False
    return bool((one == other).all() if exact() else mx.allclose(one, other, rtol=1e-5, atol=1e-5))
