"""Qwen3 as an embedding model or a reranker: its weights, under any of the names that are published, in mlx-lm's model.

Facts are from https://huggingface.co/Qwen/Qwen3-Reranker-0.6B and Qwen3-Embedding-0.6B, whose files name tensors
without the leading ``model.``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.nn.layers.quantized import quantize
from tokenizers import Tokenizer

from shared.kinds import Kind
from workers.device import has_accelerator
from workers.encoders.loading.kinds import is_classifier
from workers.encoders.loading.modules import last_name, modules_of
from workers.encoders.loading.weights import filled, raw_weights
from workers.encoders.models.compute import Head
from workers.encoders.models.decoder import Score, YesOrNo
from workers.encoders.template import PairTemplate
from workers.model.folder import json_object
from workers.model.load_error import LoadError

BEFORE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
FORM = "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


def load_qwen3(folder: Path, config: Mapping[str, Any], kind: Kind) -> tuple[Any, Head | None]:
    """mlx-lm's model, and what scores. Raises LoadError."""
    judges = kind == "rerank" and not is_classifier(config)
    config = dict(config) if judges else {**config, "tie_word_embeddings": True}  # no head is needed
    weights = {_named(name): array for name, array in raw_weights(folder.glob("model*.safetensors")).items()}
    score = weights.pop("score.weight", None)
    model = _model(config, weights)
    filled(model, weights, unused=r"lm_head\.")
    if not has_accelerator():
        _widen(model)
    if kind != "rerank":
        return model, None
    if judges:
        return model, YesOrNo(model, *_yes_and_no(folder, config))
    head = Score(int(config["hidden_size"]))
    return model, filled(head, {} if score is None else {"score.weight": score.astype(mx.float32)})


def template_of(folder: Path, config: Mapping[str, Any], tokenizer: Tokenizer) -> PairTemplate:
    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_special_tokens=False).ids)

    literal, tokenizer.encode_special_tokens = tokenizer.encode_special_tokens, False
    template = PairTemplate(ids(BEFORE), ids(AFTER), FORM, INSTRUCTION)
    tokenizer.encode_special_tokens = literal
    return template


def _named(name: str) -> str:
    return name if name.startswith(("model.", "lm_head.", "score.")) else f"model.{name}"


def _model(config: Mapping[str, Any], weights: Mapping[str, mx.array]) -> Any:
    from mlx_lm.models.qwen3 import Model, ModelArgs

    model = Model(ModelArgs.from_dict(dict(config)))
    packed = config.get("quantization")
    if isinstance(packed, Mapping):
        quantize(
            model,
            group_size=int(packed["group_size"]),
            bits=int(packed["bits"]),
            class_predicate=lambda path, module: f"{path}.scales" in weights,
        )
    return model


def _widen(model: Any) -> None:
    """Packed weights too; scales first, so that unpacking does not round to half precision."""
    from mlx_lm.utils import dequantize_model

    model.set_dtype(mx.float32)
    dequantize_model(model)
    model.set_dtype(mx.float32)


def _yes_and_no(folder: Path, config: Mapping[str, Any]) -> tuple[int, int | None]:
    """The ids of yes and no, from the folder's LogitScore module or from their spelling."""
    for module in modules_of(folder):
        if last_name(module.type) == "LogitScore":
            ids = json_object(folder / module.path / "config.json")
            no = ids.get("false_token_id")
            return int(ids["true_token_id"]), None if no is None else int(no)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    words = config.get("classifier_from_token") or ["no", "yes"]
    found = [id for word in words if (id := tokenizer.token_to_id(str(word))) is not None]
    if len(found) != 2:
        raise LoadError(f"The tokenizer has no tokens {words!r:.80}, whose odds would be the score.", True)
    return found[1], found[0]
