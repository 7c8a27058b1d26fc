"""An inspected folder -> an encoder that serves: loaded, measured, tried once."""

import hashlib
import logging
from contextlib import nullcontext
from pathlib import Path

from shared.kinds import Kind
from shared.protocol import Capabilities
from shared.settings import Settings
from workers.device import has_accelerator
from workers.encoders.engine import EncoderEngine, EncoderLimits
from workers.encoders.invariance import invariance_of_encoder
from workers.encoders.job import EncodingJob
from workers.encoders.loading.load import LoadedEncoder, load_encoder
from workers.encoders.loading.modules import NAME, modules_of
from workers.encoders.models.packed import group_of
from workers.encoders.preparation import EncoderPreparation
from workers.engine.cpu.install import install
from workers.job import Served
from workers.model.load import ModelFacts
from workers.model.load_error import Progress
from workers.model.trial_process import trial

log = logging.getLogger(__name__)

ON_GPU = 16_384  # tokens of a step
CPU_WORK = 40e9  # multiplications and additions of a step on a CPU: some tenths of a second
ON_CPU = (128, 2048)  # tokens of a step, at least and at most
PADDING = 0.25


def serve_encoder(
    folder: Path,
    facts: ModelFacts,
    kind: Kind,
    name: str,
    settings: Settings,
    progress: Progress,
    *,
    trusted: bool,
) -> Served[EncodingJob]:
    """``trusted``: its tokenizer is our own and needs no trial. Raises LoadError."""
    with nullcontext() if trusted else trial(folder) as await_trial:
        if await_trial is not None:
            await_trial(progress)
    limit, truncates = _limit(settings, name), settings.table(name).truncate
    loaded = load_encoder(folder, kind, name, progress, context_length=limit, truncates=truncates)
    if not has_accelerator():
        install()
    progress("warm-up", 0, 0)
    loaded.compute([group_of([[0] * 8], [[0] * 8])], [[0]])
    limits, invariance = limits_for(loaded), invariance_of_encoder(loaded.modules)
    log.info(
        "%s: %d tokens of a text, %d of a step; %s", kind, loaded.text.max_length, limits.tokens, invariance
    )
    return Served(
        engine=EncoderEngine(loaded.compute, limits, invariance=invariance),
        prepare=EncoderPreparation(
            *(name, kind, loaded.text, loaded.recipe, loaded.size, loaded.template),
        ),
        digest=_digest(folder, facts, truncates=truncates),
        context_length=loaded.text.max_length,
        capabilities=Capabilities(
            kind=kind,
            dimensions=loaded.size if kind == "embedding" else None,
            ranking="cosine" if kind == "embedding" else "scores",
            truncates=truncates,
            bytes=loaded.bytes,
        ),
    )


def _limit(settings: Settings, name: str) -> int | None:
    """An operator's bound on the tokens of a text."""
    bounds = (settings.context_length, settings.table(name).context_length)
    return min((bound for bound in bounds if bound is not None), default=None)


def limits_for(loaded: LoadedEncoder) -> EncoderLimits:
    """The limits of an encoder: on a CPU a group holds texts of one length, which need no padding.

    A decoder reads all its weights for each group, so its groups are as large as possible.
    """
    if has_accelerator():
        return EncoderLimits(ON_GPU, PADDING)
    least, most = ON_CPU
    tokens = int(CPU_WORK / (2 * max(1, loaded.parameters)))
    return EncoderLimits(max(least, min(most, tokens)), PADDING if loaded.is_decoder else 0.0)


def _digest(folder: Path, facts: ModelFacts, *, truncates: bool) -> str:
    """What the vectors are depends on the weights, sentence-transformers' files, and whether texts are cut."""
    digest = hashlib.sha256(facts.digest.encode() + (b" truncated" if truncates else b""))
    files = [folder / NAME, *folder.glob("*sentence*.json")]
    files += [
        file for module in modules_of(folder) if module.path for file in (folder / module.path).glob("*")
    ]
    for file in sorted(file for file in files if file.is_file()):
        with file.open("rb") as stream:
            digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
