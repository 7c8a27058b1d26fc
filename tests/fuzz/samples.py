"""What is damaged: whole requests of every dialect, model folders, key files and configuration files."""

import json
import struct
from pathlib import Path
from typing import Any

_SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string"}, "n": {"$ref": "#/$defs/n"}},
    "required": ["a"],
}
_TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "does", "parameters": _SCHEMA, "strict": True},
}
_CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": "x"}'}}
_SAMPLING = {
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 4,
    "min_p": 0.1,
    "seed": 7,
    "stop": ["a", "b"],
    "n": 2,
    "frequency_penalty": 0.5,
    "presence_penalty": -0.5,
    "repetition_penalty": 1.1,
    "logit_bias": {"5": 1.5},
}
REQUESTS: list[dict[str, Any]] = [
    {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"role": "assistant", "content": None, "tool_calls": [_CALL], "reasoning_content": "hm"},
            {"role": "tool", "tool_call_id": "c1", "content": "1"},
        ],
        "tools": [_TOOL],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "stream": True,
        "stream_options": {"include_usage": True},
        "logprobs": True,
        "top_logprobs": 3,
        "chat_template_kwargs": {"enable_thinking": True},
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": _SCHEMA}},
        **_SAMPLING,
    },
    {
        "model": "m",
        "prompt": ["a", "b"],
        "max_tokens": 4,
        "echo": True,
        "logprobs": 2,
        "best_of": 2,
        **_SAMPLING,
    },
    {"model": "m", "prompt": [[1, 2], [3]], "suffix": "x", "guided_regex": "a+", "stream": False},
    {
        "model": "m",
        "max_tokens": 9,
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "t", "signature": "s"},
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": "x"}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "1"}]},
        ],
        "tools": [{"name": "f", "description": "d", "input_schema": _SCHEMA}],
        "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "stop_sequences": ["x"],
    },
    {
        "model": "m",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"type": "reasoning", "id": "r1", "summary": [], "content": []},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "1"},
        ],
        "instructions": "Be brief.",
        "tools": [{"type": "function", "name": "f", "parameters": _SCHEMA, "strict": False}],
        "text": {"format": {"type": "json_schema", "name": "s", "schema": _SCHEMA}},
        "reasoning": {"effort": "low"},
        "truncation": "auto",
        "store": False,
    },
    {"model": "m", "input": ["a", "b"], "encoding_format": "base64", "dimensions": 8},
    {"model": "m", "query": "q", "documents": ["a", {"text": "b"}], "top_n": 1, "return_documents": True},
    {"model": "m", "tokens": [1, 2, 3]},
    {"wait": True, "force": False},
]

_QUANTIZATION = {"group_size": 64, "bits": 4, "model.layers.0.q_proj": {"bits": 8}}
MODEL_FILES: dict[str, dict[str, Any]] = {
    "config.json": {
        "model_type": "llama",
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 16,
        "max_position_embeddings": 64,
        "eos_token_id": [1, 2],
        "intermediate_size": 16,
        "quantization": _QUANTIZATION,
        "rope_scaling": {"type": "yarn", "factor": 4.0},
        "tie_word_embeddings": True,
        "text_config": {"model_type": "llama", "num_hidden_layers": 1},
    },
    "tokenizer_config.json": {
        "tokenizer_class": "X",
        "chat_template": [{"name": "default", "template": "{{ 1 }}"}],
        "eos_token": {"content": "x"},
    },
    "model.safetensors.index.json": {
        "metadata": {"total_size": 64},
        "weight_map": {"model.layers.0.q_proj.weight": "model.safetensors"},
    },
    "generation_config.json": {"temperature": 0.5, "top_k": 3, "eos_token_id": 1},
}
_LAYER = "model.layers.0.q_proj"
HEADERS: list[dict[str, Any]] = [
    {"a": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}, "__metadata__": {"format": "mlx"}},
    {
        f"{_LAYER}.weight": {"dtype": "U32", "shape": [2, 4], "data_offsets": [0, 32]},
        f"{_LAYER}.scales": {"dtype": "F16", "shape": [8], "data_offsets": [32, 48]},
        f"{_LAYER}.biases": {"dtype": "BF16", "shape": [8], "data_offsets": [48, 64]},
    },
]

_KEY = {
    "name": "anna",
    "digest": "0" * 64,
    "admin": True,
    "models": ["a*", "b"],
    "priority": "low",
    "created": "2026-01-01T00:00:00Z",
    "expires": "2027-01-01T00:00:00+02:00",
    "concurrency": 2,
}
KEYS: list[Any] = [[_KEY], [_KEY, {**_KEY, "name": "ben", "tokens_per_minute": 100}], []]

CONFIG_FILES = [
    b"""# mine
[server]
port = 8000
host = "127.0.0.1"
default_model = 'small'
cors_origins = ["https://chat.example.com"]
ttl = 1.5

[models.coder]
source = "/models/coder"
aliases = ["claude-*", "gpt-4o"]
context_length = 65536
pinned = true

[models."org/small"]
source = "./small"
defaults = { temperature = 0.7, top_p = 0.9 }
""",
    b'[server]\navailable_models = ["a/b", "c=/d"]\napi_keys = ["ops:admin=0123456789abcdef"]\n',
    b'[models.small]\nsource = """a/b"""\nmemory_gb = 4\nrevision = "main"\ntruncate = false\npreload = true\n',
]


def write_model(folder: Path) -> None:
    """One that is found to be whole."""
    folder.mkdir()
    header = json.dumps(HEADERS[1]).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    (folder / "config.json").write_text(json.dumps(MODEL_FILES["config.json"]))
    (folder / "tokenizer.json").write_text("{}")
