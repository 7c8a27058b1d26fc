"""Batch invariance: whether a row's numbers are the same to the last bit whatever is computed beside it, or but for
rounding. The BLAS's kernels decide (see ``matmul``), so it is measured once, with weights of the model.

Rule 1: ``exact`` is promised only of what was compared; everything else is ``rounding``.
Rule 2: it is compared with each number of threads a worker may come to have.
"""

from collections.abc import Iterable
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
)  # OpenBLAS's kernels take 4, 8, 12 or 16 at a time, and then what is left
MOST_ROWS = 128
WEIGHTS = 300_000  # of a wide layer some outputs are compared: each is computed as the others are
HEADS, GROUPS, SIZE = 3, 1, 64  # of the attention that is compared
KEYS = (5, SPAN - 6, SPAN - 1, SPAN + 1)  # what is left of a kernel's columns is summed in other ways by some
LAST = (1, 7)  # tokens of a prompt that are read in its last pass


def measure_invariance(model: Any) -> Invariance:
    """Of a model that computes as ``install`` and ``lm_head`` have it; tens of milliseconds with OpenBLAS."""
    if has_accelerator() or not is_full_attention(new_cache(model)):
        return "rounding"
    layers: dict[Any, Layer] = {}  # one of each shape
    for _, module in model.named_modules():
        if type(module) is LmHead:
            layers[LmHead, module.pieces[0].shape] = LmHead(module.first(WEIGHTS // module.inner))
        elif type(module) in (Linear, Embedding):  # an embedding may make logits too
            outputs, inner = module.weight.shape
            layers[outputs, inner] = linear_of(module.weight[: WEIGHTS // inner])
        elif any(value.ndim > 1 for value in module.values() if isinstance(value, mx.array)):
            return "rounding"  # experts, convolutions: nothing here compares them
    return invariance(layers.values())


def invariance(layers: Iterable[Layer]) -> Invariance:
    """Of such layers, and of attention."""
    return "exact" if all(map(_layer_is_exact, layers)) and _attention_is_exact() else "rounding"


def linear_of(weight: mx.array) -> Linear:
    """``weight``: (outputs, inner)."""
    layer = Linear(1, 1, bias=False)
    layer.weight = weight
    return layer


def _layer_is_exact(layer: Layer) -> bool:
    """Whether some rows of many get what they get among all of them."""
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
    """Whether a token that is decoded gets what it gets in a prompt that is read: in one pass, in more, in company."""
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
    in_passes = [
        attention(queries[one, :, tokens - few :], keys[one], values[one], None, scale, "causal")[:, :, -1:]
        for few in LAST
        if few <= tokens
    ]
    return bool(mx.array_equal(alone, read[one]) and mx.array_equal(decoded, read[:, :, last])) and all(
        bool(mx.array_equal(ends, decoded[one])) for ends in in_passes
    )


def _random(*shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(sum(shape)))
