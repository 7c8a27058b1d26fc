"""Tiny random models in ordinary MLX model folders, for tests that need a real model and no download.

Rule: the same arguments give the same weights; nothing is trained, so the text is noise, but exact noise.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tests.blas import open_chosen_blas

if "mlx.core" not in sys.modules:  # a test that imported it before us runs on the slow BLAS, and as well
    open_chosen_blas()

import mlx.core as mx
from mlx.utils import tree_flatten

Kind = Literal[
    "llama", "sliding", "recurrent", "hybrid", "gpt2", "bigcode", "internlm3", "dynamic", "experts"
]

CONTEXT_LENGTH = 512
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
EOS = "<|im_end|>"
MERGES = ("Ġ t", "h e", "Ġt he", "i n", "a n", "Ġ a", "o u", "e r", "r e", "o n")
VOCABULARY = len(SPECIAL) + 256 + len(MERGES)  # tokens
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tiny_llama(folder: Path, *, seed: int = 0, vocab: int | None = None) -> Path:
    """Two layers, four heads, two KV heads. ``vocab`` pads the model's vocabulary beyond the tokenizer's."""
    return make_tiny_model(folder, "llama", seed=seed, vocab=vocab)


def make_tiny_model(folder: Path, kind: Kind = "llama", *, seed: int = 0, vocab: int | None = None) -> Path:
    """``sliding``: one layer of two keeps a window of 32 tokens. ``recurrent``: mamba, a state and no KV cache.
    ``hybrid``: a layer with a state beside one with full attention.

    ``gpt2`` learns its positions, ``bigcode`` too, but takes a cache's offset for one number, as do ``internlm3`` and
    ``dynamic`` rope. ``experts``: two of four for each token.
    """
    config = _CONFIGS[kind] | {"vocab_size": vocab or byte_tokenizer().get_vocab_size()}
    return make_folder(folder, config, seed=seed)


def make_folder(folder: Path, config: Mapping[str, Any], *, seed: int = 0) -> Path:
    """Of the model that ``config`` describes."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_tokenizer()
    eos = tokenizer.token_to_id(EOS)
    config = {**config, "eos_token_id": eos}
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", {"eos_token_id": eos})
    _write_json(folder / "tokenizer_config.json", _TOKENIZER_CONFIG)
    mx.save_safetensors(str(folder / "model.safetensors"), _weights(config, seed), metadata={"format": "mlx"})
    return folder


def byte_tokenizer() -> Tokenizer:
    """Every byte is a token, so every text survives the round trip."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(left, right) for left, right in map(str.split, MERGES)]
    tokens = [*SPECIAL, *alphabet, *(left + right for left, right in pairs)]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": CONTEXT_LENGTH,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
_MAMBA: dict[str, Any] = {
    "architectures": ["MambaForCausalLM"],
    "model_type": "mamba",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "state_size": 8,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "time_step_rank": 2,
    "max_position_embeddings": CONTEXT_LENGTH,
}
_HYBRID: dict[str, Any] = {
    "architectures": ["Lfm2ForCausalLM"],
    "model_type": "lfm2",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "layer_types": ["conv", "full_attention"],
    "conv_L_cache": 4,
    "conv_bias": False,
    "block_dim": 32,
    "block_ff_dim": 64,
    "block_multiple_of": 8,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": False,
    "norm_eps": 1e-5,
    "max_position_embeddings": CONTEXT_LENGTH,
    "rope_theta": 10000.0,
}
_GPT2: dict[str, Any] = {
    "model_type": "gpt2",
    "n_ctx": CONTEXT_LENGTH,
    "n_positions": CONTEXT_LENGTH,
    "n_embd": 32,
    "n_inner": 64,
    "n_head": 4,
    "n_layer": 2,
    "layer_norm_epsilon": 1e-5,
}
_DYNAMIC: dict[str, Any] = {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}
_EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
_CONFIGS: dict[Kind, dict[str, Any]] = {
    "llama": _LLAMA,
    "sliding": _LLAMA | {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 32},
    "recurrent": _MAMBA,
    "hybrid": _HYBRID,
    "gpt2": _GPT2,
    "bigcode": _GPT2 | {"model_type": "gpt_bigcode"},
    "internlm3": _LLAMA | _DYNAMIC | {"model_type": "internlm3"},
    "dynamic": _LLAMA | _DYNAMIC,
    "experts": _LLAMA | {"model_type": "mixtral"} | _EXPERTS,
}
_TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "eos_token": EOS,
    "pad_token": "<|endoftext|>",
    "clean_up_tokenization_spaces": False,
    "model_max_length": CONTEXT_LENGTH,
    "chat_template": CHAT_TEMPLATE,
}


def _weights(config: Mapping[str, Any], seed: int) -> dict[str, mx.array]:
    """Drawn wide enough (0.3) for answers to depend on the prompt; mlx's own start gives near-uniform logits."""
    from mlx_lm.utils import _get_classes

    model_class, arguments = _get_classes(dict(config))
    mx.random.seed(seed)  # what is not drawn below is drawn by the model
    model = model_class(arguments.from_dict(dict(config)))
    keys = iter(mx.random.split(mx.random.key(seed), 1000))
    parameters: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    return {
        name: mx.random.normal(array.shape, key=next(keys)) * 0.3 if array.ndim == 2 else array
        for name, array in parameters.items()
    }


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2), encoding="utf-8")
