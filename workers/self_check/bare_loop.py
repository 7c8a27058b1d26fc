"""The least that decoding can cost: mlx-lm's model, its batch cache, argmax, and the next pass launched ahead."""

import time
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache


def bare_loop(
    model: Any, prompts: Sequence[Sequence[int]], steps: int, warm_up: int, *, reads: bool = True
) -> float:
    """Seconds of ``steps`` passes over one sequence for each prompt, behind ``warm_up`` passes.

    ``reads``: the host reads each pass's tokens; without it the device never waits for the host. Raises AttributeError
    for models whose caches cannot be batched.
    """
    caches = []
    for prompt in prompts:
        one: list[Any] = make_prompt_cache(model)
        model(mx.array([prompt[:-1]]), cache=one)
        mx.eval([layer.state for layer in one])
        caches.append(one)
    cache = [layers[0].merge(layers) for layers in zip(*caches, strict=True)]

    def step(tokens: mx.array) -> mx.array:
        drawn = mx.argmax(model(tokens[:, None], cache=cache)[:, -1, :], axis=-1)
        mx.async_eval(drawn)
        if reads:
            tokens.tolist()
        return drawn

    tokens = mx.array([prompt[-1] for prompt in prompts])
    for _ in range(warm_up):
        tokens = step(tokens)
    mx.eval(tokens)
    began = time.perf_counter()
    for _ in range(steps):
        tokens = step(tokens)
    mx.eval(tokens)
    return time.perf_counter() - began
