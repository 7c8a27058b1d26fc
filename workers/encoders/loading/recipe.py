"""How a model's makers want its texts embedded: pooling, normalisation, prompts, length; read from the folder, pure.

The files are sentence-transformers': ``modules.json``, ``1_Pooling/config.json``, ``sentence_bert_config.json`` and
``config_sentence_transformers.json``. Nothing is guessed: without them there are vectors, but others than the ones the
model was trained for. (For Qwen3-Embedding, whose conversions lose them, they are as its model card says.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.encoders.loading.kinds import is_qwen3_embedding
from workers.encoders.loading.modules import NAME, Module, last_name, modules_of
from workers.model.context_length import as_length
from workers.model.folder import json_object, optional_json_object
from workers.model.load_error import IncompleteError, LoadError

_FLAGS = {  # in 1_Pooling/config.json, and the name of the mode
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_TRANSFORMER_CONFIGS = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_camembert_config.json",
)
_QWEN3_QUERY = (  # https://huggingface.co/Qwen/Qwen3-Embedding-0.6B
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
)


@dataclass(frozen=True)
class Recipe:
    """``denses``: folders of linear layers behind the pooling. ``max_length``: in tokens, None where nothing says it.

    ``prompts``: what is put before a text, by name; ``default_prompt`` is the name of the one that is put before every
    text. ``dimensions``: to which a vector may be cut, empty: to none; None: to any.
    """

    pooling: tuple[str, ...]
    counts_prompt: bool = True  # the prompt's tokens are pooled too
    denses: tuple[Path, ...] = ()
    normalises: bool = False
    max_length: int | None = None
    lower_case: bool = False
    prompts: Mapping[str, str] | None = None
    default_prompt: str | None = None
    dimensions: tuple[int, ...] | None = ()


def recipe_of(folder: Path, name: str = "") -> Recipe:
    """Raises LoadError."""
    modules = modules_of(folder)
    if not modules:
        if is_qwen3_embedding(folder, name):
            return Recipe(("lasttoken",), normalises=True, prompts={"query": _QWEN3_QUERY}, dimensions=None)
        raise IncompleteError(
            f"The model folder has no {NAME}, which says how tokens become a vector: fetch the whole model, as "
            "sentence-transformers publishes it."
        )
    if [last_name(module.type) for module in modules[:2]] != ["Transformer", "Pooling"]:
        raise _unknown(modules)
    first, second, *rest = modules
    modes, counts_prompt = _pooling(folder / second.path)
    denses, normalises = _behind(folder, rest, modules)
    transformer = _transformer_config(folder / first.path)
    general = optional_json_object(folder / "config_sentence_transformers.json")
    prompts = _prompts(general)
    default = general.get("default_prompt_name")
    return Recipe(
        pooling=modes,
        counts_prompt=counts_prompt,
        denses=denses,
        normalises=normalises,
        max_length=as_length(transformer.get("max_seq_length")),
        lower_case=transformer.get("do_lower_case") is True,
        prompts=prompts,
        default_prompt=default if default in prompts else None,
        dimensions=_dimensions(folder, name),
    )


def _pooling(folder: Path) -> tuple[tuple[str, ...], bool]:
    config = json_object(folder / "config.json")
    named = config.get("pooling_mode")
    if named is None:
        modes = [mode for flag, mode in _FLAGS.items() if config.get(flag) is True]
    else:
        modes = [str(mode) for mode in (named if isinstance(named, list) else [named])]
    if not modes or not set(modes) <= set(_FLAGS.values()):
        known = ", ".join(_FLAGS.values())
        raise LoadError(f"The model's pooling {modes} is none that is known here: {known}.", True)
    return tuple(modes), config.get("include_prompt") is not False


def _behind(folder: Path, rest: Sequence[Module], modules: Sequence[Module]) -> tuple[tuple[Path, ...], bool]:
    """Linear layers, then perhaps the normalisation."""
    names = [last_name(module.type) for module in rest]
    normalises = bool(names) and names[-1] == "Normalize"
    denses = rest[:-1] if normalises else rest
    if any(last_name(module.type) != "Dense" for module in denses):
        raise _unknown(modules)
    return tuple(folder / module.path for module in denses), normalises


def _transformer_config(folder: Path) -> dict[str, Any]:
    for name in _TRANSFORMER_CONFIGS:
        if (folder / name).exists():
            return json_object(folder / name)
    return {}


def _prompts(general: Mapping[str, Any]) -> dict[str, str]:
    prompts = general.get("prompts")
    pairs = prompts.items() if isinstance(prompts, dict) else ()
    return {name: prompt for name, prompt in pairs if isinstance(name, str) and isinstance(prompt, str)}


def _dimensions(folder: Path, name: str) -> tuple[int, ...] | None:
    """No file of sentence-transformers says it; some makers do in config.json, with the words vLLM reads too."""
    config = json_object(folder / "config.json")
    listed = config.get("matryoshka_dimensions")
    if isinstance(listed, list) and all(as_length(each) for each in listed):
        return tuple(sorted(listed))
    return None if config.get("is_matryoshka") is True or is_qwen3_embedding(folder, name) else ()


def _unknown(modules: Sequence[Module]) -> LoadError:
    names = ", ".join(last_name(module.type)[:40] for module in modules)
    return LoadError(
        f"{NAME} wants [{names}]; known here are Transformer, Pooling, any number of Dense, and Normalize, in "
        "this order.",
        permanent=True,
    )
