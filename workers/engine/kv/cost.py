"""What keys and values cost in bytes, per sequence and layer.

Rule 1: the prefix cache gives way first, then new prompts wait, then the youngest sequence is preempted and prefilled
again later. A request is never ended for lack of memory.
Rule 2: each sequence of an array costs as much as the longest one; headroom counts, and is given back when short.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mlx_lm.models.cache import ArraysCache, CacheList, ChunkedKVCache, KVCache, RotatingKVCache

from workers.engine.kv.mlx_caches import GROWTH, Cache, feed_one, new_cache

HEADROOM = 128  # tokens by which a sequence may grow before the budget is checked again


@dataclass(frozen=True)
class LayerCost:
    """``per_token``: bytes of each token, for at most ``window`` tokens. ``fixed``: bytes at any length.

    During a prefill pass a window also holds the whole chunk.
    """

    per_token: float
    window: int | None = None
    fixed: int = 0

    def bytes(self, tokens: int, chunk: int) -> float:
        counted = tokens if self.window is None else min(tokens, self.window + chunk)
        return self.per_token * counted + self.fixed


@dataclass(frozen=True)
class Cost:
    """What the cache of one sequence of a model costs, layer by layer."""

    layers: tuple[LayerCost, ...]

    def bytes(self, tokens: int, rows: int = 1, *, chunk: int = 0) -> int:
        return int(rows * sum(alike * layer.bytes(tokens, chunk) for layer, alike in self._kinds.items()))

    @cached_property
    def _kinds(self) -> Counter[LayerCost]:
        return Counter(self.layers)

    def tokens(self, size: int) -> int:
        """How long one sequence may be in ``size`` bytes; a billion where length costs nothing."""
        growing = sum(layer.per_token for layer in self.layers if layer.window is None)
        fixed = self.bytes(0) + sum(
            layer.per_token * layer.window for layer in self.layers if layer.window is not None
        )
        return max(0, int((size - fixed) / growing)) if growing else 1_000_000_000


def measure_cost(model: Any) -> Cost:
    """Measures the caches after one token; caches of unknown classes also after more tokens."""
    cache: Cache = new_cache(model)
    feed_one(model, cache, [0])
    parts = [part for layer in cache for part in _parts(layer)]
    known = [_known_cost(part) for part in parts]
    if None not in known:
        return Cost(tuple(each for each in known if each))
    sizes = [[part.nbytes for part in parts]]
    for _ in range(2):  # a window of at most GROWTH tokens is full after the first pass
        feed_one(model, cache, [0] * GROWTH)
        sizes.append([part.nbytes for layer in cache for part in _parts(layer)])
    measured = map(_measured_cost, *sizes)
    return Cost(tuple(each or other for each, other in zip(known, measured, strict=True)))


def _parts(layer: Any) -> Iterator[Any]:
    if isinstance(layer, CacheList):
        for part in layer.caches:
            yield from _parts(part)
    else:
        yield layer


def _known_cost(layer: Any) -> LayerCost | None:
    """The cost of a cache class whose growth is known; None for other classes."""
    if type(layer) is KVCache:
        return LayerCost(layer.nbytes / layer.state[0].shape[2])
    if type(layer) is RotatingKVCache:
        return LayerCost(layer.nbytes / layer.state[0].shape[2], window=layer.max_size)
    if type(layer) is ChunkedKVCache:
        return LayerCost(layer.nbytes / layer.state[0].shape[2], window=layer.chunk_size + GROWTH)
    return LayerCost(0.0, fixed=layer.nbytes) if type(layer) is ArraysCache else None


def _measured_cost(first: int, then: int, last: int) -> LayerCost:
    """The cost from the bytes after 1, 1 + ``GROWTH`` and 1 + 2 ``GROWTH`` tokens."""
    per_token = max(0.0, (last - then) / GROWTH)
    return LayerCost(per_token, fixed=max(first, int(then - per_token * GROWTH)))
