"""The context length of published configs, with the values as their authors wrote them."""

from typing import Any

import pytest

from tests.tiny_model import CONTEXT_LENGTH
from workers.model.context_length import LONGEST, as_length, stated_context

YARN = {"rope_type": "yarn", "factor": 4.0}

PUBLISHED: dict[str, tuple[dict[str, Any], int | None]] = {
    "Llama 3.1": (
        {
            "max_position_embeddings": 131072,
            "rope_scaling": {
                "factor": 8.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
        },
        131072,
    ),
    "Llama 3.2": (
        {
            "max_position_embeddings": 131072,
            "rope_scaling": {
                "factor": 32.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
        },
        131072,
    ),
    "Qwen2.5 with yarn": (
        {
            "max_position_embeddings": 32768,
            "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"},
        },
        131072,
    ),
    "Qwen3 with yarn": (
        {
            "max_position_embeddings": 40960,
            "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "rope_type": "yarn"},
        },
        131072,
    ),
    "Qwen3": ({"max_position_embeddings": 40960, "rope_scaling": None, "sliding_window": None}, 40960),
    "DeepSeek-V3": (
        {
            "max_position_embeddings": 163840,
            "rope_scaling": {"factor": 40, "original_max_position_embeddings": 4096, "type": "yarn"},
        },
        163840,
    ),
    "Kimi-K2": (
        {
            "max_position_embeddings": 131072,
            "rope_scaling": {"factor": 32.0, "original_max_position_embeddings": 4096, "type": "yarn"},
        },
        131072,
    ),
    "gpt-oss": (
        {
            "max_position_embeddings": 131072,
            "initial_context_length": 4096,
            "sliding_window": 128,
            "rope_scaling": {
                "factor": 32.0,
                "original_max_position_embeddings": 4096,
                "rope_type": "yarn",
                "truncate": False,
            },
        },
        131072,
    ),
    "Phi-3-mini-128k": (
        {
            "max_position_embeddings": 131072,
            "original_max_position_embeddings": 4096,
            "rope_scaling": {"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]},
        },
        131072,
    ),
    "Ministral 3": (
        {
            "text_config": {
                "max_position_embeddings": 262144,
                "rope_parameters": {
                    "factor": 16.0,
                    "original_max_position_embeddings": 16384,
                    "rope_type": "yarn",
                },
            }
        },
        262144,
    ),
    "InternLM2": (
        {"max_position_embeddings": 32768, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
        65536,
    ),
    "Vicuna 16k": (
        {
            "max_position_embeddings": 4096,
            "max_sequence_length": 16384,
            "rope_scaling": {"factor": 4.0, "type": "linear"},
        },
        16384,
    ),
    "Gemma 3 4B": (
        {
            "model_type": "gemma3",
            "text_config": {
                "model_type": "gemma3_text",
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 1024,
            },
        },
        None,
    ),
    "Gemma 3 4B as saved anew": (
        {
            "text_config": {
                "model_type": "gemma3_text",
                "max_position_embeddings": 131072,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            }
        },
        131072,
    ),
    "Gemma 3 1B": ({"model_type": "gemma3_text", "max_position_embeddings": 32768}, 32768),
    "Command R": ({"max_position_embeddings": 8192, "model_max_length": 131072}, 131072),
    "Mistral 7B v0.1": ({"max_position_embeddings": 32768, "sliding_window": 4096}, 32768),
    "GPT-2": ({"n_ctx": 1024, "n_positions": 1024}, 1024),
    "MPT": ({"max_seq_len": 2048}, 2048),
    "ChatGLM": ({"seq_length": 32768}, 32768),
    "Qwen 7B": ({"max_position_embeddings": 32768, "seq_length": 8192}, 8192),
    "Falcon 7B": ({}, None),
    "Mamba": ({"state_size": 16}, None),
    "Llama 4 Scout": ({"text_config": {"max_position_embeddings": 10485760}}, 10485760),
    "Qwen2.5-Omni": (
        {"thinker_config": {"text_config": {"max_position_embeddings": 32768}}},
        32768,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_context_length_of_a_published_config_is_what_its_makers_say(name: str) -> None:
    config, length = PUBLISHED[name]
    assert stated_context(config) == length


@pytest.mark.parametrize("kind", ["yarn", "linear", "dynamic", "longrope"])
@pytest.mark.parametrize("key", ["rope_type", "type"])
def test_rope_scaling_extends_the_stated_context_length(kind: str, key: str) -> None:
    config = {"max_position_embeddings": CONTEXT_LENGTH, "rope_scaling": {key: kind, "factor": 4.0}}
    assert stated_context(config) == 4 * CONTEXT_LENGTH


@pytest.mark.parametrize("factor", [None, 0, -4, "4", True, float("nan"), float("inf"), 1e300, [4.0], 10**30])
def test_an_unusable_rope_factor_leaves_the_context_length(factor: object) -> None:
    config = {"max_position_embeddings": 512, "rope_scaling": {"type": "yarn", "factor": factor}}
    assert stated_context(config) == 512


def test_learned_position_embeddings_are_not_extended_by_rope_scaling() -> None:
    beyond = {"max_position_embeddings": 10**6, "model_max_length": 10**6, "rope_scaling": YARN}
    assert stated_context({"n_positions": 512} | beyond) == 512


@pytest.mark.parametrize("value", [None, -1, 0, True, "many", 1.5, float("inf"), LONGEST, 10**30, [512]])
def test_an_unusable_context_length_in_a_config_is_ignored(value: object) -> None:
    assert as_length(value) is None
    assert stated_context({"max_position_embeddings": value, "n_positions": 77}) == 77
    assert stated_context({"max_position_embeddings": value}) is None
