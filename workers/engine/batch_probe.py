"""Whether rows of unlike length compute together what each computes alone; asked of a model once, when it is loaded.

A cache's offset is one number for a sequence and one for each row of a batch. Some of mlx-lm's models do arithmetic
with it that holds for the number only (gpt_bigcode, internlm3, dynamic rope): together they fail, or give wrong text.
The probe takes the ways of the engine: beginnings read before, their rest in one pass, then a few steps together. It
does so once more with windows, chunks and budgets so small that these few tokens are past them, see ``spans``.
"""

from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from workers.engine.kv.mlx_caches import (
    can_merge,
    can_pad,
    feed,
    feed_one,
    is_plain,
    merge,
    new_cache,
    places,
)
from workers.engine.kv.row_caches import caches_for
from workers.engine.last_logits import logits_at
from workers.engine.probe_spans import few_tokens

BEGINNINGS = ([*range(40, 51)], [60, 61])
RESTS = ([51, 52], [62, 63, 64, 65, 66])
LIKE_RESTS = ([51, 52, 53], [62, 63, 64])  # where padding is not read
STEPS = ([71, 72, 73], [81, 82, 83])  # the tokens of each row
# Of the logits' spread, by the coarsest type of the weights. What rows compute wrongly differs by most of it.
TOLERANCES = {mx.float32: 1e-3, mx.float16: 0.05, mx.bfloat16: 0.1}
# Rounding that sends tokens to other experts goes further: so many times what it does to a row alone, but no more.
TIMES, MOST = 8, 0.5
FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def why_alone(model: Any) -> str | None:
    """What keeps the rows of a model out of one batch; None when nothing does."""
    if not can_merge(model):
        return "its caches cannot be merged"
    pads, where = can_pad(model), ""
    try:
        errors = {where: _in_company(model, pads)}
        with few_tokens(model) as names:
            where = f" past its {', '.join(sorted(names))}"
            if names:
                errors[where] = _in_company(model, pads)
    except FAILURES as failure:
        return f"rows of unlike length fail together{where} ({type(failure).__name__}: {failure})"
    for where, error in errors.items():
        # Also when it is no number.
        if not error <= _tolerance(model) and not error <= min(TIMES * _rounding(model, pads), MOST):
            return (
                f"rows of unlike length compute together what none computes alone{where} (off by {error:.2g})"
            )
    return None


def shows_ends(model: Any) -> bool:
    """Whether ``ends`` finds its way through the model; asked of a position that is not the last of all."""
    ids, position = mx.array([BEGINNINGS[0]]), 3
    try:
        shown = logits_at(model, ids, new_cache(model), [position])[:, None]
        whole = model(ids, cache=new_cache(model))[:, position : position + 1]
        return _error(shown, whole) <= _tolerance(model)
    except FAILURES:
        return False


def _together(model: Any, pads: bool) -> mx.array:
    """Logits (rows, steps, vocabulary)."""
    plain = is_plain(new_cache(model))
    begun = [new_cache(model) for _ in BEGINNINGS]
    for cache, beginning in zip(begun, BEGINNINGS, strict=True):
        feed_one(model, cache, beginning)
    read, rests = merge(begun), _rests(pads)
    feed(model, read, rests)
    caches = caches_for(plain)
    caches.join(read, places(list(map(len, BEGINNINGS)), list(map(len, rests)), plain=plain))
    logits = []
    for tokens in zip(*STEPS, strict=True):
        caches.begin()
        logits.append(model(mx.array(tokens)[:, None], cache=caches.layers)[:, -1])
    return mx.stack(logits, axis=1)


def _alone(model: Any, pads: bool) -> mx.array:
    """The same, of each row by itself in such passes."""
    rows = []
    for beginning, rest, steps in zip(BEGINNINGS, _rests(pads), STEPS, strict=True):
        cache = new_cache(model)
        feed_one(model, cache, beginning)
        feed_one(model, cache, rest)
        rows.append(mx.concatenate([model(mx.array([[token]]), cache=cache) for token in steps], axis=1))
    return mx.concatenate(rows)


def _in_company(model: Any, pads: bool) -> float:
    """How far off rows are together."""
    return _error(_together(model, pads), _alone(model, pads))


def _rounding(model: Any, pads: bool) -> float:
    """How far off the same rows are alone, each in one pass."""
    logits = []
    for beginning, rest, steps in zip(BEGINNINGS, _rests(pads), STEPS, strict=True):
        ids = mx.array([[*beginning, *rest, *steps]])
        logits.append(model(ids, cache=new_cache(model))[:, -len(steps) :])
    return _error(mx.concatenate(logits), _alone(model, pads))


def _rests(pads: bool) -> list[list[int]]:
    return list(RESTS if pads else LIKE_RESTS)


def _error(these: mx.array, those: mx.array) -> float:
    """Of the worst row, the middle one of its steps: one that rounding sends to another expert does not count."""
    these, those = these.astype(mx.float32), those.astype(mx.float32)
    spread = mx.linalg.norm(those - mx.mean(those, axis=-1, keepdims=True), axis=-1)
    errors = np.asarray(mx.linalg.norm(these - those, axis=-1) / spread)
    return float(np.median(errors, axis=1).max())  # NaN if one is


def _tolerance(model: Any) -> float:
    arrays: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    types = {array.dtype for array in arrays.values()}
    return max((TOLERANCES[type] for type in types if type in TOLERANCES), default=TOLERANCES[mx.float32])
