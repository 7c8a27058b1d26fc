"""Decoders that embed or judge texts, on mlx-lm's models: Qwen3-Embedding and Qwen3-Reranker (arXiv:2506.05176).

Texts are padded at their ends, where a causal model's earlier tokens do not see it.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx.nn.layers.linear import Linear

from workers.encoders.models.packed import Group
from workers.encoders.models.part import EncoderPart


class Decoder:
    """Groups of texts -> the last hidden states of each group. ``model`` is mlx-lm's, with its head."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, groups: Sequence[Group]) -> list[mx.array]:
        return [self._model.model(mx.array(group.ids)) for group in groups]


class YesOrNo:
    """The log-odds of the token that means yes against the one that means no, behind a text."""

    def __init__(self, model: Any, yes: int, no: int | None) -> None:
        self._model = model
        self._tokens = [yes] if no is None else [yes, no]

    def __call__(self, hidden: mx.array, lengths: tuple[int, ...]) -> mx.array:
        """(texts, longest, hidden) -> (texts,)"""
        logits = self._logits(_ends(hidden, lengths)).astype(mx.float32)
        return logits[:, 0] if len(self._tokens) == 1 else logits[:, 0] - logits[:, 1]

    def _logits(self, ends: mx.array) -> mx.array:
        """(texts, tokens). Of a head that is the embedding's table, two rows are all that is needed."""
        tokens = mx.array(self._tokens)
        if "lm_head" in self._model:
            logits: mx.array = self._model.lm_head(ends)
            return logits[:, tokens]
        rows: mx.array = self._model.model.embed_tokens(tokens)
        # A product of matrices with so few columns would round by how many texts there are.
        return (ends[:, None] * rows[None]).sum(axis=-1)


class Score(EncoderPart):
    """A linear layer in the place of the vocabulary's (``Qwen3ForSequenceClassification``)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.score = Linear(size, 1, bias=False)

    def __call__(self, hidden: mx.array, lengths: tuple[int, ...]) -> mx.array:
        """(texts, longest, hidden) -> (texts,)"""
        return self.score(_ends(hidden, lengths))[:, 0]


def _ends(hidden: mx.array, lengths: tuple[int, ...]) -> mx.array:
    return hidden[mx.arange(len(lengths)), mx.array(lengths) - 1]
