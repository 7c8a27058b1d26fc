"""BERT (Devlin et al., arXiv:1810.04805) and the RoBERTa family, XLM-RoBERTa among it, which count positions from
behind the id of padding.

Attributes are named as the tensors in the weight files, so that names can be compared.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.normalization import LayerNorm

from workers.encoders.models.activations import activation
from workers.encoders.models.attention import attention
from workers.encoders.models.packed import Group, Packed
from workers.encoders.models.part import EncoderPart

ROBERTAS = ("roberta", "xlm-roberta", "camembert")


class BertEmbeddings(EncoderPart):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        size = config["hidden_size"]
        self.word_embeddings = Embedding(config["vocab_size"], size)
        self.position_embeddings = Embedding(config["max_position_embeddings"], size)
        self.token_type_embeddings = Embedding(config["type_vocab_size"], size)
        self.LayerNorm = LayerNorm(size, eps=config["layer_norm_eps"])

    def __call__(self, packed: Packed, padding: int | None) -> mx.array:
        types = mx.minimum(packed.types, self.token_type_embeddings.weight.shape[0] - 1)
        x = self.word_embeddings(packed.ids) + self.token_type_embeddings(types)
        normed: mx.array = self.LayerNorm(x + self.position_embeddings(packed.positions(padding)))
        return normed


class SelfAttention(EncoderPart):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        size = config["hidden_size"]
        self.query = Linear(size, size)
        self.key = Linear(size, size)
        self.value = Linear(size, size)
        self._heads = config["num_attention_heads"]

    def __call__(self, x: mx.array, packed: Packed) -> mx.array:
        return attention(packed, (self.query(x), self.key(x), self.value(x)), self._heads)


class Residual(EncoderPart):
    """A projection, added to what went in, and normalised."""

    def __init__(self, config: Mapping[str, Any], inner: int) -> None:
        super().__init__()
        self.dense = Linear(inner, config["hidden_size"])
        self.LayerNorm = LayerNorm(config["hidden_size"], eps=config["layer_norm_eps"])

    def __call__(self, x: mx.array, before: mx.array) -> mx.array:
        normed: mx.array = self.LayerNorm(self.dense(x) + before)
        return normed


class BertAttention(EncoderPart):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self["self"] = SelfAttention(config)
        self.output = Residual(config, config["hidden_size"])

    def __call__(self, x: mx.array, packed: Packed) -> mx.array:
        attended: mx.array = self["self"](x, packed)
        return self.output(attended, x)


class Intermediate(EncoderPart):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.dense = Linear(config["hidden_size"], config["intermediate_size"])
        self._activation = activation(config["hidden_act"])

    def __call__(self, x: mx.array) -> mx.array:
        return self._activation(self.dense(x))


class BertLayer(EncoderPart):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.attention = BertAttention(config)
        self.intermediate = Intermediate(config)
        self.output = Residual(config, config["intermediate_size"])

    def __call__(self, x: mx.array, packed: Packed) -> mx.array:
        x = self.attention(x, packed)
        return self.output(self.intermediate(x), x)


class Layers(EncoderPart):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.layer = [BertLayer(config) for _ in range(config["num_hidden_layers"])]

    def __call__(self, x: mx.array, packed: Packed) -> mx.array:
        for layer in self.layer:
            x = layer(x, packed)
        return x


class Bert(EncoderPart):
    """Groups of texts -> the last hidden states of each group, (texts, longest, hidden)."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.embeddings = BertEmbeddings(config)
        self.encoder = Layers(config)
        self._padding = config["pad_token_id"] if config["model_type"] in ROBERTAS else None

    def __call__(self, groups: Sequence[Group]) -> list[mx.array]:
        packed = Packed(groups)
        x = self.embeddings(packed, self._padding)
        return packed.split(self.encoder(x, packed))


def positions_of(config: Mapping[str, Any]) -> int:
    """How many tokens a text may have."""
    first = config["pad_token_id"] + 1 if config["model_type"] in ROBERTAS else 0
    return int(config["max_position_embeddings"]) - first
