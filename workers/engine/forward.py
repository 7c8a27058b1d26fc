"""The forward pass: the one place of the engine that calls the model.

The product with the vocabulary is the largest of a pass, and of a prompt the last logits are wanted only. So the body
computes all positions and the lm_head one per row. In mlx-lm's models one call has both: during it, the body is
replaced by one that gives the lm_head these positions only.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from workers.engine.kv.mlx_caches import Cache, evaluate, is_aligned_at_starts, new_cache, width_of_pass
from workers.engine.kv.state_rows import StateRows
from workers.engine.pass_memo import begin_pass

Compute = Callable[..., None]  # a cache that was written to, and arrays beside it


def forward(
    model: Any,
    tokens: mx.array,
    cache: Cache,
    at: list[int] | None = None,
    *,
    embeddings: mx.array | None = None,
    positions: mx.array | None = None,
) -> mx.array:
    """The lazy logits (rows, tokens, vocabulary) of ``tokens`` (rows, tokens), which are written to ``cache``.

    ``at``: the place in each row whose logits are wanted, if no others are: (rows, 1, vocabulary). Raises
    AttributeError with it for a model whose body has another name.
    ``embeddings`` (rows, tokens, size): what the model reads in place of those of the tokens, such as an image's.
    Raises TypeError with it for a model of mlx-lm that takes tokens only.
    ``positions`` (rows,): that of each row's first token, where it is not the number of tokens before it. For a batch
    of slots or a padded one; raises AttributeError for other caches, which count on from their own.
    """
    begin_pass()
    if positions is not None:
        _place(cache, positions)
    inputs = {} if embeddings is None else {"input_embeddings": embeddings}
    if at is None:
        logits: mx.array = model(tokens, cache=cache, **inputs)
        return logits
    owner = model.language_model if "language_model" in model else model
    body = owner.model
    owner.model = _Showing(body, at)
    try:
        logits = model(tokens, cache=cache, **inputs)
    finally:
        owner.model = body
    return logits[:, -1:]


def feed(model: Any, cache: Cache, rows: list[list[int]], compute: Compute = evaluate) -> None:
    """Prefills the tokens of each row into its cache; the logits are never computed. ``compute`` may be ``start``.

    Full-attention rows are aligned at their starts. Other rows are shifted, so that they are aligned at their ends.
    """
    width = _prepare(cache, rows)
    forward(model, _padded(rows, width), cache)
    compute(cache)
    if any(len(row) < width for row in rows) and not is_aligned_at_starts(cache):
        for layer in cache:
            layer.finalize()
        compute(cache)


def feed_to_ends(model: Any, cache: Cache, rows: list[list[int]], compute: Compute = evaluate) -> mx.array:
    """Prefills rows into a full-attention cache and gives their last logits (rows, vocabulary); no row may be empty.

    The cost of the logits is the last layer's, instead of a pass for the first token.
    """
    width = _prepare(cache, rows)
    logits = forward(model, _padded(rows, width), cache, [len(row) - 1 for row in rows])[:, 0]
    compute(cache, logits)
    return logits


def start(cache: Cache, *more: mx.array) -> None:
    """Lets the device compute what ``evaluate`` would wait for."""
    mx.async_eval([layer.state for layer in cache], *more)


def end_of(cache: Cache) -> mx.array:
    """A number that is there when what was started has ended.

    It holds no array of the cache, as MLX would copy one that is held before it writes to it.
    """
    states: dict[str, Any] = dict(tree_flatten([layer.state for layer in cache]))
    last = [state for state in states.values() if isinstance(state, mx.array) and state.ndim > 2][-1]
    end: mx.array = last[(0,) * last.ndim] + 0
    mx.async_eval(end)
    return end


def blank(model: Any, tokens: int) -> Cache:
    """A full-attention cache of ``tokens`` zeros, for measurements."""
    cache = new_cache(model)
    feed(model, cache, [[0]])
    for layer in cache:
        heads, size = layer.keys.shape[1], layer.keys.shape[3]
        values = mx.zeros((1, heads, tokens, layer.values.shape[3]), dtype=layer.values.dtype)
        layer.state = mx.zeros((1, heads, tokens, size), dtype=layer.keys.dtype), values, tokens
    evaluate(cache)
    return cache


def _place(cache: Cache, positions: mx.array) -> None:
    for layer in cache:
        for part in layer if isinstance(layer, tuple) else [layer]:
            if not isinstance(part, StateRows):  # a state has no positions
                part.place(positions)


def _prepare(cache: Cache, rows: list[list[int]]) -> int:
    """Tells a batch cache which tokens will be padding; gives the tokens of a row with them."""
    lengths = [len(row) for row in rows]
    width = width_of_pass(cache, lengths)
    if min(lengths) < width:
        for layer in cache:
            layer.prepare(lengths=lengths, right_padding=[width - length for length in lengths])
    return width


def _padded(rows: list[list[int]], width: int) -> mx.array:
    """The rows padded with zeros: (rows, width)."""
    return mx.array([row + [0] * (width - len(row)) for row in rows])


class _Showing:
    """Wraps a model's body and gives one position of each row."""

    def __init__(self, body: Any, positions: list[int]) -> None:
        self._body = body
        self._positions = positions

    def __call__(self, *inputs: Any, **named: Any) -> mx.array:
        hidden: mx.array = self._body(*inputs, **named)
        return hidden[mx.arange(len(self._positions)), mx.array(self._positions)][:, None]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)
