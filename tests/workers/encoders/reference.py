"""Encoders in numpy and float64, one text at a time, written from the papers and from nothing of ours.

BERT: Devlin et al. 2018 (post-norm layers, GELU, learned positions). ModernBERT: Warner et al. 2024 (pre-norm, GeGLU,
rotary positions, windows between layers that see everything). Names of tensors are those of the published files.
"""

from collections.abc import Mapping
from math import erf
from typing import Any

import numpy as np

Array = np.ndarray
Weights = Mapping[str, Array]

_erf = np.vectorize(erf)


def gelu(x: Array) -> Array:
    return np.asarray(x * 0.5 * (1 + _erf(x / np.sqrt(2))))


def norm(x: Array, weights: Weights, name: str, eps: float) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    return np.asarray(scaled * weights[f"{name}.weight"] + weights.get(f"{name}.bias", np.zeros(1)))


def linear(x: Array, weights: Weights, name: str) -> Array:
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", np.zeros(1))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def attend(q: Array, k: Array, v: Array, heads: int, seen: Array | None = None) -> Array:
    """(tokens, width) each; ``seen``: (tokens, tokens), what a token looks at."""
    out = []
    for some in np.split(np.arange(q.shape[1]), heads):
        scores = q[:, some] @ k[:, some].T / np.sqrt(len(some))
        if seen is not None:
            scores = np.where(seen, scores, -np.inf)
        out.append(softmax(scores) @ v[:, some])
    return np.concatenate(out, axis=1)


def bert(
    weights: Weights, config: Mapping[str, Any], ids: Array, types: Array, first_position: int = 0
) -> Array:
    """(tokens,) -> (tokens, hidden)"""
    eps = config["layer_norm_eps"]
    x = weights["embeddings.word_embeddings.weight"][ids]
    x = x + weights["embeddings.position_embeddings.weight"][np.arange(len(ids)) + first_position]
    x = norm(
        x + weights["embeddings.token_type_embeddings.weight"][types], weights, "embeddings.LayerNorm", eps
    )
    for i in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{i}"
        q, k, v = (linear(x, weights, f"{at}.attention.self.{name}") for name in ("query", "key", "value"))
        attended = linear(
            attend(q, k, v, config["num_attention_heads"]), weights, f"{at}.attention.output.dense"
        )
        x = norm(attended + x, weights, f"{at}.attention.output.LayerNorm", eps)
        inner = gelu(linear(x, weights, f"{at}.intermediate.dense"))
        x = norm(linear(inner, weights, f"{at}.output.dense") + x, weights, f"{at}.output.LayerNorm", eps)
    return x


def rotated(x: Array, heads: int, base: float) -> Array:
    """Each head's first half against its second."""
    tokens, width = x.shape
    size = width // heads
    angles = np.arange(tokens)[:, None] * base ** (-np.arange(0, size, 2) / size)
    a, b = np.split(x.reshape(tokens, heads, size), 2, axis=-1)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(tokens, width)


def modernbert(weights: Weights, config: Mapping[str, Any], ids: Array) -> Array:
    """(tokens,) -> (tokens, hidden)"""
    eps, heads = config["norm_eps"], config["num_attention_heads"]
    x = norm(weights["embeddings.tok_embeddings.weight"][ids], weights, "embeddings.norm", eps)
    apart = np.abs(np.arange(len(ids))[:, None] - np.arange(len(ids))[None])
    for i in range(config["num_hidden_layers"]):
        everything = i % config["global_attn_every_n_layers"] == 0
        seen = None if everything else apart <= config["local_attention"] // 2
        base = config["global_rope_theta" if everything else "local_rope_theta"]
        y = norm(x, weights, f"layers.{i}.attn_norm", eps) if i else x
        q, k, v = np.split(linear(y, weights, f"layers.{i}.attn.Wqkv"), 3, axis=1)
        attended = attend(rotated(q, heads, base), rotated(k, heads, base), v, heads, seen)
        x = x + linear(attended, weights, f"layers.{i}.attn.Wo")
        value, gate = np.split(
            linear(norm(x, weights, f"layers.{i}.mlp_norm", eps), weights, f"layers.{i}.mlp.Wi"), 2, axis=1
        )
        x = x + linear(gelu(value) * gate, weights, f"layers.{i}.mlp.Wo")
    return norm(x, weights, "final_norm", eps)


def unit(x: Array) -> Array:
    return np.asarray(x / np.linalg.norm(x))


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))
