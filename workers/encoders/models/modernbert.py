"""ModernBERT (Warner et al., arXiv:2412.13663): rotary positions, gated MLPs, and layers that see a window of tokens
between layers that see all of them, each kind with a rotary base of its own.

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


def _norm(config: Mapping[str, Any]) -> LayerNorm:
    return LayerNorm(config["hidden_size"], eps=config["norm_eps"], bias=config["norm_bias"])


def is_windowed(config: Mapping[str, Any], layer: int) -> bool:
    types = config.get("layer_types")
    if types is not None:
        return bool(types[layer] == "sliding_attention")
    return layer % int(config["global_attn_every_n_layers"]) != 0


def rotary_base(config: Mapping[str, Any], windowed: bool) -> float:
    """Newer configs have ``rope_parameters`` by the kind of layer."""
    kind, name = ("sliding_attention", "local") if windowed else ("full_attention", "global")
    parameters = config.get("rope_parameters") or {}
    if kind in parameters:
        return float(parameters[kind]["rope_theta"])
    base = config.get(f"{name}_rope_theta")
    return float(config["global_rope_theta"] if base is None else base)


class ModernBertEmbeddings(EncoderPart):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.tok_embeddings = Embedding(config["vocab_size"], config["hidden_size"])
        self.norm = _norm(config)

    def __call__(self, packed: Packed) -> mx.array:
        normed: mx.array = self.norm(self.tok_embeddings(packed.ids))
        return normed


class ModernBertAttention(EncoderPart):
    def __init__(self, config: Mapping[str, Any], windowed: bool) -> None:
        super().__init__()
        size, bias = config["hidden_size"], config["attention_bias"]
        self.Wqkv = Linear(size, 3 * size, bias=bias)
        self.Wo = Linear(size, size, bias=bias)
        self._heads = config["num_attention_heads"]
        self._window = config["local_attention"] // 2 if windowed else None
        self._size, self._base = size // self._heads, rotary_base(config, windowed)

    def __call__(self, x: mx.array, packed: Packed) -> mx.array:
        q, k, v = mx.split(self.Wqkv(x), 3, axis=-1)
        return self.Wo(attention(packed, (q, k, v), self._heads, self._window, self._rotated))

    def _rotated(self, x: mx.array) -> mx.array:
        return mx.fast.rope(x, self._size, traditional=False, base=self._base, scale=1.0, offset=0)


class Mlp(EncoderPart):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        size, inner, bias = config["hidden_size"], config["intermediate_size"], config["mlp_bias"]
        self.Wi = Linear(size, 2 * inner, bias=bias)
        self.Wo = Linear(inner, size, bias=bias)
        self._activation = activation(config["hidden_activation"])

    def __call__(self, x: mx.array) -> mx.array:
        x, gate = mx.split(self.Wi(x), 2, axis=-1)
        return self.Wo(self._activation(x) * gate)


class ModernBertLayer(EncoderPart):
    """The first has no norm before its attention: the embeddings are normalised already."""

    def __init__(self, config: Mapping[str, Any], index: int) -> None:
        super().__init__()
        if index:
            self.attn_norm = _norm(config)
        self.attn = ModernBertAttention(config, is_windowed(config, index))
        self.mlp_norm = _norm(config)
        self.mlp = Mlp(config)

    def __call__(self, x: mx.array, packed: Packed) -> mx.array:
        x = x + self.attn(self.attn_norm(x) if "attn_norm" in self else x, packed)
        return x + self.mlp(self.mlp_norm(x))


class ModernBert(EncoderPart):
    """Groups of texts -> the last hidden states of each group, (texts, longest, hidden)."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.embeddings = ModernBertEmbeddings(config)
        self.layers = [ModernBertLayer(config, index) for index in range(config["num_hidden_layers"])]
        self.final_norm = _norm(config)

    def __call__(self, groups: Sequence[Group]) -> list[mx.array]:
        packed = Packed(groups)
        x = self.embeddings(packed)
        for layer in self.layers:
            x = layer(x, packed)
        return packed.split(self.final_norm(x))
