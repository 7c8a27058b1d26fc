"""A tiny random model folder for every architecture of the installed mlx-lm, by the names of its arguments' fields.

A published config says the same things under the same names in most architectures, so one table of small values serves
nearly all; what only one of them calls so, or wants shaped otherwise, is in ``OWN``.
"""

import ast
import importlib
import sys
from dataclasses import fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

HIDDEN, HEADS, GROUPS, HEAD, LAYERS, EXPERTS = 32, 4, 2, 8, 4, 4
CONTEXT = 512  # tokens
WINDOW = 24  # tokens: windows, chunks and budgets, which a prompt of the test is longer than

FULL, SLIDING = "full_attention", "sliding_attention"
TYPES = [SLIDING, FULL] * (LAYERS // 2)

# By field, for whoever has it.
SMALL: dict[str, Any] = {
    **dict.fromkeys(
        ("hidden_size", "n_embd", "d_model", "hidden_dim", "model_dim", "dim_model_base"), HIDDEN
    ),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "n_heads"), HEADS),
    **dict.fromkeys(
        ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "num_global_key_value_heads"), GROUPS
    ),
    **dict.fromkeys(("head_dim", "global_head_dim", "kv_channels", "hidden_size_per_head"), HEAD),
    **dict.fromkeys(("intermediate_size", "n_inner", "intermediate_size_mlp", "ffn_hidden_size"), 48),
    **dict.fromkeys(
        ("ff_intermediate_size", "dense_intermediate_size", "block_ff_dim", "mlp_hidden_size"), 48
    ),
    **dict.fromkeys(("moe_intermediate_size", "moe_hidden_size", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(("shared_expert_intermediate_size", "shared_intermediate_size", "share_expert_dim"), 16),
    **dict.fromkeys(("moe_shared_expert_intermediate_size",), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), EXPERTS),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k"), 2),
    **dict.fromkeys(("num_shared_experts", "n_shared_experts", "num_shared_expert", "top_k_experts"), 1),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group", "decoder_sparse_step"), 1),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers"), 1),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "o_lora_rank", "moe_latent_size"), 16),
    **dict.fromkeys(("qk_nope_head_dim", "v_head_dim", "qk_rope_head_dim"), HEAD),
    **dict.fromkeys(("index_head_dim",), 8),
    **dict.fromkeys(("index_n_heads",), 2),
    **dict.fromkeys(("index_topk", "sliding_window", "window_size", "attention_window_size"), WINDOW),
    **dict.fromkeys(
        ("sliding_window_size", "attention_chunk_size", "loop_window_size", "conv_window"), WINDOW
    ),
    **dict.fromkeys(("max_position_embeddings", "n_ctx", "n_positions", "model_max_length"), CONTEXT),
    **dict.fromkeys(("conv_kernel", "conv_L_cache", "linear_conv_kernel_dim", "mamba_d_conv"), 4),
    **dict.fromkeys(("short_conv_kernel_size", "conv1d_width"), 4),
    **dict.fromkeys(("state_size", "ssm_state_size", "mamba_d_state"), 8),
    **dict.fromkeys(("mamba_num_heads", "mamba_n_heads", "linear_num_value_heads"), 4),
    **dict.fromkeys(("mamba_head_dim", "mamba_d_head", "linear_key_head_dim", "linear_value_head_dim"), HEAD),
    **dict.fromkeys(("n_groups", "mamba_n_groups", "linear_num_key_heads"), 2),
    **dict.fromkeys(("rotary_dim",), HEAD),
    **dict.fromkeys(("vocab_size_per_layer_input", "num_vocab", "embedding_size"), None),  # the vocabulary's
    **dict.fromkeys(
        ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "layernorm_epsilon"), 1e-5
    ),
    **dict.fromkeys(("rope_theta", "rope_local_base_freq", "swa_rope_theta", "rotary_emb_base"), 10000.0),
    "group_norm_size": 2,
    "layer_group_size": 2,
    "partial_rotary_factor": 0.5,
    "norm_topk_prob": True,
    "tie_word_embeddings": False,
    "routed_scaling_factor": 1.0,
    "time_step_rank": 2,
    "time_step_limit": [0.0, 100.0],
    "layer_types": TYPES,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default", "type": "default"},
    "mlp_only_layers": [],
    "num_nextn_predict_layers": 0,
}
BIASES = (
    "attention_bias",
    "mlp_bias",
    "use_bias",
    "use_conv_bias",
    "conv_bias",
    "use_qkv_bias",
    "mamba_proj_bias",
)
SMALL |= dict.fromkeys(BIASES, False)
SMALL |= dict.fromkeys(("use_qk_norm", "qk_norm", "post_norm"), True)

ROPE = {"rope_theta": 10000.0, "rope_type": "default"}
BY_TYPE = {"rope_parameters": {FULL: ROPE, SLIDING: ROPE}}
YARN = {
    "type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": CONTEXT // 4,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "beta_fast": 32,
    "beta_slow": 1,
}
LLAMA_4 = ROPE | {"llama_4_scaling_beta": 0.5, "original_max_position_embeddings": WINDOW}
HYBRID = {"layer_types": ["linear_attention", "linear_attention", "linear_attention", FULL]}
MAMBA = {"layer_types": ["mamba", "attention"] * 2}
CONV = {
    "layer_types": ["conv", FULL] * 2,
    "block_dim": HIDDEN,
    "block_multiple_of": 8,
    "block_ffn_dim_multiplier": 1.0,
}
CONV |= {"block_auto_adjust_ff_dim": False, "use_expert_bias": True}
KDA = {"kda_layers": [1, 2, 3], "full_attn_layers": [4], "num_heads": HEADS, "head_dim": HEAD}
KDA |= {"short_conv_kernel_size": 4}
GRANITE = {
    "logits_scaling": 1.0,
    "attention_multiplier": 0.3,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
}
GEMMA_3N = {
    "num_kv_shared_layers": 2,
    "final_logit_softcapping": 30.0,
    "activation_sparsity_pattern": [0.5, 0.5, 0.0, 0.0],
    "hidden_size_per_layer_input": 8,
    "altup_num_inputs": 2,
    "altup_coef_clip": 120.0,
    "altup_correct_scale": True,
    "altup_active_idx": 0,
    "laurel_rank": 8,
}
LONGCAT = {"zero_expert_num": 1, "zero_expert_type": "identity", "attention_method": "MLA"}
LONGCAT |= {"mla_scale_q_lora": True, "mla_scale_kv_lora": True}
NAS = {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 0.5}}
# Two layers of four choose among blocks of four tokens, of which their budget has six.
INDEX = {"index_block_size": 4, "index_topk_blocks": WINDOW // 4, "sparse_attention_freq": [0, 1, 0, 1]}
GEMMA_4 = {"num_kv_shared_layers": 2, "rope_parameters": None, "hidden_size_per_layer_input": 8}
LONG_ROPE = {"type": "longrope", "original_max_position_embeddings": WINDOW}
LONG_ROPE |= dict.fromkeys(("long_factor", "short_factor"), [1.5] * (HEAD // 2))
BLOCKS = ["linear_attention", FULL, "moe", "mlp"]
MINI = {"scale_depth": 1.4, "scale_emb": 1.0}

# What only one architecture calls so, or has in another shape.
OWN: dict[str, dict[str, Any]] = {
    "afm7": {"num_kv_reuse_layers": 1},
    "baichuan_m1": {"sliding_window_layers": [0, 2], "conv_window": 2},
    "dbrx": {
        "attn_config": {"kv_n_heads": GROUPS, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": EXPERTS, "moe_top_k": 2},
    },
    "deepseek_v2": {"rope_scaling": YARN},
    "exaone4": {"sliding_window_pattern": "LG", "layer_types": TYPES, "rope_scaling": None},
    "exaone_moe": {"is_moe_layer": [False, True, True, True]},
    "falcon_h1": {"mamba_d_ssm": HIDDEN, "mamba_n_groups": 1},
    "gemma3": {"sliding_window_pattern": 2},
    "gemma3_text": {"sliding_window_pattern": 2},
    "gemma3n": GEMMA_3N,
    **dict.fromkeys(("gemma4", "gemma4_text", "gemma4_unified"), GEMMA_4),
    "glm4_moe": {"rope_scaling": None},
    "glm_moe_dsa": {"topk_method": "noaux_tc", "scoring_func": "sigmoid", "moe_layer_freq": 1},
    "gpt_neox": {"rotary_pct": 0.5},
    **dict.fromkeys(("granite", "granitemoe"), GRANITE),
    "granitemoehybrid": GRANITE | MAMBA | {"mamba_expand": 1},
    "hunyuan": {
        "use_mixed_mlp_moe": True,
        "use_cla": True,
        "cla_share_factor": 2,
        "rope_scaling": {"type": "dynamic", "factor": 1.0, "alpha": 1000.0},
    },
    "jamba": {
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
        "mamba_expand": 2,
    },
    "kimi_k3": {"linear_attn_config": KDA, "hidden_act": "situ"},
    "kimi_linear": {"linear_attn_config": KDA},
    **dict.fromkeys(("lfm2", "lfm2-vl", "lfm2_moe"), CONV),
    "lille-130m": {"block_size": CONTEXT, "n_embd": 64},
    "llama4": {
        "interleave_moe_layer_step": 2,
        "rope_scaling": None,
        "floor_scale": WINDOW,
        "num_experts_per_tok": 1,
    },
    "llama4_text": {"no_rope_layers": [1, 1, 1, 0]},
    **dict.fromkeys(("longcat_flash", "longcat_flash_ngram"), LONGCAT),
    **dict.fromkeys(("mellum", "spark2_5", "laguna"), BY_TYPE),
    "mimo_v2_flash": {
        "hybrid_layer_pattern": [1, 0, 1, 0],
        "moe_layer_freq": [0, 1, 1, 1],
        "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": False,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "swa_num_attention_heads": HEADS,
        "swa_num_key_value_heads": GROUPS,
        "swa_head_dim": HEAD,
        "swa_v_head_dim": HEAD,
    },
    "mamba2": {"expand": 1},
    "minicpm": MINI,
    "minicpm3": MINI | {"rope_scaling": LONG_ROPE},
    "minimax_m3_vl": INDEX,
    "ministral3": {"rope_parameters": LLAMA_4 | {"type": "default"}},
    "mistral4": {"rope_parameters": LLAMA_4 | YARN},
    "muse_spark": {
        "audio_config": {"out_hidden_size": HIDDEN},
        "post_norm_eps": 1e-5,
        "layer_rope_theta": [10000.0, 0, 10000.0, 0],
        "final_logit_softcapping": 30.0,
        "output_multiplier": 1.0,
        "num_shared_experts": 0,
    },
    "nemotron": {"hidden_act": "relu2"},
    "nemotron-nas": {"block_configs": [NAS] * LAYERS},
    "nemotron_h": {"layers_block_type": BLOCKS, "layer_types": BLOCKS},
    "olmo_hybrid": HYBRID | {"linear_allow_neg_eigval": True},
    **dict.fromkeys(("qwen3_5", "qwen3_5_moe", "qwen3_next"), HYBRID),
    "openelm": {
        "num_transformer_layers": LAYERS,
        "ffn_dim_divisor": 8,
        "num_query_heads": [HEADS] * LAYERS,
        "num_kv_heads": [GROUPS] * LAYERS,
        "ffn_multipliers": [1.0] * LAYERS,
    },
    "phi3small": {
        "vocab_size": 100_352,  # it hides some of the last tokens, wherever its vocabulary ends
        "dense_attention_every_n_layers": 2,
        "gegelu_limit": 20.0,
        "blocksparse_block_size": 32,
        "blocksparse_num_local_blocks": 1,
        "blocksparse_vert_stride": 2,
    },
    "plamo": {"n_shared_head": 2},
    "recurrent_gemma": {"logits_soft_cap": 30.0, "block_types": ["recurrent", "recurrent", "attention"]},
    "rwkv7": dict.fromkeys(
        ("a_low_rank_dim", "v_low_rank_dim", "gate_low_rank_dim", "decay_low_rank_dim"), 8
    ),
    "step3p5": {"num_attention_groups": GROUPS},
}


def architectures() -> list[str]:
    """The model types that mlx-lm has a module, or another name, for. Imports nothing of it, as that takes seconds."""
    spec = find_spec("mlx_lm")
    assert spec and spec.origin
    package = Path(spec.origin).parent
    modules = [
        file.stem for file in (package / "models").glob("*.py") if "class ModelArgs" in file.read_text()
    ]
    [other] = [
        node.value
        for node in ast.parse((package / "utils.py").read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODEL_REMAPPING"
    ]
    return sorted({*modules, *ast.literal_eval(other)})


def config_of(kind: str, vocab: int) -> dict[str, Any]:
    """As published ones are: only what the architecture reads, around or inside of ``text_config``."""
    known = _fields(_module_of(kind))
    small = {name: vocab if value is None else value for name, value in SMALL.items()} | {"vocab_size": vocab}
    config = {name: value for name, value in small.items() if name in known} | OWN.get(kind, {})
    config |= {"model_type": kind}
    return config | {"text_config": config} if "text_config" in known else config


def _module_of(kind: str) -> ModuleType:
    from mlx_lm.utils import MODEL_REMAPPING

    return importlib.import_module(f"mlx_lm.models.{MODEL_REMAPPING.get(kind, kind)}")


def _fields(module: ModuleType) -> set[str]:
    """Of the arguments of this module, and of those it takes its classes or its inner model from."""
    found = list(vars(module).values())
    homes = {each.__module__ for each in found if isinstance(each, type)}
    homes |= {each.__name__ for each in found if isinstance(each, ModuleType)} | {module.__name__}
    modules = [sys.modules[name] for name in homes if name.startswith("mlx_lm.models.")]
    classes = [each for home in modules for each in vars(home).values() if isinstance(each, type)]
    return {field.name for each in classes if is_dataclass(each) for field in fields(each)}
