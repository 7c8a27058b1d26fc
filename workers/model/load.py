"""Loads a model from its source: locates its folder, inspects it, reads its weights.

Rule 1: MLX reads only files that were inspected: safetensors, JSON and tokenizer files; code only where an operator
    allows it for the model.
Rule 2: ``inspect`` is pure Python and imports no mlx.
Rule 3: every failure becomes a LoadError that tells the operator what to do; nothing is replaced silently.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from shared.commands import typed
from shared.models import EMBEDDED_EMBEDDER, ModelSource
from shared.operators_files import template_in
from workers.chat_template.analysis import UNKNOWN, TemplateAnalysis
from workers.device import has_accelerator
from workers.encoders.loading.embedded import minilm_folder
from workers.hub.local import local_copy
from workers.model.config_check import refuse_implausible
from workers.model.context_length import DEFAULT_CONTEXT_LENGTH, as_length, stated_context
from workers.model.default_sampling import own_sampling
from workers.model.embedded import convert_once
from workers.model.folder import (
    json_object,
    optional_json_object,
    other_weights,
    refuse_code,
    require_regular_files,
    require_tokenizer,
)
from workers.model.kept_findings import KeptFindings
from workers.model.load_error import (
    AbsentError,
    IncompleteError,
    LoadError,
    Progress,
    explained,
    first_line,
)
from workers.model.readable_folder import readable
from workers.model.safetensors_headers import MAX_TENSORS_IN_ALL, Span, check_header, read_header, samples
from workers.model.tokenizer import add_turn_end, ends_of, read_with, tokenizer_options
from workers.model.trial_process import analysis_of, trial

if TYPE_CHECKING:
    import mlx.core as mx
    from mlx.nn.layers.base import Module
    from mlx_lm.tokenizer_utils import TokenizerWrapper

__all__ = [
    "DEFAULT_CONTEXT_LENGTH",
    "LoadError",
    "LoadedModel",
    "ModelFacts",
    "Progress",
    "check_header",
    "inspect",
    "load",
    "locate",
    "read_header",
    "whole_copy",
]

log = logging.getLogger(__name__)

_TOKEN_IDS = re.compile(r"token\w*_ids?$")  # names of such lists

WEIGHTS = "model*.safetensors"
"""The only weight files that mlx-lm reads."""

_MEANT = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.*",
)


@dataclass(frozen=True)
class ModelFacts:
    """Facts about a model that need no loading.

    ``digest``: of config, tokenizer, headers and a sample of every tensor, so that fine-tunes of one model differ.
    ``context_length``: as stated in the config. ``missing``: weight files that the index names and that do not exist.
    """

    digest: str
    context_length: int | None
    model_type: str
    missing: tuple[str, ...] = ()
    allow_code: bool = False  # of the folder


@dataclass
class LoadedModel:
    model: "Module"
    tokenizer: "TokenizerWrapper"
    config: dict[str, Any]
    facts: ModelFacts
    context_length: int
    own_sampling: Mapping[str, float] = field(default_factory=dict)  # from its generation_config.json
    analysis: TemplateAnalysis = UNKNOWN  # of its chat template


# Locate


def locate(source: ModelSource, cache_dir: Path, progress: Progress) -> Path:
    """The model's folder on this disk; converts an embedded one if necessary. Raises LoadError.

    Models from the hub are in Hugging Face's own cache (HF_HOME), shared with every other tool. None is fetched here.
    """
    match source.kind:
        case "embedded" if source.id == EMBEDDED_EMBEDDER:
            return minilm_folder(progress)
        case "embedded":
            return convert_once(cache_dir, progress)
        case "folder":
            return Path(source.location)
        case "hub":
            return _from_hub(source.location, source.revision, source.allow_code)
        case "hosted":
            raise LoadError("The model of another server has no folder.", permanent=True)
        case _:
            assert_never(source.kind)


def _from_hub(repository: str, revision: str | None, allow_code: bool) -> Path:
    folder = whole_copy(repository, revision, allow_code)
    if folder is None:
        raise AbsentError(
            f"{repository} is not whole on this disk: `{typed('mlx-server')} pull` with the model's name fetches it."
        )
    return folder


def whole_copy(repository: str, revision: str | None, allow_code: bool = False) -> Path | None:
    """The folder of a hub repository if all of it is on this disk, without asking the network. Raises LoadError."""
    folder = local_copy(repository, revision, allow_code)
    if folder is None:
        return None
    try:
        lacks = inspect(folder, allow_code).missing
    except IncompleteError as error:
        lacks = (error.reason,)
    if lacks:
        log.info("%s is not whole on this disk (%s)", repository, lacks[0])
    return None if lacks else folder


# Inspect


def inspect(folder: Path, allow_code: bool = False) -> ModelFacts:
    """``allow_code``: the operator lets code in the folder be run.

    Reads config and headers in pure Python. Raises LoadError for a folder that must not reach MLX."""
    if not folder.is_dir():
        raise IncompleteError(
            f"{folder.name} is not a folder: correct its path in MLX_SERVER_AVAILABLE_MODELS."
        )
    with explained("The model's folder"):
        return _facts(folder, allow_code)


def _facts(folder: Path, allow_code: bool) -> ModelFacts:
    require_regular_files(folder)
    config = json_object(folder / "config.json")
    if not allow_code:
        refuse_code(config)
    require_tokenizer(folder)
    optional_json_object(folder / "tokenizer_config.json")
    files = _weight_files(folder)
    digest = _digest_of_texts(folder, (*_MEANT, "*.py") if allow_code else _MEANT)
    names: list[str] = []
    for file in files:
        header = read_header(file)
        spans = check_header(file, header)
        digest.update(f"\0{file.name}\0{file.stat().st_size}\0".encode() + header)
        digest.update(samples(file, 8 + len(header), spans))
        names += _named(spans, len(names))
    refuse_implausible(config, names)
    return ModelFacts(
        digest=digest.hexdigest(),
        context_length=stated_context(config),
        model_type=_model_type(config),
        missing=_missing(folder, names),
        allow_code=allow_code,
    )


def _digest_of_texts(folder: Path, patterns: Collection[str]) -> "hashlib._Hash":
    """A digest of the text files that change what a model generates."""
    digest = hashlib.sha256()
    for file in sorted(file for pattern in patterns for file in folder.glob(pattern)):
        with file.open("rb") as stream:
            digest.update(f"{file.name}\0".encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest


def _named(spans: list[Span], before: int) -> list[str]:
    if before + len(spans) > MAX_TENSORS_IN_ALL:
        raise LoadError(f"The weight files have more than {MAX_TENSORS_IN_ALL} tensors.", permanent=True)
    return [name for _, _, name in spans]


def _model_type(config: Mapping[str, Any]) -> str:
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", model_type):
        raise LoadError(f"config.json has no usable model_type ({model_type!r:.80}).", permanent=True)
    return model_type


def _weight_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob(WEIGHTS))
    if not files:
        raise IncompleteError(
            f"The model folder has no weights: no file named {WEIGHTS}{other_weights(folder)}."
        )
    return files


def _missing(folder: Path, names: Collection[str]) -> tuple[str, ...]:
    """Missing weight files named by the index whose tensors are in no other file. ``names``: of all tensors.

    mlx-lm loads the files that exist and ignores the index: a merged model often keeps the old index.
    """
    index = folder / "model.safetensors.index.json"
    try:
        shards = optional_json_object(index).get("weight_map", {})
    except LoadError as error:
        shards = error.reason
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        log.warning("%s of %s has no usable weight_map and is not heeded", index.name, folder.name)
        return ()
    there = set(names)
    missing = {file for name, file in shards.items() if name not in there and not (folder / file).is_file()}
    if absent := {file for file in shards.values() if not (folder / file).is_file()}:
        log.warning("the index of %s names %s, which is not there; loading what is", folder.name, min(absent))
    return tuple(sorted(missing))


# Load


def load(
    folder: Path,
    facts: ModelFacts,
    progress: Progress,
    accelerator: bool | None = None,
    *,
    trusted: bool = False,
    template: Path | None = None,
    kept: KeptFindings | None = None,
) -> LoadedModel:
    """Brings an inspected folder into memory, ready for its first request. Raises LoadError.

    ``accelerator``: whether MLX computes on a GPU; detected if not given. Without a GPU the weights become float32,
    which takes more memory and is many times faster on a CPU than quantized weights.
    ``trusted``: tokenizer and template are the server's own and need no trial.
    ``template``: the file of an operator's chat template, in place of the folder's.
    ``kept``: of earlier loads of the same files, which need no other trial.
    """
    kept = kept or KeptFindings()
    progress("import", 0, 0)
    with explained(f"The model (of type {facts.model_type})"), readable(folder) as folder:
        text = template_in(template) if template else None
        if trusted and not template:
            loaded = _load(folder, facts, progress, accelerator, text)
            return _analysed(loaded, analysis_of(loaded.tokenizer))
        analysis = kept.recall(
            "template", TemplateAnalysis, partial(_tried, folder, facts, progress, template), keeps=_ended
        )
        return _analysed(_load(folder, facts, progress, accelerator, text), analysis)


def _analysed(loaded: LoadedModel, analysis: TemplateAnalysis) -> LoadedModel:
    loaded.analysis = analysis
    add_turn_end(loaded.tokenizer, analysis.turn_ends)
    return loaded


def _ended(analysis: TemplateAnalysis) -> bool:
    """Whether the template was analysed to the end; else the next load tries again."""
    return analysis == UNKNOWN or replace(analysis, reason=UNKNOWN.reason) != UNKNOWN


def _tried(folder: Path, facts: ModelFacts, progress: Progress, template: Path | None) -> TemplateAnalysis:
    with trial(folder, template=template, allow_code=facts.allow_code) as await_trial:
        import mlx_lm.utils  # noqa: F401 (takes a second, during which the trial runs)

        return await_trial(progress)


def import_libraries() -> None:
    """What loading a model imports, for a process that does so ahead of time.

    The modules of most families share theirs with Llama's.
    """

    import workers.model.serve_model  # noqa: F401


def _weights_of(folder: Path, facts: ModelFacts) -> "tuple[Module, dict[str, Any]]":
    """Loads the model; names the missing files, where mlx-lm's error names the missing parameters."""
    from mlx_lm.utils import load_model

    try:
        return load_model(folder, lazy=True, trust_remote_code=facts.allow_code)
    except ValueError as error:
        if not facts.missing:
            raise
        lacks = ", ".join(facts.missing[:3])
        raise IncompleteError(
            f"The model folder lacks {lacks}, which its index names ({first_line(error)}): fetch it again."
        ) from error


def _load(
    folder: Path, facts: ModelFacts, progress: Progress, accelerator: bool | None, template: str | None
) -> LoadedModel:
    from mlx_lm.utils import load_config

    if accelerator is None:
        accelerator = has_accelerator()
    progress("tokenizer", 0, 0)
    tokenizer = _read_tokenizer(folder, load_config(folder), template, facts.allow_code)
    model, config = _weights_of(folder, facts)
    if not accelerator:
        log.info("no GPU: the weights of %s become float32", folder)
        _to_float32(model)
    _read_weights(model, progress)
    progress("warm-up", 0, 0)
    _warm_up(model)
    if template is not None:
        facts = replace(facts, digest=hashlib.sha256(f"{facts.digest} {template}".encode()).hexdigest())
    return LoadedModel(
        model, tokenizer, config, facts, _context_length(config, facts, tokenizer), own_sampling(folder)
    )


def _read_tokenizer(
    folder: Path, config: Mapping[str, Any], template: str | None = None, allow_code: bool = False
) -> "TokenizerWrapper":
    from mlx_lm.utils import load_tokenizer

    def read(options: dict[str, Any]) -> "TokenizerWrapper":
        made: TokenizerWrapper = load_tokenizer(folder, options)
        return made

    tokenizer = read_with(read, folder, tokenizer_options(folder, template, allow_code))
    if ends := ends_of(config, lambda token: tokenizer.get_vocab().get(token)):
        own = tokenizer.eos_token_id
        tokenizer.eos_token_ids = ends if own is None else [*ends, own]
    return tokenizer


def _to_float32(model: "Module") -> None:
    """Converts all weights lazily, so no quantized weight stays in memory.

    Scales are converted first, so that dequantizing does not round to half precision. Formats without scales
    dequantize to bfloat16 and are converted afterwards.
    """
    import mlx.core as mx
    from mlx_lm.utils import dequantize_model

    model.set_dtype(mx.float32)
    dequantize_model(model)
    model.set_dtype(mx.float32)


def _read_weights(model: "Module", progress: Progress) -> None:
    """Evaluates all weights and reports bytes in memory, which exceed those on disk where weights are dequantized."""
    import mlx.core as mx

    arrays = _arrays(model)
    total = sum(array.nbytes for array in arrays)
    done = 0
    progress("weights", done, total)
    for array in arrays:
        mx.eval(array)
        done += array.nbytes
        progress("weights", done, total)
    mx.clear_cache()


def _arrays(model: "Module") -> "list[mx.array]":
    from mlx.utils import tree_flatten

    parameters: Callable[[], dict[str, Any]] = model.parameters
    return list(dict(tree_flatten(parameters())).values())


def _warm_up(model: "Module") -> None:
    """Runs one prompt and one token, which compiles kernels, reads every weight and shows that the model runs.

    It calls the model by itself and not through the engine's ``forward``: this is before any kernel of ours is
    installed, so what fails here is the model's own fault, and loading knows no engine.
    """
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model)
    logits = model(mx.zeros((1, 8), mx.int32), cache=cache)
    _check_token_ids(model, logits.shape[-1])
    mx.eval(logits)
    mx.eval(model(mx.zeros((1, 1), mx.int32), cache=cache))
    mx.clear_cache()


def _check_token_ids(model: "Module", vocabulary_size: int) -> None:
    """Raises ValueError where the model's own lists name tokens outside of its vocabulary.

    phi3small writes to its logits at such ids. MLX checks no index, so the write would end the process.
    """
    import mlx.core as mx

    for _, module in model.named_modules():
        for name, ids in module.items():
            if not isinstance(ids, mx.array) or not _TOKEN_IDS.search(name) or not ids.size:
                continue
            if mx.issubdtype(ids.dtype, mx.integer) and (highest := int(mx.max(ids))) >= vocabulary_size:
                raise ValueError(f"{name} goes up to {highest}, the vocabulary has {vocabulary_size} tokens")


def _context_length(config: Mapping[str, Any], facts: ModelFacts, tokenizer: "TokenizerWrapper") -> int:
    length = (
        facts.context_length or as_length(tokenizer.model_max_length) or _context_of_family(config) or None
    )
    if length is None:
        log.warning("the model states no context length; serving %d tokens", DEFAULT_CONTEXT_LENGTH)
    return length or DEFAULT_CONTEXT_LENGTH


def _context_of_family(config: Mapping[str, Any]) -> int | None:
    """The default of the family's class in transformers; Gemma 3's published configs leave the length out."""
    from transformers import CONFIG_MAPPING

    text = config.get("text_config")
    kinds = [part.get("model_type") for part in (text, config) if isinstance(part, Mapping)]
    for kind in kinds:
        if kind in CONFIG_MAPPING:
            family = CONFIG_MAPPING[kind]().get_text_config()
            if length := as_length(getattr(family, "max_position_embeddings", None)):
                return length
    return None
