"""Random numbers as a function of (seed, choice, index, token id) and of nothing else.

Sampling is a Gumbel-max draw: each token's scaled logit gets noise, the greatest sum wins. The noise of a token comes
from a hash of the row's key and the token's id, so it is the same whether all of the vocabulary is looked at or only
the best candidates, alone or in a batch, in a first run or a resumed one.

Arrays are mlx's or numpy's, as the caller has them. On a CPU it has numpy's: a logarithm or an exponential in float32
takes half a nanosecond there, and twelve in mlx 0.32 on x86.
"""

from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from workers.device import has_accelerator

Array = Any  # mx.array or np.ndarray

NOISE_BOUND = 16.64  # a little more than any noise: 23 bits are as near to 1 as 1 - 2^-24

_MASK64 = (1 << 64) - 1


def row_key(seed: int, choice: int, index: int) -> tuple[int, int]:
    """64 bits, as two words, for the token at ``index`` of a choice (two rounds of splitmix64)."""
    state = _splitmix((seed & _MASK64) ^ _splitmix((choice << 40) ^ index))
    return state & 0xFFFFFFFF, state >> 32


def library() -> ModuleType:
    """The one whose arrays are faster on this machine."""
    return mx if has_accelerator() else np


def library_of(array: Array) -> ModuleType:
    return np if isinstance(array, np.ndarray) else mx


def keys_array(keys: list[tuple[int, int]], xp: ModuleType) -> Array:
    """Shape (rows, 2), uint32."""
    return xp.array(np.array(keys, dtype=np.uint32).reshape(len(keys), 2))


def gumbel(keys: Array, ids: Array) -> Array:
    """Noise of shape (rows, n) for keys (rows, 2) and token ids (rows, n) or (1, n)."""
    xp = library_of(keys)
    bits = hashed(ids.astype(xp.uint32), keys[:, :1], keys[:, 1:])
    # 23 bits and a half are exact in float32: neither 0 nor 1, whose noise would be infinite and beat every logit.
    uniform = ((bits >> 9).astype(xp.float32) + 0.5) * (1.0 / (1 << 23))
    return -xp.log(-xp.log(uniform))


def least_bits(levels: NDArray[np.floating]) -> NDArray[np.uint32]:
    """What the hash of a token has at least if its noise is of a level; very rarely it has less noise and the bits."""
    uniform = np.exp(-np.exp(np.minimum(-levels.astype(np.float64), 87.0)))
    steps = np.floor(np.maximum(uniform * (1 << 23) - 1.5, 0.0))  # one less than need be, for rounding
    return steps.astype(np.uint32) << np.uint32(9)


def hashed(ids: Array, low: Array, high: Array) -> Array:
    """A 32-bit integer mix; the second word of the key enters half-way, so both count in full."""
    xp = library_of(ids)
    value = ids + low
    value ^= 0x9E3779B9  # numpy writes in place from here on, which saves it as much as it computes
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
