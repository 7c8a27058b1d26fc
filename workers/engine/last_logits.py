"""Prefill with last logits: keys and values of all tokens, and the logits of each prompt's last token only.

The product with the vocabulary is the largest of a pass, and a first token needs the last logits only. So the model's
body computes all positions and its lm_head one per sequence. In mlx-lm's models one call has both: during it, the body
is replaced by one that gives the lm_head these positions only. The cost is the last layer's, instead of a pass for the
first token.
"""

from typing import Any

import mlx.core as mx

from workers.engine.kv.mlx_caches import Cache, evaluate, padded
from workers.engine.pass_memo import begin_pass


def prefill_with_last_logits(model: Any, cache: Cache, rows: list[list[int]]) -> mx.array:
    """Prefills rows into a full-attention cache and gives their last logits (rows, vocabulary); no row may be empty."""
    begin_pass()
    logits = logits_at(model, padded(rows), cache, [len(row) - 1 for row in rows])
    evaluate(cache, logits)
    return logits


def logits_at(model: Any, tokens: mx.array, cache: Cache, positions: list[int]) -> mx.array:
    """The lazy logits (rows, vocabulary) of one position of each row of ``tokens``.

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
    """Wraps a model's body and gives one position of each row."""

    def __init__(self, body: Any, positions: list[int]) -> None:
        self._body = body
        self._positions = positions

    def __call__(self, *inputs: Any, **named: Any) -> mx.array:
        hidden: mx.array = self._body(*inputs, **named)
        return hidden[mx.arange(len(self._positions)), mx.array(self._positions)][:, None]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)
