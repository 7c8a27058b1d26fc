"""Attention on an accelerator, slab by slab: one fused operation for each slab, and their outputs are put together.

A model of mlx-lm attends to the keys and values that its cache has given it. Those of several slabs would have to be
copied into one array, as wide as the longest sequence, by each layer in each pass. So a cache notes from which slabs
the arrays that it gives are made, and they are never computed.

Rule 1: other arrays than those that were given are attended to as MLX does.
Rule 2: a query's numbers are those of a call with its slab's keys only; no mask or width of another slab is in it.
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from workers.engine.kv.queries import Queries
from workers.engine.pass_memo import PassMemo
from workers.engine.patches import replace

Attention = Callable[..., mx.array]
Mask = mx.array | str | None


@dataclass(frozen=True)
class TokenView:
    """``keys``, ``values`` (slots, heads, tokens, size) of a slab, and the ``rows`` of the pass that attend to them.

    ``window``: of the layer, if it has one. ``several``: the queries, where a slot has more than one.
    """

    rows: slice
    keys: mx.array
    values: mx.array
    window: int | None = None
    several: Queries | None = None


@dataclass(frozen=True)
class _Given:
    keys: weakref.ref[mx.array]
    values: weakref.ref[mx.array]
    views: Callable[[], Sequence[TokenView]]


_given: dict[int, _Given] = {}  # by the id of the keys; engines of several threads have arrays of their own
_theirs: Attention = mx.fast.scaled_dot_product_attention
_masks: PassMemo[mx.array] = PassMemo()


def install() -> None:
    """Replaces MLX's attention; see ``patches``."""
    replace(mx.fast, "scaled_dot_product_attention", attention)


def note(keys: mx.array, values: mx.array, views: Callable[[], Sequence[TokenView]]) -> None:
    """``keys`` and ``values`` stand for those of ``views``, for as long as they exist."""
    id_ = id(keys)
    _given[id_] = _Given(weakref.ref(keys, lambda _: _given.pop(id_, None)), weakref.ref(values), views)


def attention(
    q: mx.array, k: mx.array, v: mx.array, *, mask: Mask = None, sinks: mx.array | None = None, **more: Any
) -> mx.array:
    """``q``: (rows, heads, 1, size) where ``k`` and ``v`` are of slabs; else anything that MLX's own takes."""
    given = _given.get(id(k))
    if given is None or given.keys() is not k or given.values() is not v:
        return _theirs(q, k, v, mask=mask, sinks=sinks, **more)
    return mx.concatenate([_attend(view, q, mask, sinks=sinks, **more) for view in given.views()])


def _attend(view: TokenView, queries: mx.array, mask: Mask, **more: Any) -> mx.array:
    seen = _of_slab(mask, view) if isinstance(mask, mx.array) else mask
    if view.several is None:
        return _theirs(queries[view.rows], view.keys, view.values, mask=seen, **more)
    out = _theirs(view.several.side_by_side(queries), view.keys, view.values, mask=seen, **more)
    return view.several.one_by_one(out)


def _of_slab(mask: mx.array, view: TokenView) -> mx.array:
    """The part of a mask that is for the queries and keys of a slab, made once in a pass."""
    sources = mask, view.rows.stop, view.keys.shape[2]
    return _masks.get((view.rows.start, view.window), sources, lambda: _cut(mask, view))


def _cut(mask: mx.array, view: TokenView) -> mx.array:
    """``mask``: (rows, heads or 1, 1, keys), or one that broadcasts to it."""
    mask = mask[..., : view.keys.shape[2]]
    if mask.ndim < 4 or mask.shape[0] == 1:
        return mask
    return mask[view.rows] if view.several is None else view.several.side_by_side(mask)
