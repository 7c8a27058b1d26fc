"""Attention for a CPU: two to three times as fast as MLX's, which takes its time for exponentials, a product for each
head and each query, and masks.

Rule 1: what a row gets does not depend, to the last bit, on the rows beside it, on how long they are, nor on how many
of its tokens are read at once (on processors with AVX-512, see ``matmul``; of full-attention caches). Hence the spans.
Rule 2: what a query attends to, and with what weight, is what MLX computes, but for rounding.
Rule 3: what counts are the keys and values that the model gives. The cache's own, in blocks, stand in for them only if
they are the same arrays.
Rule 4: float32 only, as everything is on a CPU; sinks and quantized caches are MLX's.
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
from workers.engine.kv.slab import SlabView
from workers.engine.kv.slots import SlotLayer
from workers.engine.pass_memo import PassMemo

NOTHING = -3e38  # finite: a query that may look at nothing, as before padding, looks at everything alike
WORTH_TWO_CORES = (
    4_000_000  # queries times keys times their size; below, handing over costs more than it saves
)

SPAN = 256  # keys that are summed at once: a multiple of BLOCK, and not more than the BLAS sums in one go
FULL_ATTENTION = (KVCache, PaddedPrefillLayer, SlotLayer, type(None))

Mask = mx.array | str | None
Scores = Callable[[mx.array, mx.array, slice], mx.array]

_theirs = base.scaled_dot_product_attention
_made_last: PassMemo[mx.array] = PassMemo()


def attention(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    cache: Any,
    scale: float,
    mask: Mask,
    sinks: mx.array | None = None,
) -> mx.array:
    """Queries: (rows, heads, tokens, size); keys and values: (rows, fewer heads, more tokens, size)."""
    if sinks is not None or hasattr(cache, "bits") or queries.dtype != mx.float32 or keys.dtype != mx.float32:
        return _theirs(queries, keys, values, cache, scale, mask, sinks)  # type: ignore[arg-type]
    scaled = queries * (scale * LOG2_E)
    find: Callable[[mx.array, mx.array], list[SlabView] | None] | None = getattr(cache, "in_blocks", None)
    slabs = find(keys, values) if find else None
    if slabs is None:
        exact = queries.shape[2] > 1 or type(cache) in FULL_ATTENTION
        bias = _bias(mask, queries.shape[2], keys.shape[2])
        return _attend_rows(scaled, partial(_scores, exact=exact), keys, values, bias)
    bias = _bias(mask, 1, keys.shape[2], blocks_for(keys.shape[2]) * BLOCK)
    groups = [(slab, group) for slab in slabs for group in slab.groups]
    if len(groups) == 1:
        return _attend_rows(scaled, _scores_in_blocks, slabs[0].blocks, slabs[0].values, bias)
    return mx.concatenate([_attend_group(slab, group, scaled, bias) for slab, group in groups])


def _attend_group(slab: SlabView, group: LengthGroup, queries: mx.array, bias: mx.array | None) -> mx.array:
    slots, near = group.rows, blocks_for(group.width)
    rows, there = slice(slab.first + slots.start, slab.first + slots.stop), slice(near * BLOCK)
    if bias is not None:
        bias = _of(bias, rows)[..., there]
    keys, values = slab.blocks[slots, :, :near], slab.values[slots, :, there]
    return _attend_rows(queries[rows], _scores_in_blocks, keys, values, bias)


def _attend_rows(
    queries: mx.array, scores_of: Scores, keys: mx.array, values: mx.array, bias: mx.array | None
) -> mx.array:
    """In halves where that is worth it."""
    rows, _, tokens, _ = queries.shape
    if rows < 2 or tokens > 1 or queries.size * values.shape[2] < WORTH_TWO_CORES:
        return _attend(queries, scores_of, keys, values, bias)

    def attend_some(some: slice) -> mx.array:
        part = bias if bias is None else _of(bias, some)
        return _attend(queries[some], scores_of, keys[some], values[some], part)

    return on_two_cores(attend_some, rows)


def _attend(
    queries: mx.array, scores_of: Scores, keys: mx.array, values: mx.array, bias: mx.array | None
) -> mx.array:
    """``queries`` are scaled, so that a weight is 2 to the power of a score."""
    rows, heads, tokens, size = queries.shape
    groups, there = values.shape[1:3]
    together = heads // groups * tokens  # queries that look at the same keys: one product for all of them
    grouped = queries.reshape(rows, groups, together, size)
    spans = [slice(start, min(start + SPAN, there)) for start in range(0, there, SPAN)]
    scores = [scores_of(grouped, keys, span) for span in spans]
    if bias is not None:
        scores = [_biased(part, bias[..., span], tokens) for part, span in zip(scores, spans, strict=True)]
    top = reduce(mx.maximum, [mx.max(part, axis=-1, keepdims=True) for part in scores])
    weights = [exp2(part - top) for part in scores]
    # Summed by the BLAS, as MLX's sum adds one after the other; each row by itself, for rule 1.
    sums = reduce(add, [part @ _ones(part.shape[-1]) for part in weights])[..., :1]
    sought = reduce(add, [part @ values[:, :, span] for part, span in zip(weights, spans, strict=True)])
    return (sought / sums).reshape(rows, heads, tokens, values.shape[-1])


def _scores(queries: mx.array, keys: mx.array, span: slice, *, exact: bool) -> mx.array:
    """(rows, groups, queries, keys of the span); ``exact``: by rule 1, which costs time when queries are few."""
    near = keys[:, :, span]
    return times_transposed(queries, near) if exact else queries @ near.swapaxes(-1, -2)


def _scores_in_blocks(queries: mx.array, blocks: mx.array, span: slice) -> mx.array:
    return scores_in(queries, blocks[:, :, span.start // BLOCK : span.stop // BLOCK])


def _ones(keys: int) -> mx.array:
    """As many columns as a register has numbers: the BLAS sums fewer in an order of their own."""
    return _made_last.get("ones", (keys,), lambda: mx.ones((1, 1, keys, 16)))


def _biased(scores: mx.array, bias: mx.array, tokens: int) -> mx.array:
    """``bias`` broadcasts to (rows, heads, tokens, keys); heads are 1 or all."""
    rows, groups, _, there = scores.shape
    by_row, heads, some, keys = [1] * (4 - bias.ndim) + list(bias.shape)
    if heads == some == 1:
        return scores + bias.reshape(by_row, 1, 1, keys) if bias.ndim < 4 else scores + bias
    apart = bias.reshape(by_row, groups if heads > 1 else 1, -1, some, keys)
    return (scores.reshape(rows, groups, -1, tokens, there) + apart).reshape(scores.shape)


def _bias(mask: Mask, tokens: int, there: int, room: int = 0) -> mx.array | None:
    """What is added to the scores; of ``room`` keys, of which only those that are there count."""
    room = max(room, there)
    if mask is None and room == there:
        return None
    return _made_last.get("bias", (mask, tokens, there, room), lambda: _made(mask, tokens, there, room))


def _made(mask: Mask, tokens: int, there: int, room: int) -> mx.array:
    if mask is None:
        mask = mx.ones((1, there), dtype=mx.bool_)
    if isinstance(mask, str):  # "causal"
        mask = mx.arange(there - tokens, there)[:, None] >= mx.arange(there)[None]
    bias = mx.where(mask, 0.0, NOTHING) if mask.dtype == mx.bool_ else mask * LOG2_E
    beyond = [(0, 0)] * (bias.ndim - 1) + [(0, room - there)]
    return mx.pad(bias, beyond, constant_values=NOTHING) if room > there else bias


def _of(bias: mx.array, rows: slice) -> mx.array:
    """A bias may be one for all rows, without an axis for them or with one of length 1."""
    return bias if bias.ndim < 4 or bias.shape[0] == 1 else bias[rows]
