"""Decode passes of a model, in slots and alone."""

from typing import Any

import mlx.core as mx

from workers.engine.kv.mlx_caches import feed_one, new_cache


def alone(model: Any, ids: list[int]) -> mx.array:
    """The logits behind the last of ``ids``, which is read by itself, as a decode pass does."""
    cache = new_cache(model)
    if ids[:-1]:
        feed_one(model, cache, ids[:-1])
    logits: mx.array = model(mx.array([ids[-1:]]), cache=cache)[0, -1]
    return logits


def step(model: Any, caches: Any, tokens: list[int]) -> mx.array:
    """The logits (sequences, vocabulary) of a pass over one token of each."""
    caches.begin()
    logits: mx.array = model(mx.array(tokens)[:, None], cache=caches.layers)[:, -1]
    return logits
