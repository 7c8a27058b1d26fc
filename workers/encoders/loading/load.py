"""Loads an encoder from an inspected folder; on a CPU its weights become float32."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from shared.kinds import Kind
from workers.device import has_accelerator
from workers.encoders.loading.kinds import DECODERS, ENCODERS, is_classifier
from workers.encoders.loading.qwen3 import load_qwen3, template_of
from workers.encoders.loading.recipe import Recipe, recipe_of
from workers.encoders.loading.weights import filled, in_memory, read_weights
from workers.encoders.models.activations import activation
from workers.encoders.models.bert import ROBERTAS, Bert, positions_of
from workers.encoders.models.compute import Body, Compute, Dense, Embedder, Head, Scorer
from workers.encoders.models.decoder import Decoder
from workers.encoders.models.heads import BertHead, ModernBertHead, RobertaHead
from workers.encoders.models.modernbert import ModernBert
from workers.encoders.models.part import EncoderPart, arrays_of
from workers.encoders.models.pooling import Pooling
from workers.encoders.template import PairTemplate
from workers.encoders.text import TextEncoder, read_tokenizer
from workers.model.context_length import as_length
from workers.model.folder import json_object, optional_json_object
from workers.model.load_error import LoadError, Progress
from workers.model.safetensors_headers import check_header, read_header

WEIGHTS = "model*.safetensors"

_BERT = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "max_position_embeddings": 512,
}
_MODERN_BERT = {
    "norm_eps": 1e-5,
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_activation": "gelu",
    "local_attention": 128,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160_000.0,
    "local_rope_theta": 10_000.0,
    "max_position_embeddings": 8192,
    "classifier_pooling": "cls",
    "classifier_bias": False,
    "classifier_activation": "gelu",
}
"""What the classes of transformers take for granted, of what configs leave out."""


@dataclass(frozen=True)
class LoadedEncoder:
    """``size``: of its vectors, 1 of a reranker. ``parameters``: those that each token is multiplied with.

    ``template``: how a decoder is shown a pair of texts. ``modules``: for whoever asks how they round.
    """

    kind: Kind
    compute: Compute
    text: TextEncoder
    recipe: Recipe
    size: int
    bytes: int
    parameters: int
    modules: tuple[Module, ...]
    is_decoder: bool = False
    template: PairTemplate | None = None


def load_encoder(
    folder: Path,
    kind: Kind,
    name: str,
    progress: Progress,
    *,
    context_length: int | None = None,
    truncates: bool = False,
) -> LoadedEncoder:
    """``context_length``, ``truncates``: an operator's words. Raises LoadError."""
    config = json_object(folder / "config.json")
    _refuse_unknown(config, kind)
    is_decoder = config["model_type"] in DECODERS
    recipe = recipe_of(folder, name) if kind == "embedding" else Recipe(())
    progress("tokenizer", 0, 0)
    tokenizer = read_tokenizer(folder)
    parts = _qwen3(folder, config, kind) if is_decoder else _encoder(folder, config, kind)
    denses = [_dense(each) for each in recipe.denses]
    if kind == "rerank":
        assert parts.head is not None
        compute: Compute = Scorer(parts.body, parts.head)
        size = 1
    else:
        compute = Embedder(parts.body, Pooling(recipe.pooling), denses, normalises=recipe.normalises)
        size = _size(config, recipe, denses)
    modules = (*parts.modules, *denses)
    holder = EncoderPart()
    holder.all = list(modules)
    text = TextEncoder(
        tokenizer,
        _max_length(folder, parts.positions, recipe, context_length),
        int(config["vocab_size"]),
        lower_case=recipe.lower_case,
        truncates=truncates,
    )
    return LoadedEncoder(
        kind=kind,
        compute=compute,
        text=text,
        recipe=recipe,
        size=size,
        bytes=in_memory(holder, progress),
        parameters=_parameters(holder),
        modules=modules,
        is_decoder=is_decoder,
        template=template_of(folder, config, tokenizer) if is_decoder else None,
    )


def _refuse_unknown(config: Mapping[str, Any], kind: Kind) -> None:
    """Raises LoadError."""
    model_type = config.get("model_type")
    if model_type not in (*ENCODERS, *DECODERS):
        known = ", ".join((*ENCODERS, *DECODERS))
        raise LoadError(f"No {kind} model of type {model_type!r:.40} is known here, but {known}.", True)
    if is_classifier(config) and labels_of(config) != 1:
        raise LoadError(
            f"The model tells {labels_of(config)} classes apart; a reranker gives one score.", permanent=True
        )


@dataclass(frozen=True)
class _Parts:
    body: Body
    head: Head | None
    modules: tuple[Module, ...]
    positions: int


def _encoder(folder: Path, config: Mapping[str, Any], kind: Kind) -> _Parts:
    modern = config["model_type"] == "modernbert"
    config = {**(_MODERN_BERT if modern else _bert_defaults(config)), **config}
    if config.get("position_embedding_type", "absolute") not in ("absolute", "sans_pos"):
        raise LoadError("Relative positions (position_embedding_type) are not known here.", permanent=True)
    weights = read_weights(folder.glob(WEIGHTS), None if has_accelerator() else mx.float32)
    body: Bert | ModernBert = ModernBert(config) if modern else Bert(config)
    positions = int(config["max_position_embeddings"]) if modern else positions_of(config)
    if kind == "embedding":
        return _Parts(filled(body, weights, unused=r"pooler\.|head\.|classifier\."), None, (body,), positions)
    head = _head(config)
    own = tuple(f"{name}." for name in head.part_names)
    of_head = {name: array for name, array in weights.items() if name.startswith(own)}
    of_body = {name: array for name, array in weights.items() if name not in of_head}
    filled(head, of_head)
    return _Parts(filled(body, of_body, unused=r"pooler\."), head, (body, head), positions)


def _bert_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**_BERT, "pad_token_id": 1 if config["model_type"] in ROBERTAS else 0}


def _head(config: Mapping[str, Any]) -> BertHead | RobertaHead | ModernBertHead:
    if config["model_type"] == "modernbert":
        return ModernBertHead(config)
    return RobertaHead(config) if config["model_type"] in ROBERTAS else BertHead(config)


def _qwen3(folder: Path, config: Mapping[str, Any], kind: Kind) -> _Parts:
    model, head = load_qwen3(folder, config, kind)
    modules = (model, head) if isinstance(head, Module) else (model,)
    return _Parts(Decoder(model), head, modules, int(config["max_position_embeddings"]))


def _dense(folder: Path) -> Dense:
    """Raises LoadError."""
    config, file = json_object(folder / "config.json"), folder / "model.safetensors"
    check_header(file, read_header(file))
    name = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    sizes = int(config["in_features"]), int(config["out_features"])
    dense = Dense(*sizes, config.get("bias") is not False, activation(name))
    return filled(dense, read_weights([file], mx.float32))


def _size(config: Mapping[str, Any], recipe: Recipe, denses: list[Dense]) -> int:
    if denses:
        return int(denses[-1].linear.weight.shape[0])
    return int(config["hidden_size"]) * len(recipe.pooling)


def _max_length(folder: Path, positions: int, recipe: Recipe, wanted: int | None) -> int:
    """What the makers say, else what the tokenizer says; never more than there are positions."""
    stated = recipe.max_length or as_length(
        optional_json_object(folder / "tokenizer_config.json").get("model_max_length")
    )
    return min(positions, stated or positions, wanted or positions)


def labels_of(config: Mapping[str, Any]) -> int:
    """The number of labels as transformers counts them: two without ``id2label``."""
    labels = config.get("id2label")
    if isinstance(labels, dict):
        return len(labels)
    return int(config.get("num_labels", 2))


def _parameters(model: Module) -> int:
    """Tables of embeddings are looked up, not multiplied with."""
    return sum(
        array.size for name, array in arrays_of(model).items() if array.ndim == 2 and "embed" not in name
    )
