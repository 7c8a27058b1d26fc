"""Prompts read to their ends: keys and values of all tokens, and the logits behind the last of each prompt.

The product with the vocabulary is the largest of a pass, and a prompt's last logits are all that a first token needs.
So the body of a model is asked for all positions, its head for one of each row. mlx-lm's models have both in one call:
for that time the body is one that shows the head these positions only. Where logits are not asked for, MLX computes
keys and values only, so this costs what the last layer does behind them, instead of a pass for the first token.
"""

from typing import Any

import mlx.core as mx

from workers.engine.kv.mlx_caches import Cache, evaluate, padded
from workers.engine.pass_memo import begin_pass


def read_to_ends(model: Any, cache: Cache, rows: list[list[int]]) -> mx.array:
    """(rows, vocabulary). The cache is of plain keys and values, see ``caches.feed``; no row is empty."""
    begin_pass()
    logits = logits_at(model, padded(rows), cache, [len(row) - 1 for row in rows])
    evaluate(cache, logits)
    return logits


def logits_at(model: Any, tokens: mx.array, cache: Cache, positions: list[int]) -> mx.array:
    """(rows, vocabulary), not computed yet: one position for each row of ``tokens``.

    Raises AttributeError for a model whose body has another name.
    """
    owner = model.language_model if "language_model" in model else model
    body = owner.model
    owner.model = _Showing(body, positions)
    try:
        logits: mx.array = model(tokens, cache=cache)
    finally:
        owner.model = body
    return logits[:, -1]


class _Showing:
    """A model's body that shows one position of each row."""

    def __init__(self, body: Any, positions: list[int]) -> None:
        self._body = body
        self._positions = positions

    def __call__(self, *inputs: Any, **named: Any) -> mx.array:
        hidden: mx.array = self._body(*inputs, **named)
        return hidden[mx.arange(len(self._positions)), mx.array(self._positions)][:, None]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)
