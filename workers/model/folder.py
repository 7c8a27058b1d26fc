"""The files of a model folder that are read: which there must be, and that they are files; pure Python.

Rule: a folder is data from a stranger. Code in it is never run; what is no regular file is never opened, as a
pipe would keep its reader for ever.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workers.model.load_error import IncompleteError, LoadError, first_line

MAX_TEXT_BYTES = 256 << 20  # of a file that is not weights; the largest known tokenizers have 40 MB

_READ_BY_LIBRARIES = {".json", ".jinja", ".txt", ".model", ".tiktoken"}
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
        content = json.loads(file.read_bytes())
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
    """What mlx-lm and transformers open by name, they open without a look. Raises LoadError."""
    for file in [*folder.iterdir(), *folder.glob("additional_chat_templates/*")]:
        if file.suffix not in _READ_BY_LIBRARIES or file.is_dir():
            continue
        if not file.is_file():
            raise IncompleteError(f"{file.name} is not a regular file, or leads to none: fetch it again.")
        if file.stat().st_size > MAX_TEXT_BYTES:
            raise LoadError(f"{file.name} has more than {MAX_TEXT_BYTES >> 20} MB: fetch it again.", True)


def require_tokenizer(folder: Path) -> None:
    if not any(all((folder / name).is_file() for name in names) for names in _TOKENIZERS):
        wanted = ", or ".join(" and ".join(names) for names in _TOKENIZERS)
        raise IncompleteError(f"The model folder has no tokenizer: it needs {wanted}.")


def refuse_code(config: Mapping[str, Any]) -> None:
    """``auto_map`` is for other programs: mlx-lm has its own code for the architectures it knows."""
    if config.get("model_file") is not None:
        raise LoadError(
            "config.json wants to run Python code from the model's folder (model_file), which this server never "
            "does: use a conversion that mlx-lm supports itself.",
            permanent=True,
        )
