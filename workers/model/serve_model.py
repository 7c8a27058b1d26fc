"""Loads a model from its source and builds the engine that serves it."""

import hashlib
import json
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
from mlx.utils import tree_reduce

from shared.kept_prompts import prompts_in
from shared.model_table import ModelTable
from shared.models import ModelSource, draft_source
from shared.protocol import Capabilities
from shared.settings import Settings
from workers.device import has_accelerator
from workers.encoders.loading.kinds import kind_of
from workers.encoders.serve import serve_encoder
from workers.engine.batch_probe import readable_ids
from workers.engine.cpu.install import Invariance, blas_identity, install
from workers.engine.disk.opening import open_tier
from workers.engine.disk.tier import DiskTier
from workers.engine.engine import BatchEngine
from workers.engine.engine_limits import EngineLimits
from workers.engine.findings import EngineFindings, find
from workers.engine.forward import forward
from workers.engine.kv.decode_caches import caches_of
from workers.engine.kv.mlx_caches import is_full_attention, new_cache
from workers.engine.speculation.draft_model import DraftModel
from workers.engine.speculation.speculator import may_speculate
from workers.grammars.grammar import grammars_for
from workers.job import Job, Served
from workers.model.draft import load_draft, wrong_draft
from workers.model.kept_findings import KeptFindings, kept_findings
from workers.model.load import LoadedModel, ModelFacts, inspect, load, locate
from workers.model.load_error import Progress, explained
from workers.output.derived_format import with_analysis
from workers.output.tool_formats import ModelOutputFormat, output_format_of
from workers.output.vocabulary import token_bytes
from workers.request.infill import infill_of
from workers.request.prompt import Preparation
from workers.sequence import TokenRules

log = logging.getLogger(__name__)

GB = 10**9
CPU_CHUNK, GPU_CHUNK = (
    128,
    2048,
)  # tokens per prefill pass; on a CPU a longer one gains nothing and delays decoding
SMALLEST_KV = GB // 4  # also when the weights alone exceed the budget


def load_engine(source: ModelSource, settings: Settings, progress: Progress) -> Served[Any]:
    """Raises LoadError."""
    folder = locate(source, settings.cache_dir, progress)
    log.info("%s is in %s", source.id, folder)
    facts, trusted = inspect(folder, source.allow_code), source.kind == "embedded"
    if (kind := kind_of(folder, source.id)) != "chat":
        with explained(f"The {kind} model (of type {facts.model_type})"):
            return serve_encoder(folder, facts, kind, source.id, settings, progress, trusted=trusted)
    table = settings.table(source.id)
    kept = _kept(folder, facts, settings, table.chat_template)
    loaded = load(folder, facts, progress, trusted=trusted, template=table.chat_template, kept=kept)
    with explained(f"The model (of type {loaded.facts.model_type})"):
        return serve_model(loaded, settings, table, progress, kept)


def _kept(folder: Path, facts: ModelFacts, settings: Settings, template: Path | None = None) -> KeptFindings:
    """Of a model or a draft: a folder that serves as both is tried once."""
    conditions = (has_accelerator(), blas_identity(), facts.allow_code)
    return kept_findings(settings.cache_dir, folder, facts.digest, *conditions, template=template)


def serve_model(
    loaded: LoadedModel,
    settings: Settings,
    table: ModelTable | None = None,
    progress: Progress = lambda phase, done, total: None,
    kept: KeptFindings | None = None,
) -> Served[Job]:
    """Builds the engine and what prepares its requests."""
    table, kept = table or ModelTable(), kept or KeptFindings()
    tokenizer, vocabulary_size = loaded.tokenizer, vocabulary_size_of(loaded)
    output_format = with_analysis(output_format_of(tokenizer), tokenizer, loaded.analysis)
    grammars = grammars_for(tokenizer, vocabulary_size)
    infill = infill_of(tokenizer)
    if not has_accelerator():
        install(loaded.model)
    own = {**(loaded.own_sampling if settings.model_sampling else {}), **table.defaults.said()}
    rules = TokenRules(token_bytes(tokenizer), frozenset(tokenizer.eos_token_ids), output_format.special)
    findings = kept.recall("engine", EngineFindings, lambda: find(loaded.model, vocabulary_size))
    disk = _disk(loaded, settings, findings.invariance)
    draft = _draft(loaded, settings, table, progress, findings)
    limits = _limits(loaded, settings, draft)
    drafting = _drafting(draft, vocabulary_size, limits.chunk) if draft else None
    engine = BatchEngine(
        loaded.model, rules, vocabulary_size, limits, findings=findings, disk=disk, draft=drafting
    )
    _tell(engine, findings, settings)
    bounds = (loaded.context_length, settings.context_length, table.context_length)
    context = _fitting(engine, min(bound for bound in bounds if bound is not None), settings)
    return Served(
        engine=engine,
        prepare=Preparation(
            tokenizer,
            context,
            readable_ids(loaded.model, vocabulary_size),
            grammars,
            output_format,
            infill,
            special_tokens_in_text=settings.special_tokens_in_text,
            finds_checkpoints=not is_full_attention(new_cache(loaded.model)),
            own_sampling=own,
            analysis=loaded.analysis,
        ),
        context_bytes=engine.budget.cost.bytes(context),
        at_end=disk.close if disk else lambda: None,
        digest=_digest(loaded.facts.digest, table.defaults.said()),
        context_length=context,
        capabilities=Capabilities(
            tools=tools_of(tokenizer, output_format),
            content=loaded.analysis.content,
            reasoning=output_format.thinking is not None,
            json_schema=grammars is not None,
            infill=infill is not None,
            speculation=engine.speculates,
            bytes=weight_bytes(loaded) + (weight_bytes(draft) if draft else 0),
            sampling=own,
        ),
    )


def _tell(engine: BatchEngine, findings: EngineFindings, settings: Settings) -> None:
    if findings.alone and settings.max_batch_rows > 1:
        log.warning("this model's requests are answered one after another: %s", findings.alone)
    log.info(
        "at most %d sequences in a batch; batch invariance: %s", engine.most_sequences, findings.invariance
    )


def _draft(
    loaded: LoadedModel,
    settings: Settings,
    table: ModelTable,
    progress: Progress,
    findings: EngineFindings,
) -> LoadedModel | None:
    """The draft model that the table names. Raises LoadError."""
    if (source := draft_source("", table)) is None:
        return None
    caches = caches_of(loaded.model, settings.max_batch_rows, findings.alone)
    if not may_speculate(settings.speculation, findings.invariance, caches.takes_back):
        log.warning("its draft is not loaded, because nothing is guessed here; see MLX_SERVER_SPECULATION")
        return None
    kept = partial(_kept, settings=settings)
    draft = load_draft(source, loaded, settings, progress, kept)
    if not is_full_attention(new_cache(draft.model)):
        why = "its layers keep a window or a state, from which a wrong guess cannot be taken back."
        raise wrong_draft(source, why)
    log.info("%s guesses for it", source.location or source.id)
    return draft


def _drafting(draft: LoadedModel, vocabulary_size: int, chunk: int) -> DraftModel:
    if not has_accelerator():
        install(draft.model)
    width = vocabulary_size_of(draft)
    return DraftModel(
        draft.model,
        vocabulary=vocabulary_size,
        readable=readable_ids(draft.model, width),
        context=draft.context_length,
        chunk=chunk,
    )


def _disk(loaded: LoadedModel, settings: Settings, invariance: Invariance) -> DiskTier | None:
    """``invariance``: the bits of the keys depend on how the model computes."""
    limit = None if settings.prompt_disk_gb is None else int(settings.prompt_disk_gb * GB)
    root = prompts_in(settings.prompt_disk_dir or settings.cache_dir)
    origin = f"{loaded.facts.digest} {invariance} {settings.blas}"
    return open_tier(root, limit, loaded.model, origin)


def _fitting(engine: BatchEngine, context: int, settings: Settings) -> int:
    """Tokens: the context, or what of it the memory holds."""
    if (fitting := engine.budget.longest_sequence) < context:
        log.warning(
            "the weights leave memory for %d tokens of context, not %d: MLX_SERVER_MAX_CACHE_SIZE_GB is %g",
            *(fitting, context, settings.max_cache_size_gb),
        )
        context = fitting
    log.info("%d tokens of context", context)
    return context


def tools_of(tokenizer: Any, output_format: ModelOutputFormat) -> Literal["native", "described", "none"]:
    if not tokenizer.has_chat_template:
        return "none"
    return "described" if output_format.tools is None else "native"


def _digest(weights: str, defaults: Mapping[str, float]) -> str:
    """A choice goes on only where it is drawn as before, so an operator's sampling defaults count like weights."""
    if not defaults:
        return weights
    return hashlib.sha256(f"{weights} {json.dumps(defaults, sort_keys=True)}".encode()).hexdigest()


def _limits(loaded: LoadedModel, settings: Settings, draft: LoadedModel | None = None) -> EngineLimits:
    """The KV cache gets what the weights leave of the memory budget."""
    budget = int(settings.max_cache_size_gb * GB) - (weight_bytes(draft) if draft else 0)
    return EngineLimits(
        rows=settings.max_batch_rows,
        chunk=settings.prefill_chunk or (GPU_CHUNK if has_accelerator() else CPU_CHUNK),
        max_stall=settings.decode_gap,
        kv_bytes=max(budget - weight_bytes(loaded), SMALLEST_KV),
        cache_bytes=int(settings.prompt_cache_gb * GB),
        speculation=settings.speculation,
    )


def weight_bytes(loaded: LoadedModel) -> int:
    """Bytes in memory, more than on disk where weights were dequantized."""
    size: int = tree_reduce(lambda size, array: size + array.nbytes, loaded.model.parameters(), 0)
    return size


def vocabulary_size_of(loaded: LoadedModel) -> int:
    """The width of the logits, which may exceed the tokenizer's; a config may lack it or be wrong."""
    model: Any = loaded.model
    # Only the shape is used; nothing is evaluated.
    return int(forward(model, mx.zeros((1, 1), mx.int32), new_cache(model)).shape[-1])
