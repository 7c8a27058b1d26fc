"""What kind of model a folder holds, chat, embedding or rerank, by its own files; pure.

Rule 1: a folder with sentence-transformers' ``modules.json`` is what its modules make of it, one whose architecture
is a classifier for sequences is a reranker, an encoder is an embedding model, and all else is a chat model.
Rule 2: Qwen3-Embedding and Qwen3-Reranker are published as plain ``Qwen3ForCausalLM``, the latter and most
conversions of the former without a word about it in their files: for these two the model's name counts.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared.kinds import Kind
from workers.encoders.loading.modules import last_name, modules_of
from workers.model.folder import json_object

ENCODERS = ("bert", "roberta", "xlm-roberta", "camembert", "modernbert")
DECODERS = ("qwen3",)

_EMBEDS = re.compile(r"qwen3[-_.]embedding", re.IGNORECASE)
_RERANKS = re.compile(r"qwen3[-_.]reranker", re.IGNORECASE)


def kind_of(folder: Path, name: str = "") -> Kind:
    """``name``: under which it is served. Raises LoadError."""
    config, modules = json_object(folder / "config.json"), modules_of(folder)
    if is_classifier(config) or any(last_name(module.type) == "LogitScore" for module in modules):
        return "rerank"
    if any(last_name(module.type) == "Pooling" for module in modules):
        return "embedding"
    if config.get("model_type") in ENCODERS:
        return "embedding"
    if config.get("model_type") in DECODERS:
        return _by_name(config, f"{folder.name} {name}")
    return "chat"


def _by_name(config: Mapping[str, Any], names: str) -> Kind:
    if "classifier_from_token" in config or _RERANKS.search(names):
        return "rerank"
    return "embedding" if _EMBEDS.search(names) else "chat"


def is_qwen3_embedding(folder: Path, name: str) -> bool:
    return _EMBEDS.search(f"{folder.name} {name}") is not None


def is_classifier(config: Mapping[str, Any]) -> bool:
    return architecture_of(config).endswith("ForSequenceClassification")


def architecture_of(config: Mapping[str, Any]) -> str:
    architectures = config.get("architectures")
    return str(architectures[0]) if isinstance(architectures, list) and architectures else ""
