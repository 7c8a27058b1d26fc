"""How a folder says what its vectors are, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.kinds import Kind
from tests.workers.encoders import folders
from tests.workers.encoders.test_families import load
from workers.encoders.loading.kinds import kind_of
from workers.encoders.loading.recipe import recipe_of
from workers.model.load_error import LoadError


def written(folder: Path, config: dict[str, Any], **files: Any) -> Path:
    """Names of files have ``__`` for the slash, and no ``.json``."""
    for name, content in {"config": config, **files}.items():
        path = folder / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return folder


MODULES = [folders.TRANSFORMER, folders.POOLING, folders.NORMALIZE]


@pytest.mark.parametrize(
    ("config", "files", "name", "kind"),
    [
        (folders.BERT, {"modules": MODULES}, "", "embedding"),
        (folders.BERT, {}, "", "embedding"),
        (folders.XLM_R, {}, "", "rerank"),
        (folders.QWEN3, {}, "", "chat"),
        (folders.QWEN3, {"modules": MODULES}, "", "embedding"),
        (folders.QWEN3, {}, "mlx-community/Qwen3-Embedding-0.6B-8bit", "embedding"),
        (folders.QWEN3, {}, "Qwen/Qwen3-Reranker-0.6B", "rerank"),
        (folders.QWEN3 | {"classifier_from_token": ["no", "yes"]}, {}, "", "rerank"),
        (
            folders.QWEN3,
            {"modules": [folders.TRANSFORMER, {"type": "x.logit_score.LogitScore", "path": "1_LogitScore"}]},
            "",
            "rerank",
        ),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, {}, "Qwen3-Embedding-like", "chat"),
    ],
)
def test_the_kind_of_a_model_is_said_by_its_files(
    tmp_path: Path, config: dict[str, Any], files: dict[str, Any], name: str, kind: Kind
) -> None:
    assert kind_of(written(tmp_path, config, **files), name) == kind


def test_pooling_length_case_and_prompts_are_the_makers(tmp_path: Path) -> None:
    files: dict[str, Any] = {
        "modules": MODULES,
        "1_Pooling__config": {"pooling_mode_cls_token": True, "include_prompt": False},
        "sentence_bert_config": {"max_seq_length": 48, "do_lower_case": True},
        "config_sentence_transformers": {"prompts": {"query": "q: "}, "default_prompt_name": "query"},
    }
    folder = written(tmp_path, folders.BERT | {"matryoshka_dimensions": [16, 8]}, **files)
    recipe = recipe_of(folder)
    assert (recipe.pooling, recipe.counts_prompt, recipe.normalises) == (("cls",), False, True)
    assert (recipe.max_length, recipe.lower_case, recipe.dimensions) == (48, True, (8, 16))
    assert (recipe.prompts, recipe.default_prompt) == ({"query": "q: "}, "query")


def test_the_newer_form_of_the_pooling_file_is_read_too(tmp_path: Path) -> None:
    files: dict[str, Any] = {"modules": MODULES[:2], "1_Pooling__config": {"pooling_mode": "lasttoken"}}
    recipe = recipe_of(written(tmp_path, folders.BERT, **files))
    assert (recipe.pooling, recipe.normalises) == (("lasttoken",), False)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "no modules.json"),
        ({"modules": {}}, "not a list"),
        ({"modules": [folders.TRANSFORMER, {"type": "x.Pooling", "path": "../elsewhere"}]}, "leads out"),
        ({"modules": [folders.TRANSFORMER, {"type": "x.Pooling", "path": "/etc"}]}, "leads out"),
        ({"modules": [folders.TRANSFORMER, {"type": "x.Pooling"}]}, "no type and path"),
        ({"modules": MODULES}, "config.json is missing"),
        ({"modules": MODULES, "1_Pooling__config": {"pooling_mode_attention": True}}, "none that is known"),
        ({"modules": [*MODULES, folders.NORMALIZE], "1_Pooling__config": folders.MEAN}, "in this order"),
        ({"modules": [folders.POOLING], "1_Pooling__config": folders.MEAN}, "in this order"),
    ],
)
def test_what_is_not_said_or_not_known_is_refused(tmp_path: Path, files: dict[str, Any], says: str) -> None:
    with pytest.raises(LoadError, match=says):
        recipe_of(written(tmp_path, folders.BERT, **files))


def embedder(folder: Path, change: dict[str, np.ndarray | None], **config: Any) -> Path:
    """``change``: tensors that are others, or are not there."""
    config = folders.BERT | {"vocab_size": folders.word_tokenizer().get_vocab_size(), **config}
    weights = {**folders.random_weights(folders.bert_shapes(config)), **change}
    there = {name: array.astype(np.float32) for name, array in weights.items() if array is not None}
    return folders.write_folder(folder, config, there, files=folders.sentence_files())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"embeddings.LayerNorm.bias": None}, r"lacks embeddings\.LayerNorm\.bias"),
        ({"encoder.layer.0.extra.weight": np.ones(2)}, r"has encoder\.layer\.0\.extra\.weight, which"),
        ({"encoder.layer.1.output.dense.bias": np.ones(5)}, r"output\.dense\.bias of shape \(5,\)"),
    ],
)
def test_weights_that_are_missing_surplus_or_of_another_shape_are_named(
    tmp_path: Path, change: dict[str, np.ndarray | None], says: str
) -> None:
    with pytest.raises(LoadError, match=says):
        load(embedder(tmp_path / "model", change))


def test_what_serves_other_ends_is_left_out(tmp_path: Path) -> None:
    size = folders.HIDDEN
    spare = {
        "embeddings.position_ids": np.arange(64)[None],
        "pooler.dense.weight": np.ones((size, size)),
        "cls.predictions.bias": np.ones(3),
    }
    assert load(embedder(tmp_path / "model", dict(spare))).size == size


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"hidden_act": "mystery"}, "activation 'mystery'"),
        ({"model_type": "deberta-v2"}, "of type 'deberta-v2' is known here"),
        ({"architectures": ["BertForSequenceClassification"], "num_labels": 3}, "3 classes"),
    ],
)
def test_an_architecture_that_is_not_known_is_refused_with_what_is(
    tmp_path: Path, config: dict[str, Any], says: str
) -> None:
    with pytest.raises(LoadError, match=says):
        load(embedder(tmp_path / "model", {}, **config))
