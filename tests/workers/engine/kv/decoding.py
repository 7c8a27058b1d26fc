"""Decode passes of a model, in slots and alone."""

from typing import Any

import mlx.core as mx

from workers.engine.forward import feed, forward
from workers.engine.kv.mlx_caches import new_cache


def alone(model: Any, ids: list[int]) -> mx.array:
    """The logits behind the last of ``ids``, which is read by itself, as a decode pass does."""
    cache = new_cache(model)
    if ids[:-1]:
        feed(model, cache, [ids[:-1]])
    return forward(model, mx.array([ids[-1:]]), cache)[0, -1]


def step(model: Any, caches: Any, tokens: list[int]) -> mx.array:
    """The logits (sequences, vocabulary) of a pass over one token of each."""
    caches.begin()
    return forward(model, mx.array(tokens)[:, None], caches.layers)[:, -1]
