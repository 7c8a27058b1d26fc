"""Attention for a CPU: two to three times as fast as MLX's, which takes its time for exponentials, a product for each
head and each query, and masks.

Rule 1: what a row gets does not depend, to the last bit, on the rows beside it.
Rule 2: what a query attends to, and with what weight, is what MLX computes, but for rounding.
Rule 3: float32 only, as everything is on a CPU; sinks and quantized caches are MLX's.
"""

from typing import Any

import mlx.core as mx
from mlx_lm.models import base

from workers.engine.exponential import LOG2_E, exp2
from workers.engine.halves import in_halves
from workers.engine.last_made import LastMade
from workers.engine.runs import Run

NOTHING = -3e38  # finite: a query that may look at nothing, as before padding, looks at everything alike
WORTH_HALVES = 4_000_000  # queries times keys times their size; below, handing over costs more than it saves

Mask = mx.array | str | None

_theirs = base.scaled_dot_product_attention
_made_last: LastMade[mx.array] = LastMade()


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
    bias = _bias(mask, queries.shape[2], keys.shape[2])
    scaled = queries * (scale * LOG2_E)
    runs: list[Run] = getattr(cache, "runs", [])
    if len(runs) > 1 and keys.shape[2] == max(run.width for run in runs):
        return mx.concatenate([_attend_run(run, scaled, keys, values, bias) for run in runs])
    return _attend_rows(scaled, keys, values, bias)


def _attend_run(
    run: Run, queries: mx.array, keys: mx.array, values: mx.array, bias: mx.array | None
) -> mx.array:
    some, there = run.rows, slice(run.width)
    if bias is not None:
        bias = _of(bias, some)[..., there]
    return _attend_rows(queries[some], keys[some, :, there], values[some, :, there], bias)


def _attend_rows(queries: mx.array, keys: mx.array, values: mx.array, bias: mx.array | None) -> mx.array:
    """In halves where that is worth it."""
    rows, _, tokens, _ = queries.shape
    if rows < 2 or tokens > 1 or queries.size * keys.shape[2] < WORTH_HALVES:
        return _attend(queries, keys, values, bias)

    def attend_some(some: slice) -> mx.array:
        part = bias if bias is None else _of(bias, some)
        return _attend(queries[some], keys[some], values[some], part)

    return in_halves(attend_some, rows)


def _attend(queries: mx.array, keys: mx.array, values: mx.array, bias: mx.array | None) -> mx.array:
    """``queries`` are scaled, so that a weight is 2 to the power of a score."""
    rows, heads, tokens, size = queries.shape
    groups, there = keys.shape[1:3]
    together = heads // groups * tokens  # queries that look at the same keys: one product for all of them
    scores = queries.reshape(rows, groups, together, size) @ keys.swapaxes(-1, -2)
    if bias is not None:
        scores = _biased(scores, bias, tokens)
    weights = exp2(scores - mx.max(scores, axis=-1, keepdims=True))
    # Summed by the BLAS, as MLX's sum adds one after the other; each row by itself, for rule 1.
    sums = weights @ _made_last.get("ones", (there,), lambda: mx.ones((1, 1, there, 1)))
    return ((weights @ values) / sums).reshape(rows, heads, tokens, values.shape[-1])


def _biased(scores: mx.array, bias: mx.array, tokens: int) -> mx.array:
    """``bias`` broadcasts to (rows, heads, tokens, keys); heads are 1 or all."""
    rows, groups, _, there = scores.shape
    by_row, heads, some, keys = [1] * (4 - bias.ndim) + list(bias.shape)
    if heads == some == 1:
        return scores + bias.reshape(by_row, 1, 1, keys) if bias.ndim < 4 else scores + bias
    apart = bias.reshape(by_row, groups if heads > 1 else 1, -1, some, keys)
    return (scores.reshape(rows, groups, -1, tokens, there) + apart).reshape(scores.shape)


def _bias(mask: Mask, tokens: int, there: int) -> mx.array | None:
    """What is added to the scores."""
    if mask is None:
        return None
    return _made_last.get("bias", (mask, tokens, there), lambda: _made(mask, tokens, there))


def _made(mask: mx.array | str, tokens: int, there: int) -> mx.array:
    if isinstance(mask, str):  # "causal"
        mask = mx.arange(there - tokens, there)[:, None] >= mx.arange(there)[None]
    if mask.dtype == mx.bool_:
        return mx.where(mask, 0.0, NOTHING)
    return mask * LOG2_E


def _of(bias: mx.array, rows: slice) -> mx.array:
    """A bias may be one for all rows, without an axis for them or with one of length 1."""
    return bias if bias.ndim < 4 or bias.shape[0] == 1 else bias[rows]
