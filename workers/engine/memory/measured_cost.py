"""Measures what a model's keys and values cost, from its caches after a few tokens."""

from collections.abc import Iterator
from typing import Any

from mlx_lm.models.cache import ArraysCache, CacheList, ChunkedKVCache, KVCache, RotatingKVCache

from workers.engine.forward import feed
from workers.engine.kv.footprint import GROWTH, rounded
from workers.engine.kv.key_blocks import BLOCK
from workers.engine.kv.mlx_caches import Cache, new_cache
from workers.engine.memory.cost import Cost, LayerCost


def measure_cost(model: Any, draft: Any = None) -> Cost:
    """``draft``: a model that reads each sequence as well."""
    return Cost((*_layers(model), *(_layers(draft) if draft is not None else ())))


def _layers(model: Any) -> tuple[LayerCost, ...]:
    """Measures the caches after one token; caches of unknown classes also after more tokens."""
    cache: Cache = new_cache(model)
    feed(model, cache, [[0]])
    parts = [part for layer in cache for part in _parts(layer)]
    known = [_known_cost(part) for part in parts]
    if None not in known:
        return tuple(each for each in known if each)
    sizes = [[part.nbytes for part in parts]]
    for _ in range(2):  # a window of at most GROWTH tokens is full after the first pass
        feed(model, cache, [[0] * GROWTH])
        sizes.append([part.nbytes for layer in cache for part in _parts(layer)])
    measured = map(_measured_cost, *sizes)
    return tuple(each or other for each, other in zip(known, measured, strict=True))


def _parts(layer: Any) -> Iterator[Any]:
    if isinstance(layer, CacheList):
        for part in layer.caches:
            yield from _parts(part)
    else:
        yield layer


def _known_cost(layer: Any) -> LayerCost | None:
    """The cost of a cache class whose growth is known; None for other classes. A slot's ring is made of blocks."""
    if type(layer) is KVCache:
        return LayerCost(layer.nbytes / layer.state[0].shape[2])
    if type(layer) is RotatingKVCache:
        return LayerCost(layer.nbytes / layer.state[0].shape[2], window=rounded(layer.max_size, BLOCK))
    if type(layer) is ChunkedKVCache:
        return LayerCost(layer.nbytes / layer.state[0].shape[2], window=layer.chunk_size + GROWTH)
    return LayerCost(0.0, fixed=layer.nbytes) if type(layer) is ArraysCache else None


def _measured_cost(first: int, then: int, last: int) -> LayerCost:
    """The cost from the bytes after 1, 1 + ``GROWTH`` and 1 + 2 ``GROWTH`` tokens."""
    per_token = max(0.0, (last - then) / GROWTH)
    return LayerCost(per_token, fixed=max(first, int(then - per_token * GROWTH)))
