"""From a model's source to a model in memory: locate its folder, inspect it, load it.

Rule 1: nothing reaches MLX that was not inspected: only safetensors, JSON and tokenizer files, and no code.
Rule 2: ``inspect`` is pure Python and imports no mlx. Rule 3: whatever is wrong becomes a LoadError that tells
the operator what to do; nothing is replaced by something else in silence.
"""

import hashlib
import json
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from shared.models import ModelSource
from workers.embedded import LoadError, Progress, convert_once
from workers.engine.device import has_accelerator

if TYPE_CHECKING:
    import mlx.core as mx
    from mlx.nn.layers.base import Module
    from mlx_lm.tokenizer_utils import TokenizerWrapper

__all__ = ["LoadError", "LoadedModel", "ModelFacts", "Progress", "inspect", "load", "locate"]

log = logging.getLogger(__name__)

DEFAULT_CONTEXT_LENGTH = 4096
MAX_HEADER_BYTES = 100_000_000
WEIGHTS = "model*.safetensors"
"""mlx-lm reads these and no others."""

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
_TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"), ("tiktoken.model",))
_DOWNLOADED = [WEIGHTS, "*.json", "*.jinja", "*.txt", "tokenizer.model", "tiktoken.model"]
_ITEM_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 8),
}


class IncompleteError(LoadError):
    """Files are missing; for a model from the hub, a download may bring them."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, permanent=True)


@dataclass(frozen=True)
class ModelFacts:
    """What can be known without loading.

    ``digest``: of config, headers and a sample of every tensor. Two fine-tunes of one model differ only there.
    """

    digest: str
    weight_bytes: int
    context_length: int | None
    model_type: str


@dataclass
class LoadedModel:
    model: "Module"
    tokenizer: "TokenizerWrapper"
    config: dict[str, Any]
    facts: ModelFacts
    context_length: int


# Locate


def locate(source: ModelSource, cache_dir: Path, progress: Progress) -> Path:
    """The model's folder on this disk; converts or downloads if need be. Raises LoadError.

    Models from the hub are in Hugging Face's own cache (HF_HOME), shared with every other tool.
    """
    match source.kind:
        case "embedded":
            return convert_once(cache_dir, progress)
        case "folder":
            return Path(source.location)
        case "hub":
            return _from_hub(source.location, progress)
        case _:
            assert_never(source.kind)


def _from_hub(repository: str, progress: Progress) -> Path:
    """The local copy if there is a complete one, without asking the network; else a download."""
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = _snapshot(repository, local_files_only=True)
        inspect(folder)
        return folder
    except (LocalEntryNotFoundError, IncompleteError) as error:
        log.info("%s is not complete on this disk (%s); downloading", repository, _first_line(error))
    except HFValidationError as error:
        raise LoadError(
            f"{repository!r} is not the name of a hub repository: {error}", permanent=True
        ) from error
    return _download(repository, progress)


def _snapshot(repository: str, local_files_only: bool = False, bar: type | None = None) -> Path:
    from huggingface_hub import snapshot_download

    found = snapshot_download(
        repository,
        local_files_only=local_files_only,
        allow_patterns=_DOWNLOADED,
        # fnmatch's * crosses "/": copies in other formats would come along (original/, onnx/).
        ignore_patterns=["*/*"],
        tqdm_class=bar,
    )
    return Path(found)


def _download(repository: str, progress: Progress) -> Path:
    """Runs in a thread of its own, so that ``progress`` is always called by the caller's."""
    counter = _DownloadCounter()
    with ThreadPoolExecutor(1, "download") as pool:
        future = pool.submit(_snapshot, repository, bar=counter.bar_class())
        while wait([future], timeout=0.5).not_done:
            progress("download", counter.done, counter.total)
    error = future.exception()
    if error is not None:
        raise _download_failure(repository, error) from error
    progress("download", counter.done, counter.total)
    return future.result()


class _DownloadCounter:
    """Sums what the hub library tells its progress bars, and draws none."""

    def __init__(self) -> None:
        self.done = 0
        self.total = 0

    def bar_class(self) -> type:
        from huggingface_hub.utils.tqdm import tqdm

        counter = self

        class Bar(tqdm):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                self.in_bytes = kwargs.get("unit") == "B"
                draw_nothing: Callable[..., None] = super().__init__
                draw_nothing(*args, **{**kwargs, "disable": True})
                self.seen = 0

            def update(self, n: float | None = 1) -> None:
                self.seen += int(n or 0)
                if self.in_bytes:
                    counter.done = max(counter.done, self.seen)
                    counter.total = max(counter.total, int(self.total or 0))

        return Bar


def _download_failure(repository: str, error: BaseException) -> LoadError:
    from huggingface_hub import errors

    match error:
        case errors.GatedRepoError():
            reason = "asks for consent first: accept its terms on huggingface.co and set HF_TOKEN"
            return LoadError(f"The hub repository {repository} {reason}.", permanent=True)
        case errors.RepositoryNotFoundError():
            reason = "does not exist, or is private: check the name, or set HF_TOKEN"
            return LoadError(f"The hub repository {repository} {reason}.", permanent=True)
        case errors.LocalEntryNotFoundError():
            reason = (
                f"is not on this disk and the hub cannot be reached; run `hf download {repository}` later"
            )
            return LoadError(
                f"The hub repository {repository} {reason} ({_first_line(error)}).", permanent=False
            )
        case OSError():
            reason = "Check the network and the space on the disk; what has arrived is kept"
        case _:
            reason = "This is not a failure we know; the log has all of it"
            log.error("downloading %s failed", repository, exc_info=error)
    what = f"{type(error).__name__}: {_first_line(error)}"
    return LoadError(f"Downloading {repository} failed ({what}). {reason}.", permanent=False)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]


# Inspect


def inspect(folder: Path) -> ModelFacts:
    """Reads config and headers only, in pure Python. Raises LoadError for what must not reach MLX."""
    if not folder.is_dir():
        raise IncompleteError(f"{folder} is not a folder: correct the path in available_models.")
    config = _json_object(folder / "config.json")
    _refuse_code(folder, config)
    _require_tokenizer(folder)
    files = _weight_files(folder)
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for file in files:
        header = read_header(file)
        spans = check_header(file, header)
        digest.update(f"\0{file.name}\0{file.stat().st_size}\0".encode() + header)
        digest.update(_samples(file, 8 + len(header), spans))
    return ModelFacts(
        digest=digest.hexdigest(),
        weight_bytes=sum(file.stat().st_size for file in files),
        context_length=_configured_context(config),
        model_type=_model_type(folder, config),
    )


def _json_object(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise IncompleteError(f"{file} is missing: {file.parent} is not a complete model folder.")
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{file} is not JSON ({_first_line(error)}): fetch the model again.", True) from error
    except OSError as error:
        raise LoadError(f"{file} cannot be read: {error}.", permanent=True) from error
    if not isinstance(content, dict):
        raise LoadError(f"{file} holds a JSON {type(content).__name__}, not an object.", permanent=True)
    return content


def _refuse_code(folder: Path, config: Mapping[str, Any]) -> None:
    """A model folder is data. Other files in it (*.py, *.bin, *.gguf) are never opened."""
    named = [("config.json", config)]
    if (folder / "tokenizer_config.json").exists():
        named.append(("tokenizer_config.json", _json_object(folder / "tokenizer_config.json")))
    for name, content in named:
        for key in ("model_file", "auto_map"):
            if content.get(key) is not None:
                raise LoadError(
                    f"{folder / name} wants to run Python code from its folder ({key}), which this "
                    "server never does: use a model that mlx-lm supports itself, or remove that key if it does.",
                    permanent=True,
                )


def _require_tokenizer(folder: Path) -> None:
    if not any(all((folder / name).is_file() for name in names) for names in _TOKENIZERS):
        wanted = ", or ".join(" and ".join(names) for names in _TOKENIZERS)
        raise IncompleteError(f"{folder} has no tokenizer: it needs {wanted}.")


def _model_type(folder: Path, config: Mapping[str, Any]) -> str:
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", model_type):
        raise LoadError(
            f"{folder / 'config.json'} has no usable model_type ({model_type!r:.80}).", permanent=True
        )
    return model_type


def _configured_context(config: Mapping[str, Any]) -> int | None:
    """The model's own limit; models that also see keep it in text_config."""
    nested = config.get("text_config")
    for place in (config, nested if isinstance(nested, dict) else {}):
        for key in _CONTEXT_KEYS:
            length = place.get(key)
            if isinstance(length, int) and not isinstance(length, bool) and length > 0:
                return length
    return None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


# Safetensors: 8 bytes of header length, the header (JSON), then the tensors without a gap: the format allows
# no byte that belongs to none (https://huggingface.co/docs/safetensors).


def _weight_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob(WEIGHTS))
    if missing := _shards(folder) - {file.name for file in files if file.is_file()}:
        raise IncompleteError(
            f"{folder} lacks {', '.join(sorted(missing)[:3])}, which its index names: fetch it again."
        )
    if not files:
        raise IncompleteError(f"{folder} has no weights: no file named {WEIGHTS}.")
    return files


def _shards(folder: Path) -> set[str]:
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return set()
    shards = _json_object(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise LoadError(f"{index} has no usable weight_map: fetch the model again.", permanent=True)
    return set(shards.values())


def read_header(file: Path) -> bytes:
    """The header's bytes, after comparing its length to the file. Raises LoadError."""
    if not file.is_file():
        raise _garbled(file, "it is not a regular file")
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            room = file.stat().st_size - 8
            if not 2 <= length <= min(room, MAX_HEADER_BYTES):
                raise _garbled(file, f"its header should have {length} bytes, in a file with room for {room}")
            return stream.read(length)
    except OSError as error:
        raise LoadError(f"{file} cannot be read: {error}.", permanent=True) from error


Span = tuple[int, int, str]
"""First byte, end, name; counted from the end of the header."""


def check_header(file: Path, header: bytes) -> list[Span]:
    """Every tensor has the bytes its shape wants, and together they fill the file. Raises LoadError."""
    try:
        tensors = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise _garbled(file, f"its header is not JSON ({_first_line(error)})") from error
    if not isinstance(tensors, dict):
        raise _garbled(file, "its header is not an object")
    tensors.pop("__metadata__", None)
    end = 0
    spans = sorted(_spans(file, tensors))
    for start, stop, name in spans:
        if start != end:
            raise _garbled(
                file, f"tensor {name!r:.80} begins at byte {start}, where {end} is the next free one"
            )
        end = stop
    if end != file.stat().st_size - 8 - len(header):
        raise _garbled(file, f"its tensors end at byte {end} of {file.stat().st_size - 8 - len(header)}")
    return spans


def _samples(file: Path, origin: int, spans: list[Span]) -> bytes:
    """A few bytes from the middle of every tensor: 10 microseconds each, where a whole file takes seconds."""
    samples = bytearray()
    with file.open("rb", buffering=0) as stream:
        for start, stop, _ in spans:
            stream.seek(origin + (start + stop) // 2)
            samples += stream.read(min(64, stop - (start + stop) // 2))
    return bytes(samples)


def _spans(file: Path, tensors: Mapping[str, Any]) -> Iterator[Span]:
    for name, tensor in tensors.items():
        match tensor:
            case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [start, stop]} if (
                dtype in _ITEM_BITS
                and all(map(_is_count, [*shape, start, stop]))
                and (stop - start) * 8 == math.prod(shape) * _ITEM_BITS[dtype]
            ):
                yield start, stop, name
            case _:
                raise _garbled(file, f"tensor {name!r:.80} is described wrongly")


def _garbled(file: Path, why: str) -> LoadError:
    reason = f"{file} is not a whole safetensors file ({why}): fetch the model again."
    return LoadError(reason, permanent=True)


# Load


def load(folder: Path, facts: ModelFacts, progress: Progress, accelerator: bool | None = None) -> LoadedModel:
    """Brings an inspected folder into memory, ready for its first request. Raises LoadError.

    ``accelerator``: whether MLX computes on a GPU; found out if not given. Without one the weights become
    float32, which takes more memory and is many times faster there than the packed forms.
    """
    progress("import", 0, 0)
    from huggingface_hub.errors import StrictDataclassError
    from mlx_lm.utils import load_model, load_tokenizer

    read_tokenizer: Callable[..., TokenizerWrapper] = load_tokenizer
    if accelerator is None:
        accelerator = has_accelerator()
    try:
        model, config = load_model(folder, lazy=True)
        if not accelerator:
            log.info("no GPU: the weights of %s become float32", folder)
            _to_float32(model)
        _read_weights(model, progress)
        progress("tokenizer", 0, 0)
        tokenizer = read_tokenizer(folder, eos_token_ids=config.get("eos_token_id"))
        progress("warm-up", 0, 0)
        _warm_up(model)
    except (ValueError, KeyError, TypeError, AttributeError, ImportError, StrictDataclassError) as error:
        reason = f"{folder} (model type {facts.model_type}) does not fit mlx-lm: {_first_line(error)}"
        raise LoadError(f"{reason}. Another conversion of the model may.", permanent=True) from error
    except (RuntimeError, OSError, MemoryError) as error:
        reason = f"{folder} could not be brought into memory: {_first_line(error)}"
        raise LoadError(f"{reason}. It may take more memory than is free.", permanent=False) from error
    context_length = _bounded_context(facts.context_length, tokenizer.model_max_length)
    return LoadedModel(model, tokenizer, config, facts, context_length)


def _to_float32(model: "Module") -> None:
    """Scales first, so that unpacking does not round to half precision; the formats without them come out as
    bfloat16 and are widened after. All of it is lazy: no packed weight is kept once it is read."""
    import mlx.core as mx
    from mlx_lm.utils import dequantize_model

    model.set_dtype(mx.float32)
    dequantize_model(model)
    model.set_dtype(mx.float32)


def _read_weights(model: "Module", progress: Progress) -> None:
    """Reports bytes in memory, which are not those on the disk when weights were unpacked."""
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
    """One prompt and one token: compiles kernels, touches every weight, and shows that the model runs."""
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model)
    mx.eval(model(mx.zeros((1, 8), mx.int32), cache=cache))
    mx.eval(model(mx.zeros((1, 1), mx.int32), cache=cache))
    mx.clear_cache()


def _bounded_context(configured: int | None, tokenizer_limit: object) -> int:
    """A tokenizer without a limit says 10**30."""
    sane = isinstance(tokenizer_limit, int) and 0 < tokenizer_limit < 1 << 31
    limits = [length for length in (configured, tokenizer_limit if sane else None) if isinstance(length, int)]
    if not limits:
        log.warning("the model states no context length; serving %d tokens", DEFAULT_CONTEXT_LENGTH)
    return min(limits, default=DEFAULT_CONTEXT_LENGTH)
