"""The payload of a checkpoint's file: windows and states of one sequence at one length.

A line of JSON tells of each cache in the order of the layers, None for one with full attention, whose tokens are in
blocks; then the bytes of their arrays. The reader believes no byte of it before the checksum of the file is right.
"""

import json
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, RotatingKVCache

from workers.engine.kv.mlx_caches import Cache, extract_window, parts_of, rotating_layer
from workers.engine.prefixes.checkpoints import Layout

Payload = npt.NDArray[np.uint8]


def full_parts(cache: Cache) -> list[Any]:
    return [part for part in parts_of(cache) if type(part) is KVCache]


def can_be_written(cache: Cache) -> bool:
    """Whether all caches are tokens, windows or states as this file knows them."""
    kinds = all(type(part) in (KVCache, RotatingKVCache, ArraysCache) for part in parts_of(cache))
    return kinds and not any(getattr(part, "keep", 0) for part in parts_of(cache))


class Snapshot:
    """The arrays of a checkpoint on their way to the disk; they are computed behind the caller's back."""

    def __init__(self, cache: Cache) -> None:
        told, arrays = [], []
        for part in parts_of(cache):
            about, own = _taken(part)
            told.append(about)
            arrays += own
        self._told = json.dumps(told).encode() + b"\n"
        self._arrays = [mx.contiguous(array).reshape(-1).view(mx.uint8) for array in arrays]
        mx.async_eval(self._arrays)

    @property
    def nbytes(self) -> int:
        return len(self._told) + sum(array.nbytes for array in self._arrays)

    def payload(self) -> Sequence[Payload]:
        """Without a copy."""
        return [np.frombuffer(self._told, np.uint8), *(np.array(array, copy=False) for array in self._arrays)]


def _taken(part: Any) -> tuple[Any, list[mx.array]]:
    """What is told of a cache, and its arrays. An array of a state may be missing."""
    if type(part) is KVCache:
        return None, []
    if isinstance(part, RotatingKVCache):
        own = extract_window(part, 0)
        arrays: list[Any] = [own.keys, own.values]
        about = {"window": own.max_size, "length": own.offset}
    else:
        arrays, about = list(part.cache), {}
    there = [array for array in arrays if array is not None]
    return {**about, "arrays": [array is not None and _kind(array) for array in arrays]}, there


def _kind(array: mx.array) -> list[Any]:
    return [str(array.dtype).rpartition(".")[2], list(array.shape)]


def restore(payload: Payload, full: Sequence[Any], layout: Layout) -> Cache:
    """The cache of all layers from a payload whose checksum is right, and from the tokens of the full layers."""
    end = int(np.flatnonzero(payload == ord("\n"))[0])
    at, tokens, parts = end + 1, iter(full), []
    for about in json.loads(payload[:end].tobytes()):
        if about is None:
            parts.append(next(tokens))
            continue
        arrays = []
        for kind in about["arrays"]:
            array = None
            if kind:
                dtype, shape = getattr(mx, kind[0]), kind[1]
                size = int(np.prod(shape)) * dtype.size
                array = mx.array(payload[at : at + size]).view(dtype).reshape(shape)
                at += size
            arrays.append(array)
        parts.append(_made(about, arrays))
    caches = iter(parts)
    return [CacheList(*(next(caches) for _ in range(own))) if own else next(caches) for own in layout]


def _made(about: Any, arrays: list[Any]) -> Any:
    if "window" in about:
        keys, values = arrays
        return rotating_layer(keys, values, about["window"], about["length"])
    state = ArraysCache(len(arrays))
    for number, array in enumerate(arrays):
        state[number] = array
    return state
