"""The KV caches of mlx-lm, as the engine uses them: for one sequence, or for a batch of sequences of unlike length.

A cache here is a list with one entry a layer. All that depends on how mlx-lm's classes work is in this file.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    BatchRotatingKVCache,
    CacheList,
    KVCache,
    RotatingKVCache,
    make_prompt_cache,
)

from workers.engine.kv.copies import Copies
from workers.engine.kv.footprint import GROWTH
from workers.engine.kv.kept_prefix import KeptPrefix
from workers.engine.kv.prefill_batch import PaddedPrefillLayer, padded_prefill_batch

Cache = list[Any]

assert KVCache.step == GROWTH, "mlx-lm's caches grow by another number of tokens"


@dataclass(frozen=True)
class TokenSpan:
    """The position of a sequence's tokens in a batch cache: ``length`` tokens from ``start`` in ``row``."""

    row: int
    start: int
    length: int


def new_cache(model: Any) -> Cache:
    """An empty cache for one sequence."""
    cache: Cache = make_prompt_cache(model)
    return cache


def can_merge(model: Any) -> bool:
    """Whether there is a batch cache for each layer; whether the model knows how to use it, see ``batch_probe``."""
    return all(hasattr(layer, "merge") for layer in new_cache(model))


def can_pad(model: Any) -> bool:
    """Whether prompts of unlike length can be prefilled in one pass. A recurrent state would include the padding."""
    return all(type(layer) in (KVCache, RotatingKVCache) for layer in new_cache(model))


def is_full_attention(cache: Cache) -> bool:
    """Whether all layers hold keys and values token by token, so that the cache also serves each prefix."""
    return all(type(layer) is KVCache for layer in cache)


def is_aligned_at_starts(cache: Cache) -> bool:
    """Whether each sequence's tokens begin at the start of its row, in all layers."""
    return all(isinstance(layer, PaddedPrefillLayer) or type(layer) is KVCache for layer in cache)


def fork(cache: Cache) -> Cache:
    """A cache that can grow apart from this one."""
    return copy.deepcopy(cache)


def divide(cache: Cache, at: int) -> tuple[Cache, Cache]:
    """A full-attention cache split at ``at``: two compact copies."""
    first = cut_out(cache, TokenSpan(0, 0, at))
    return first, [
        cut_out_layer(layer.keys, layer.values, TokenSpan(0, at, layer.offset - at)) for layer in cache
    ]


def merge(begun: Sequence[Cache | KeptPrefix]) -> Cache:
    """One batch cache for sequences of unlike length."""
    caches = [each for each in begun if not isinstance(each, KeptPrefix)]
    if all(map(is_full_attention, caches)):
        return padded_prefill_batch(begun)
    return [layers[0].merge(layers) for layers in zip(*caches, strict=True)]


def copy_of(cache: Cache, span: TokenSpan, start: int = 0) -> Cache:
    """A compact copy of the cache of the sequence at ``span``, from its own or from a batch.

    Layers with full attention have its tokens from ``start`` on.
    """
    if is_aligned_at_starts(cache):
        return cut_out(cache, TokenSpan(span.row, span.start + start, span.length - start))
    return extract(cache, span.row, start)


def extract(cache: Cache, row: int, start: int = 0) -> Cache:
    """As ``copy_of``, from its own cache or from a batch that is aligned at its ends."""
    return [_extracted(layer, row, start) for layer in cache]


def _extracted(layer: Any, row: int, start: int) -> Any:
    if isinstance(layer, CacheList):
        return CacheList(*(_extracted(part, row, start) for part in layer.caches))
    if isinstance(layer, ArraysCache):
        return extract_state(layer, row)
    if isinstance(layer, BatchKVCache):
        layer = layer.extract(row)
    if type(layer) is KVCache and layer.keys is not None:
        return cut_out([layer], TokenSpan(0, start, layer.offset - start))[0]
    if type(layer) is RotatingKVCache and not layer.empty():
        return extract_window(layer, row)
    return layer.extract(row) if hasattr(layer, "extract") else copy.deepcopy(layer)


def extract_state(layer: ArraysCache, row: int) -> ArraysCache:
    arrays: list[Any] = layer.cache
    own = ArraysCache(len(arrays))
    for entry, array in enumerate(arrays):
        own[entry] = None if array is None else compact(array[row : row + 1])
    return own


def extract_window(layer: Any, row: int) -> RotatingKVCache:
    """One sequence's last tokens in the order of their positions, from its own or from a batch cache."""
    if type(layer) is not RotatingKVCache:
        own: RotatingKVCache = layer.extract(row)
        return own
    kept = layer.size()
    keys, values = (
        compact(ordered[:, :, ordered.shape[2] - kept :])
        for ordered in map(layer._temporal_order, (layer.keys, layer.values))
    )
    return rotating_layer(keys, values, layer.max_size, layer.offset)


def rotating_layer(keys: mx.array, values: mx.array, window: int, length: int) -> RotatingKVCache:
    """A cache of the last tokens of a sequence of ``length`` tokens, the oldest first."""
    layer = RotatingKVCache(window)
    layer.state = keys, values, length, 0, window, keys.shape[2]
    return layer


def parts_of(cache: Cache) -> list[Any]:
    """The caches of all layers in order; some layers have several."""
    return [part for layer in cache for part in (layer.caches if isinstance(layer, CacheList) else [layer])]


def window_of(part: Any) -> int | None:
    """Tokens that a layer's cache keeps; None for all."""
    return int(part.max_size) if isinstance(part, RotatingKVCache | BatchRotatingKVCache) else None


def keeps_all_tokens(cache: Cache) -> bool:
    """Whether a layer's cache grows with each token, however long the sequence is."""
    return any(type(part) not in (RotatingKVCache, ArraysCache) for part in parts_of(cache))


def is_window(part: Any) -> bool:
    return isinstance(part, RotatingKVCache | BatchRotatingKVCache)


def has_slots(cache: Cache) -> bool:
    """Whether there is a slot for each layer's cache: keys and values of all tokens or of the last, or a state.

    Layers with several attentions are left out, because their models reach into the arrays of the caches.
    """
    parts = parts_of(cache)
    kinds = all(type(part) in (KVCache, RotatingKVCache, ArraysCache) for part in parts)
    several = any(
        isinstance(layer, CacheList) and sum(type(part) is not ArraysCache for part in layer.caches) > 1
        for layer in cache
    )
    return kinds and not several and not any(getattr(part, "keep", 0) for part in parts)


def cut_out(batch: Cache, span: TokenSpan) -> Cache:
    """A compact copy of the keys and values at ``span`` of a full-attention batch cache."""
    return [cut_out_layer(layer.keys, layer.values, span) for layer in batch]


def cut_out_layer(keys: mx.array, values: mx.array, span: TokenSpan) -> KVCache:
    tokens = slice(span.start, span.start + span.length)
    layer = KVCache()
    parts = (compact(array[span.row : span.row + 1, :, tokens]) for array in (keys, values))
    layer.state = *parts, span.length
    return layer


def compact(part: mx.array) -> mx.array:
    """A copy in a buffer of its own, as large as the copy.

    ``mx.contiguous`` gives a contiguous part of a buffer without a copy if the buffer is at most 16 KiB larger. A part
    may be smaller than that, and its bytes alone are counted.
    """
    return mx.concatenate([part, part[:0]])


def extend(batch: Cache, more: Cache) -> None:
    """Extends layer by layer, so that memory never holds two copies of the whole cache."""
    copies = Copies()
    for layer, other in zip(batch, more, strict=True):
        layer.extend(other)
        copies.start(layer.state)


def take_rows(batch: Cache, rows: list[int]) -> None:
    """Keeps these rows, in this order; a row listed twice is duplicated."""
    for layer in batch:
        layer.filter(rows)


def spans(cache: Cache, done: list[int], rest: list[int]) -> list[TokenSpan]:
    """The spans in merged caches of ``done[i]`` tokens after a ``feed`` of ``rest[i]`` tokens."""
    at_starts = is_aligned_at_starts(cache)
    lengths = [before + more for before, more in zip(done, rest, strict=True)]
    width = max(done) + width_of_pass(cache, rest)
    return [TokenSpan(row, 0 if at_starts else width - length, length) for row, length in enumerate(lengths)]


def width_of_pass(cache: Cache, rest: Sequence[int]) -> int:
    """Tokens of the rows of a pass, padding included.

    Padded rows of mlx-lm's windows have two at least: it takes a pass of one token for a decode pass, which has none.
    """
    padded = min(rest) < max(rest) and not is_aligned_at_starts(cache)
    return max(2, *rest) if padded else max(rest)


def evaluate(cache: Cache, *more: mx.array) -> None:
    mx.eval([layer.state for layer in cache], *more)


def set_out(cache: Cache) -> None:
    """Starts the computation of a cache, so that its inputs are freed soon."""
    mx.async_eval([layer.state for layer in cache if layer is not None])


def nbytes(cache: Cache | KeptPrefix) -> int:
    """A layer may be None, see ``checkpoints``."""
    if isinstance(cache, KeptPrefix):
        return cache.nbytes
    return sum(layer.nbytes for layer in cache if layer is not None)
