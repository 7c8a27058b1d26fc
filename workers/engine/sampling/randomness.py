"""Computes random numbers as a function of (seed, choice, index, token id) and of nothing else.

Sampling is a Gumbel-max draw: each scaled logit gets noise, and the highest sum wins. The noise is a hash of the
draw's key and the token id. So a draw is the same from the whole vocabulary or from candidates, alone or in a batch,
in a first run or a resumed one.

Functions take mlx or numpy arrays. On a CPU the sampler uses numpy: a logarithm in float32 takes 0.5 ns there, and
12 ns in mlx 0.32 on x86.
"""

from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from workers.device import has_accelerator

Array = Any  # mx.array or np.ndarray

NOISE_BOUND = 16.64  # above any noise: with 23 bits the uniform number is at most 1 - 2^-24

_MASK64 = (1 << 64) - 1


def draw_key(seed: int, choice: int, index: int) -> tuple[int, int]:
    """The key (two 32-bit words) of the draw of the token at ``index`` of a choice; two rounds of splitmix64."""
    state = _splitmix((seed & _MASK64) ^ _splitmix((choice << 40) ^ index))
    return state & 0xFFFFFFFF, state >> 32


def library() -> ModuleType:
    """mlx with an accelerator, else numpy, which is faster on a CPU."""
    return mx if has_accelerator() else np


def library_of(array: Array) -> ModuleType:
    return np if isinstance(array, np.ndarray) else mx


def keys_array(keys: list[tuple[int, int]], xp: ModuleType) -> Array:
    """Shape (rows, 2), uint32."""
    return xp.array(np.array(keys, dtype=np.uint32).reshape(len(keys), 2))


def gumbel(keys: Array, ids: Array) -> Array:
    """Noise of shape (rows, n) for keys (rows, 2) and token ids (rows, n) or (1, n)."""
    return noise(keys[:, :1], keys[:, 1:], ids)


def noise(low: Array, high: Array, ids: Array) -> Array:
    """As ``gumbel``, with the words of the keys apart: (rows, 1) each."""
    xp = library_of(ids)
    bits = hashed(ids.astype(xp.uint32), low, high)
    # 23 bits plus a half are exact in float32. The number is never 0 or 1, whose noise would be infinite.
    uniform = ((bits >> 9).astype(xp.float32) + 0.5) * (1.0 / (1 << 23))
    return -xp.log(-xp.log(uniform))


def least_hash(levels: NDArray[np.floating]) -> NDArray[np.uint32]:
    """The smallest hash whose noise can reach each of ``levels``.

    A hash at or above it may have slightly less noise; a hash below it never reaches the level.
    """
    uniform = np.exp(-np.exp(np.minimum(-levels.astype(np.float64), 87.0)))
    steps = np.floor(np.maximum(uniform * (1 << 23) - 1.5, 0.0))  # one step lower, because of rounding
    return steps.astype(np.uint32) << np.uint32(9)


def hashed(ids: Array, low: Array, high: Array) -> Array:
    """A 32-bit integer hash of ``ids``. The key's second word is added half-way, so both words affect all bits."""
    xp = library_of(ids)
    value = ids + low
    value ^= 0x9E3779B9  # in place: numpy would spend as long allocating as computing
    value ^= value >> 16
    value *= xp.array(0x7FEB352D, dtype=xp.uint32)
    value ^= value >> 15
    value = value + high
    value ^= value >> 15
    value *= xp.array(0x846CA68B, dtype=xp.uint32)
    value ^= value >> 16
    return value


def _splitmix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)
