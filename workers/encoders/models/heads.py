"""Classifier heads: what makes one score for a pair of texts of the last hidden states. One for each family.

Attributes are named as the tensors in the weight files, so that names can be compared.
"""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.normalization import LayerNorm

from workers.encoders.models.activations import activation
from workers.encoders.models.part import EncoderPart
from workers.encoders.models.pooling import Pooling


class HeadDense(EncoderPart):
    def __init__(self, size: int, bias: bool = True) -> None:
        super().__init__()
        self.dense = Linear(size, size, bias=bias)

    def __call__(self, x: mx.array) -> mx.array:
        return self.dense(x)


class BertHead(EncoderPart):
    """The pooler reads the first token."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.pooler = HeadDense(config["hidden_size"])
        self.classifier = Linear(config["hidden_size"], 1)

    def __call__(self, hidden: mx.array, lengths: tuple[int, ...]) -> mx.array:
        """(texts, longest, hidden) -> (texts,)"""
        return self.classifier(mx.tanh(self.pooler(hidden[:, 0])))[:, 0]


class _RobertaClassifier(EncoderPart):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.dense = Linear(config["hidden_size"], config["hidden_size"])
        self.out_proj = Linear(config["hidden_size"], 1)


class RobertaHead(EncoderPart):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.classifier = _RobertaClassifier(config)

    def __call__(self, hidden: mx.array, lengths: tuple[int, ...]) -> mx.array:
        """(texts, longest, hidden) -> (texts,)"""
        inner = mx.tanh(self.classifier.dense(hidden[:, 0]))
        return self.classifier.out_proj(inner)[:, 0]


class _Prediction(EncoderPart):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        size = config["hidden_size"]
        self.dense = Linear(size, size, bias=config["classifier_bias"])
        self.norm = LayerNorm(size, eps=config["norm_eps"], bias=config["norm_bias"])
        self._activation = activation(config["classifier_activation"])

    def __call__(self, x: mx.array) -> mx.array:
        normed: mx.array = self.norm(self._activation(self.dense(x)))
        return normed


class ModernBertHead(EncoderPart):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.head = _Prediction(config)
        self.classifier = Linear(config["hidden_size"], 1)
        self._pooling = Pooling((config["classifier_pooling"],))

    def __call__(self, hidden: mx.array, lengths: tuple[int, ...]) -> mx.array:
        """(texts, longest, hidden) -> (texts,)"""
        pooled = self._pooling(hidden, lengths, (0,) * len(lengths))
        return self.classifier(self.head(pooled))[:, 0]
