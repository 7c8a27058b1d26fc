"""Measures batch invariance: whether a sequence's numbers are bit-identical alone and in any batch.

The BLAS's kernels decide this (see ``matmul``), so it is measured once with the model's own weights.
Rule 1: ``exact`` is promised only for layers that were compared; every other model is ``rounding``.
Rule 2: the comparison runs with each number of threads that a worker may get.
"""

from collections.abc import Iterable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear

from workers.device import has_accelerator
from workers.engine.cpu.attention import SPAN, attention
from workers.engine.cpu.blas import Invariance, thread_counts
from workers.engine.cpu.lm_head import LmHead
from workers.engine.cpu.matmul import linear
from workers.engine.kv.key_blocks import BLOCK, in_blocks
from workers.engine.kv.length_groups import length_groups_of
from workers.engine.kv.mlx_caches import is_full_attention, new_cache
from workers.engine.kv.queries import queries_of
from workers.engine.kv.slab import SlabView

Layer = Linear | LmHead

ROWS = (
    1,
    2,
    3,
    5,
    8,
    13,
    16,
    31,
    45,
)  # OpenBLAS's kernels compute 4, 8, 12 or 16 rows at a time, then the remainder
MOST_ROWS = 128
WEIGHTS = 300_000  # of a layer; a larger layer is compared by some of its outputs, as all are computed alike
HEADS, GROUPS, SIZE = 3, 1, 64  # heads, KV heads and head size of the attention that is compared
KEYS = (5, SPAN - 6, SPAN - 1, SPAN + 1)  # some kernels sum the remaining columns in another order
LAST = (1, 7)  # tokens of a prompt in its last prefill chunk
SEVERAL = 6  # tokens of a sequence in a pass that verifies guesses


def measure_invariance(model: Any) -> Invariance:
    """Compares the layers of a model after ``install``; takes tens of milliseconds with OpenBLAS."""
    if has_accelerator() or not is_full_attention(new_cache(model)):
        return "rounding"
    layers: dict[Any, Layer] = {}  # one layer of each shape
    for _, module in model.named_modules():
        if type(module) is LmHead:
            layers[LmHead, module.pieces[0].shape] = LmHead(module.first(WEIGHTS // module.inner))
        elif type(module) in (Linear, Embedding):  # a tied embedding computes logits too
            outputs, inner = module.weight.shape
            layers[outputs, inner] = linear_of(module.weight[: WEIGHTS // inner])
        elif any(value.ndim > 1 for value in module.values() if isinstance(value, mx.array)):
            return "rounding"  # experts and convolutions are not compared
    return invariance(layers.values())


def invariance(layers: Iterable[Layer]) -> Invariance:
    """``exact`` if all ``layers`` and attention are batch-invariant."""
    return "exact" if all(map(_layer_is_exact, layers)) and _attention_is_exact() else "rounding"


def linear_of(weight: mx.array) -> Linear:
    """A linear layer with ``weight`` (outputs, inner)."""
    layer = Linear(1, 1, bias=False)
    layer.weight = weight
    return layer


def _layer_is_exact(layer: Layer) -> bool:
    """Whether each number of rows gives the same bits as ``MOST_ROWS`` rows."""
    x = _random(MOST_ROWS, layer.inner if isinstance(layer, LmHead) else layer.weight.shape[1])

    def compute(rows: int) -> mx.array:
        return layer.as_linear(x[:rows]) if isinstance(layer, LmHead) else linear(layer, x[:rows])

    among_all = compute(MOST_ROWS)
    with thread_counts() as counts:
        return all(
            bool(mx.array_equal(compute(rows), among_all[:rows]))
            for _ in counts
            for rows in (*ROWS, MOST_ROWS)
        )


def _attention_is_exact() -> bool:
    """Whether decode, verification, prefill in one pass, chunked and padded prefill attend bit-identically."""
    with thread_counts() as counts:
        return all(_attends_alike(keys) for _ in counts for keys in KEYS)


def _attends_alike(tokens: int) -> bool:
    queries, keys, values = (_random(2, heads, tokens, SIZE) for heads in (HEADS, GROUPS, GROUPS))
    one, last, scale = slice(1), slice(tokens - 1, tokens), SIZE**-0.5
    read = attention(queries, keys, values, None, scale, "causal")
    alone = attention(queries[one], keys[one], values[one], None, scale, "causal")
    padded = mx.pad(values, [(0, 0), (0, 0), (0, -tokens % BLOCK), (0, 0)])
    view = SlabView(0, mx.contiguous(in_blocks(keys)), padded, length_groups_of([tokens, tokens]))
    cache = SimpleNamespace(in_blocks=lambda keys, values: [view])
    decoded = attention(queries[:, :, last], keys, values, cache, scale, None)
    few = min(SEVERAL, tokens)
    ends = mx.arange(tokens - few, tokens)[:, None, None, None]
    guessed = replace(view, several=[queries_of(0, [few, few])])
    verified = attention(
        queries[:, :, tokens - few :].swapaxes(1, 2).reshape(2 * few, HEADS, 1, SIZE),
        *(keys, values, SimpleNamespace(in_blocks=lambda keys, values: [guessed]), scale),
        mx.tile(mx.arange(tokens) <= ends, (2, 1, 1, 1)),
    )[few - 1 : few]
    in_passes = [
        attention(queries[one, :, tokens - few :], keys[one], values[one], None, scale, "causal")[:, :, -1:]
        for few in LAST
        if few <= tokens
    ]
    return bool(mx.array_equal(alone, read[one]) and mx.array_equal(decoded, read[:, :, last])) and all(
        bool(mx.array_equal(ends, decoded[one])) for ends in [*in_passes, verified[one]]
    )


def _random(*shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(sum(shape)))
