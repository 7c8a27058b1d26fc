"""The least that decoding a batch can cost: mlx-lm's model and batch cache, argmax, and nothing around them."""

import time
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from benchmarks.engine_play import decode_jobs
from benchmarks.plans import Decode
from benchmarks.replies import Played
from workers.job import Prepare


def decode_bare(model: Any, prepare: Prepare, plan: Decode, seed: str) -> Played:
    """The prompts of ``engine_play.decode``; the next pass is launched before the last one's tokens are read."""
    prompts = [job.prompt for job in decode_jobs(prepare, plan, seed)]
    cache = _read(model, prompts)
    tokens = _launch(model, mx.array([prompt[-1] for prompt in prompts]), cache)
    for _ in range(plan.rows):  # our engine decodes about so long until all prompts are read
        tokens = _step(model, tokens, cache)
    began = time.perf_counter()
    for _ in range(plan.steps):
        tokens = _step(model, tokens, cache)
    mx.eval(tokens)
    return Played(time.perf_counter() - began, plan.rows * plan.steps)


def _read(model: Any, prompts: list[list[int]]) -> list[Any]:
    """All but the last token of each prompt, in one batch cache."""
    caches = []
    for prompt in prompts:
        cache: list[Any] = make_prompt_cache(model)
        model(mx.array([prompt[:-1]]), cache=cache)
        mx.eval([layer.state for layer in cache])
        caches.append(cache)
    return [layers[0].merge(layers) for layers in zip(*caches, strict=True)]


def _launch(model: Any, tokens: mx.array, cache: list[Any]) -> mx.array:
    drawn = mx.argmax(model(tokens[:, None], cache=cache)[:, -1, :], axis=-1)
    mx.async_eval(drawn)
    return drawn


def _step(model: Any, tokens: mx.array, cache: list[Any]) -> mx.array:
    drawn = _launch(model, tokens, cache)
    tokens.tolist()
    return drawn
