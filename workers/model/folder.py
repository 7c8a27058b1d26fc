"""The files of a model folder: which must exist, and that they are regular files; pure Python.

Rule: a folder is untrusted data. Its code is not run, unless the operator allows it. Only regular files are opened,
because a pipe would block its reader for ever.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workers.model.load_error import IncompleteError, LoadError, first_line

MAX_TEXT_BYTES = 256 << 20  # per file other than weights; the largest known tokenizers have 40 MB

_READ_BY_LIBRARIES = {".json", ".jinja", ".txt", ".model", ".tiktoken"}
_READ_IF_THERE = (
    *("*config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "*chat_template*"),
    *("vocab.*", "merges.txt", "*.model", "*.tiktoken", "modules.json", "config_sentence_transformers.json"),
)
_POINTER = b"version https://git-lfs.github.com/"
_OTHER_WEIGHTS = {
    "adapter*.safetensors": "adapters are no model: fuse them with the one that they were trained on (mlx_lm.fuse)",
    "*.gguf": "GGUF files are llama.cpp's, whose server can be hosted",
    "*.safetensors": "convert the model (mlx_lm.convert)",
    "*.bin": "convert the model (mlx_lm.convert)",
    "*.npz": "convert the model anew (mlx_lm.convert)",
    "*.pth": "convert the model (mlx_lm.convert)",
}
_TOKENIZERS = (
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("vocab.json", "merges.txt"),
    ("tiktoken.model",),
    ("spiece.model",),
    ("vocab.txt",),
)


def json_object(file: Path) -> dict[str, Any]:
    """Raises LoadError."""
    if not file.is_file():
        raise IncompleteError(f"{file.name} is missing: this is not a complete model folder.")
    try:
        data = file.read_bytes()
        refuse_pointer(file, data)
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise LoadError(
            f"{file.name} is not JSON ({first_line(error)}): fetch the model again.", True
        ) from error
    except OSError as error:
        raise LoadError(f"{file.name} cannot be read: {error}.", permanent=True) from error
    if not isinstance(content, dict):
        raise LoadError(f"{file.name} holds a JSON {type(content).__name__}, not an object.", permanent=True)
    return content


def optional_json_object(file: Path) -> dict[str, Any]:
    """Empty if there is no such file. Raises LoadError."""
    return json_object(file) if file.exists() else {}


def require_regular_files(folder: Path) -> None:
    """Checks the files that mlx-lm and transformers open without a check of their own. Raises LoadError."""
    for file in [*folder.iterdir(), *folder.glob("additional_chat_templates/*")]:
        if file.suffix not in _READ_BY_LIBRARIES or file.is_dir():
            continue
        if file.is_symlink() and not file.exists() and not any(map(file.match, _READ_IF_THERE)):
            continue  # it leads nowhere, and nobody asks for it
        if not file.is_file():
            raise IncompleteError(f"{file.name} is not a regular file, or leads to none: fetch it again.")
        if file.stat().st_size > MAX_TEXT_BYTES:
            raise LoadError(f"{file.name} has more than {MAX_TEXT_BYTES >> 20} MB: fetch it again.", True)
        if file.stat().st_size < 1024:
            refuse_pointer(file, file.read_bytes())


def refuse_pointer(file: Path, start: bytes) -> None:
    """``start``: the first bytes of the file. A clone without Git LFS has pointers in place of large files."""
    if start.startswith(_POINTER):
        raise IncompleteError(
            f"{file.name} is a pointer of Git LFS in place of the file: `git lfs pull` in the folder fetches it."
        )


def other_weights(folder: Path) -> str:
    """Which weights of other kinds the folder has, and what to do with them; empty if it has none."""
    for pattern, advice in _OTHER_WEIGHTS.items():
        if file := next(iter(sorted(folder.glob(pattern))), None):
            return f", but {file.name}: {advice}"
    return ""


def require_tokenizer(folder: Path) -> None:
    if not any(all((folder / name).is_file() for name in names) for names in _TOKENIZERS):
        wanted = ", or ".join(" and ".join(names) for names in _TOKENIZERS)
        raise IncompleteError(f"The model folder has no tokenizer: it needs {wanted}.")


def refuse_code(config: Mapping[str, Any]) -> None:
    """Refuses ``model_file``. ``auto_map`` is allowed, because mlx-lm ignores it and uses its own code."""
    if config.get("model_file") is not None:
        raise LoadError(
            "config.json wants to run Python code from the model's folder (model_file), which this server "
            "does only where its table has allow_code: use a conversion that mlx-lm supports itself.",
            permanent=True,
        )
