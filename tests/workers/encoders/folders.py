"""Tiny random encoders in folders as they are published. The same arguments give the same weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from tests.tiny_model import byte_tokenizer

Shapes = dict[str, tuple[int, ...]]

HIDDEN, INNER, HEADS, LAYERS = 32, 48, 4, 3

BERT: dict[str, Any] = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}
XLM_R: dict[str, Any] = BERT | {
    "architectures": ["XLMRobertaForSequenceClassification"],
    "model_type": "xlm-roberta",
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 66,
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "id2label": {"0": "LABEL_0"},
}
MODERN_BERT: dict[str, Any] = {
    "architectures": ["ModernBertModel"],
    "model_type": "modernbert",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "num_hidden_layers": 4,
    "norm_eps": 1e-5,
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_activation": "gelu",
    "local_attention": 16,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "local_rope_theta": 10000.0,
    "max_position_embeddings": 2048,
}
QWEN3: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 512,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
}

TRANSFORMER = {"type": "sentence_transformers.models.Transformer", "path": ""}
POOLING = {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}
NORMALIZE = {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"}
MEAN = {"pooling_mode_mean_tokens": True}


def bert_shapes(config: Mapping[str, Any]) -> Shapes:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    shapes: Shapes = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], hidden),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], hidden),
        **_norm("embeddings.LayerNorm", hidden),
    }
    for i in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{i}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= _linear(f"{at}.attention.{name}", hidden, hidden)
        shapes |= _norm(f"{at}.attention.output.LayerNorm", hidden) | _norm(f"{at}.output.LayerNorm", hidden)
        shapes |= _linear(f"{at}.intermediate.dense", hidden, inner) | _linear(
            f"{at}.output.dense", inner, hidden
        )
    return shapes


def xlm_r_classifier_shapes(config: Mapping[str, Any]) -> Shapes:
    hidden = config["hidden_size"]
    body = {f"roberta.{name}": shape for name, shape in bert_shapes(config).items()}
    return body | _linear("classifier.dense", hidden, hidden) | _linear("classifier.out_proj", hidden, 1)


def modernbert_shapes(config: Mapping[str, Any]) -> Shapes:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    shapes: Shapes = {
        "embeddings.tok_embeddings.weight": (config["vocab_size"], hidden),
        "embeddings.norm.weight": (hidden,),
        "final_norm.weight": (hidden,),
    }
    for i in range(config["num_hidden_layers"]):
        shapes |= {
            f"layers.{i}.attn.Wqkv.weight": (3 * hidden, hidden),
            f"layers.{i}.attn.Wo.weight": (hidden, hidden),
            f"layers.{i}.mlp_norm.weight": (hidden,),
            f"layers.{i}.mlp.Wi.weight": (2 * inner, hidden),
            f"layers.{i}.mlp.Wo.weight": (hidden, inner),
        }
        if i:
            shapes[f"layers.{i}.attn_norm.weight"] = (hidden,)
    return shapes


def qwen3_shapes(config: Mapping[str, Any]) -> Shapes:
    hidden, inner, size = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    wide, narrow = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    shapes: Shapes = {"embed_tokens.weight": (config["vocab_size"], hidden), "norm.weight": (hidden,)}
    for i in range(config["num_hidden_layers"]):
        at = f"layers.{i}"
        shapes |= {
            f"{at}.self_attn.q_proj.weight": (wide, hidden),
            f"{at}.self_attn.k_proj.weight": (narrow, hidden),
            f"{at}.self_attn.v_proj.weight": (narrow, hidden),
            f"{at}.self_attn.o_proj.weight": (hidden, wide),
            f"{at}.self_attn.q_norm.weight": (size,),
            f"{at}.self_attn.k_norm.weight": (size,),
            f"{at}.mlp.gate_proj.weight": (inner, hidden),
            f"{at}.mlp.up_proj.weight": (inner, hidden),
            f"{at}.mlp.down_proj.weight": (hidden, inner),
            f"{at}.input_layernorm.weight": (hidden,),
            f"{at}.post_attention_layernorm.weight": (hidden,),
        }
    return shapes


def random_weights(shapes: Shapes, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    weights = {}
    for name, shape in shapes.items():
        values = random.normal(0, 0.3, shape)
        weights[name] = (values + 1 if "norm" in name.lower() and name.endswith("weight") else values).astype(
            np.float32
        )
    return weights


def word_tokenizer() -> Tokenizer:
    """Words of one letter, opened and closed as BERT's are; two texts are told apart by their types."""
    vocab = {
        token: i for i, token in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *map(chr, range(97, 123))))
    }
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[PAD]", "[CLS]", "[SEP]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer


def chat_tokenizer(opens: bool) -> Tokenizer:
    """Of bytes; ``opens``: a text ends with the token that ends texts, as Qwen3-Embedding's do."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["yes", "no"])
    if opens:
        end = tokenizer.token_to_id("<|endoftext|>")
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", end)]
        )
    return tokenizer


def write_folder(
    folder: Path,
    config: Mapping[str, Any],
    weights: Mapping[str, np.ndarray],
    tokenizer: Tokenizer | None = None,
    files: Mapping[str, Any] | None = None,
) -> Path:
    """``files``: JSON by path. The tokenizer's size is the vocabulary's, where the config says none."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer or word_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in {"config.json": config, "tokenizer_config.json": {}, **(files or {})}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    save_file(dict(weights), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def sentence_files(pooling: Mapping[str, Any] | None = None, *, normalises: bool = True) -> dict[str, Any]:
    modules = [TRANSFORMER, POOLING, *([NORMALIZE] if normalises else [])]
    return {"modules.json": modules, "1_Pooling/config.json": pooling or MEAN}


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, size: int) -> Shapes:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}
