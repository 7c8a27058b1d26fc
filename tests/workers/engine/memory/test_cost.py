"""The measured cost equals the bytes of a cache of any class."""

from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import ArraysCache, CacheList, ConcatenateKVCache, KVCache, RotatingKVCache

from workers.engine.forward import feed
from workers.engine.kv.footprint import GROWTH
from workers.engine.kv.mlx_caches import nbytes, new_cache
from workers.engine.memory.measured_cost import measure_cost


class Compressing(ConcatenateKVCache):
    """Of a class that nobody knows: a window of 32 tokens, and one number for every eight."""

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        super().update_and_fetch(keys, values)  # type: ignore[no-untyped-call]
        self.seen = getattr(self, "seen", 0) + keys.shape[2]
        self.keys, self.values = (array[:, :, -32:] for array in (self.keys, self.values))  # type: ignore[index]
        self.summaries = mx.zeros((self.seen // 8, 16))
        return self.keys, self.values

    @property
    def nbytes(self) -> int:
        return int(super().nbytes + self.summaries.nbytes)


class Doubling(ConcatenateKVCache):
    """As many bytes again, which a base class does not count."""

    @property
    def nbytes(self) -> int:
        return 2 * int(super().nbytes)


LAYERS: dict[str, Any] = {
    "plain": KVCache,
    "a window": lambda: RotatingKVCache(max_size=100),
    "grown token by token": ConcatenateKVCache,
    "a subclass": Doubling,
    "compressed": Compressing,
    "a list": lambda: CacheList(KVCache(), Doubling()),  # type: ignore[no-untyped-call]
    "a list in a list": lambda: CacheList(CacheList(KVCache()), Compressing()),  # type: ignore[no-untyped-call]
}


class Model:
    """Writes 8 numbers for each of two heads into every cache."""

    def __init__(self, make: Any) -> None:
        self.make = make

    def make_cache(self) -> list[Any]:
        return [self.make(), self.make(), ArraysCache(1)]

    def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
        written = mx.zeros((1, 2, tokens.shape[1], 8))
        cache[2][0] = mx.zeros((1, 50))
        for layer in cache[:2]:
            self._write(layer, written)
        return written

    def _write(self, layer: Any, written: mx.array) -> None:
        if isinstance(layer, CacheList):
            for part in layer.caches:
                self._write(part, written)
        else:
            layer.update_and_fetch(written, written)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("tokens", [1, 300, 2000])
def test_measured_cost_equals_the_bytes_of_each_cache_class(layer: str, tokens: int) -> None:
    model = Model(LAYERS[layer])
    cost, cache = measure_cost(model), new_cache(model)
    for start in range(0, tokens, GROWTH):
        feed(model, cache, [[0] * min(GROWTH, tokens - start)])
    counted = cost.bytes(tokens + GROWTH, chunk=GROWTH)
    assert nbytes(cache) <= counted <= 1.3 * nbytes(cache) + cost.bytes(2 * GROWTH, chunk=GROWTH)
