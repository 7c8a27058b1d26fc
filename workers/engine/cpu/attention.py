"""Computes attention on a CPU two to three times as fast as MLX does.

Rule 1: with full-attention caches a sequence's result is bit-identical in any batch and with any prefill chunks, on
processors with AVX-512 (see ``matmul``). Therefore keys are summed in spans of fixed length.
Rule 2: the result equals MLX's up to rounding.
Rule 3: keys and values are those that the model passes. The cache's own key blocks replace them only if the arrays are
the same.
Rule 4: it handles float32 without quantized caches; MLX computes the rest.
"""

from collections.abc import Callable
from functools import partial, reduce
from operator import add
from typing import Any

import mlx.core as mx
from mlx_lm.models import base
from mlx_lm.models.cache import KVCache

from workers.engine.cpu.exp import LOG2_E, exp2
from workers.engine.cpu.matmul import times_transposed
from workers.engine.cpu.two_cores import on_two_cores
from workers.engine.kv.key_blocks import BLOCK, blocks_for
from workers.engine.kv.key_blocks import scores as scores_in
from workers.engine.kv.length_groups import LengthGroup
from workers.engine.kv.prefill_batch import PaddedPrefillLayer
from workers.engine.kv.queries import queries_of
from workers.engine.kv.slab import SlabView
from workers.engine.kv.slots import SlotLayer
from workers.engine.pass_memo import PassMemo

NOTHING = -3e38  # finite, so that a query whose keys are all masked (padding) gets no NaN
WORTH_TWO_CORES = (
    4_000_000  # queries times keys times head size; below this the second thread costs more than it saves
)

SPAN = 256  # keys per sum: a multiple of BLOCK, and at most what the BLAS sums without splitting
FULL_ATTENTION = (KVCache, PaddedPrefillLayer, SlotLayer, type(None))

Mask = mx.array | str | None
Scores = Callable[[mx.array, mx.array, slice], mx.array]

_theirs = base.scaled_dot_product_attention
_memo: PassMemo[mx.array] = PassMemo()


def attention(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    cache: Any,
    scale: float,
    mask: Mask,
    sinks: mx.array | None = None,
) -> mx.array:
    """``queries``: (rows, heads, tokens, size); ``keys`` and ``values``: (rows, KV heads, keys, size).

    ``sinks``: by head, a score that takes its share of the weights and has no value.
    """
    if hasattr(cache, "bits") or queries.dtype != mx.float32 or keys.dtype != mx.float32:
        return _theirs(queries, keys, values, cache, scale, mask, sinks)  # type: ignore[arg-type]
    scaled = queries * (scale * LOG2_E)
    find: Callable[[mx.array, mx.array], list[SlabView] | None] | None = getattr(cache, "in_blocks", None)
    slabs = find(keys, values) if find else None
    sinks = None if sinks is None else sinks.astype(mx.float32) * LOG2_E
    if slabs is None:
        exact = queries.shape[2] > 1 or type(cache) in FULL_ATTENTION
        bias = _bias(mask, queries.shape[2], keys.shape[2])
        return _attend_rows(scaled, partial(_scores, exact=exact), keys, values, bias, sinks)
    bias = _bias(mask, 1, keys.shape[2], blocks_for(keys.shape[2]) * BLOCK)
    if any(slab.several for slab in slabs):
        return mx.concatenate(_attend_several(slabs, scaled, bias, sinks))
    groups = [(slab, group) for slab in slabs for group in slab.groups]
    if len(groups) == 1:
        return _attend_rows(scaled, _scores_in_blocks, slabs[0].blocks, slabs[0].values, bias, sinks)
    return mx.concatenate([_attend_group(slab, group, scaled, bias, sinks) for slab, group in groups])


def masked_attention(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | None) -> mx.array:
    """Attention of float32 arrays (texts, heads, tokens, size). ``mask``: True for visible keys, None for all.

    It serves encoders, whose masks ``mx.fast`` has no CPU kernel for.
    """
    scores = (q * (scale * LOG2_E)) @ k.swapaxes(-1, -2)
    if mask is not None:
        scores = mx.where(mask, scores, NOTHING)
    weights = exp2(scores - scores.max(axis=-1, keepdims=True))
    return (weights @ v) / weights.sum(axis=-1, keepdims=True)


def _attend_group(
    slab: SlabView, group: LengthGroup, queries: mx.array, bias: mx.array | None, sinks: mx.array | None
) -> mx.array:
    slots, near = group.rows, blocks_for(group.width)
    rows, keys_read = slice(slab.first + slots.start, slab.first + slots.stop), slice(near * BLOCK)
    if bias is not None:
        bias = _bias_rows(bias, rows)[..., keys_read]
    keys, values = slab.blocks[slots, :, :near], slab.values[slots, :, keys_read]
    return _attend_rows(queries[rows], _scores_in_blocks, keys, values, bias, sinks)


def _attend_several(
    slabs: list[SlabView], scaled: mx.array, bias: mx.array | None, sinks: mx.array | None
) -> list[mx.array]:
    """By length group; the queries (tokens, heads, 1, size) of a slot are multiplied with its keys together."""
    parts = []
    for slab in slabs:
        counted = slab.several or [queries_of(slab.first + g.rows.start, [1] * g.size) for g in slab.groups]
        for group, those in zip(slab.groups, counted, strict=True):
            near = blocks_for(group.width)
            some = those.side_by_side(scaled)
            seen = bias if bias is None or bias.ndim < 4 or bias.shape[0] == 1 else those.side_by_side(bias)
            seen = seen if seen is None else seen[..., : near * BLOCK]
            keys, values = slab.blocks[group.rows, :, :near], slab.values[group.rows, :, : near * BLOCK]
            out = _attend_rows(some, _scores_in_blocks, keys, values, seen, sinks)
            parts.append(those.one_by_one(out))
    return parts


def _attend_rows(
    queries: mx.array,
    scores_of: Scores,
    keys: mx.array,
    values: mx.array,
    bias: mx.array | None,
    sinks: mx.array | None,
) -> mx.array:
    """Splits the rows between two cores if the work is large enough."""
    rows, _, tokens, _ = queries.shape
    if rows < 2 or tokens > 1 or queries.size * values.shape[2] < WORTH_TWO_CORES:
        return _attend(queries, scores_of, keys, values, bias, sinks)

    def attend_some(some: slice) -> mx.array:
        part = bias if bias is None else _bias_rows(bias, some)
        return _attend(queries[some], scores_of, keys[some], values[some], part, sinks)

    return on_two_cores(attend_some, rows)


def _attend(
    queries: mx.array,
    scores_of: Scores,
    keys: mx.array,
    values: mx.array,
    bias: mx.array | None,
    sinks: mx.array | None,
) -> mx.array:
    """Attends with ``queries`` and ``sinks`` that are scaled by log2(e): a weight is 2 to the power of a score."""
    rows, heads, tokens, size = queries.shape
    groups, key_count = values.shape[1:3]
    queries_per_head = heads // groups * tokens  # queries with the same keys; one product computes them all
    grouped = queries.reshape(rows, groups, queries_per_head, size)
    spans = [slice(start, min(start + SPAN, key_count)) for start in range(0, key_count, SPAN)]
    scores = [scores_of(grouped, keys, span) for span in spans]
    if bias is not None:
        scores = [_biased(part, bias[..., span], tokens) for part, span in zip(scores, spans, strict=True)]
    top = reduce(mx.maximum, [mx.max(part, axis=-1, keepdims=True) for part in scores])
    sink = None if sinks is None else _by_query(sinks, groups, tokens)
    top = top if sink is None else mx.maximum(top, sink)
    weights = [exp2(part - top) for part in scores]
    # The BLAS sums the weights, because MLX's sum adds one number at a time. Rows are summed separately (rule 1).
    sums = reduce(add, [part @ _ones(part.shape[-1]) for part in weights])[..., :1]
    sums = sums if sink is None else sums + exp2(sink - top)
    outputs = reduce(add, [part @ values[:, :, span] for part, span in zip(weights, spans, strict=True)])
    return (outputs / sums).reshape(rows, heads, tokens, values.shape[-1])


def _by_query(sinks: mx.array, groups: int, tokens: int) -> mx.array:
    """(1, KV heads, queries with the same keys, 1)."""
    return mx.repeat(sinks, tokens).reshape(1, groups, -1, 1)


def _scores(queries: mx.array, keys: mx.array, span: slice, *, exact: bool) -> mx.array:
    """The scores (rows, KV heads, queries, keys of the span). ``exact`` keeps rule 1 and is slower for few queries."""
    near = keys[:, :, span]
    return times_transposed(queries, near) if exact else queries @ near.swapaxes(-1, -2)


def _scores_in_blocks(queries: mx.array, blocks: mx.array, span: slice) -> mx.array:
    return scores_in(queries, blocks[:, :, span.start // BLOCK : span.stop // BLOCK])


def _ones(keys: int) -> mx.array:
    """Ones with 16 columns, as many as a register holds: with fewer the BLAS sums in another order."""
    return _memo.get("ones", (keys,), lambda: mx.ones((1, 1, keys, 16)))


def _biased(scores: mx.array, bias: mx.array, tokens: int) -> mx.array:
    """Adds ``bias``, which broadcasts to (rows, heads, tokens, keys); its heads are 1 or all."""
    rows, groups, _, key_count = scores.shape
    by_row, heads, some, keys = [1] * (4 - bias.ndim) + list(bias.shape)
    if heads == some == 1:
        return scores + bias.reshape(by_row, 1, 1, keys) if bias.ndim < 4 else scores + bias
    apart = bias.reshape(by_row, groups if heads > 1 else 1, -1, some, keys)
    return (scores.reshape(rows, groups, -1, tokens, key_count) + apart).reshape(scores.shape)


def _bias(mask: Mask, tokens: int, key_count: int, padded: int = 0) -> mx.array | None:
    """What is added to the scores of ``padded`` keys, or None; keys from ``key_count`` on are masked."""
    padded = max(padded, key_count)
    if mask is None and padded == key_count:
        return None
    return _memo.get(
        "bias", (mask, tokens, key_count, padded), lambda: _bias_of(mask, tokens, key_count, padded)
    )


def _bias_of(mask: Mask, tokens: int, key_count: int, padded: int) -> mx.array:
    if mask is None:
        mask = mx.ones((1, key_count), dtype=mx.bool_)
    if isinstance(mask, str):  # "causal"
        mask = mx.arange(key_count - tokens, key_count)[:, None] >= mx.arange(key_count)[None]
    bias = mx.where(mask, 0.0, NOTHING) if mask.dtype == mx.bool_ else mask * LOG2_E
    beyond = [(0, 0)] * (bias.ndim - 1) + [(0, padded - key_count)]
    return mx.pad(bias, beyond, constant_values=NOTHING) if padded > key_count else bias


def _bias_rows(bias: mx.array, rows: slice) -> mx.array:
    """The bias of some rows; a bias that all rows share is returned whole."""
    return bias if bias.ndim < 4 or bias.shape[0] == 1 else bias[rows]
