"""How a folder's tokenizer is read: with its one chat template, and without running code.

``auto_map`` in tokenizer_config.json names Python code beside the tokenizer. Where there is a tokenizer.json, it holds
all of the tokenizer and is read as it is; where there is none, transformers may know the class itself; else it
cannot be.
"""

from pathlib import Path
from typing import Any

from workers.model.chat_template_file import chat_template_of
from workers.model.folder import optional_json_object
from workers.model.load_error import LoadError


def tokenizer_options(folder: Path) -> dict[str, Any]:
    """What AutoTokenizer.from_pretrained is to be told. Imports transformers. Raises LoadError."""
    config = optional_json_object(folder / "tokenizer_config.json")
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    if (template := chat_template_of(folder, config)) is not None:
        options["chat_template"] = template
    if _names_code(config) and (folder / "tokenizer.json").is_file():
        options["tokenizer_type"] = _read_as_it_is()
    return options


def refuse_code_only(folder: Path, error: BaseException) -> None:
    """Raises LoadError if a tokenizer could not be read because it is code."""
    config = optional_json_object(folder / "tokenizer_config.json")
    if _names_code(config) and not (folder / "tokenizer.json").is_file():
        raise LoadError(
            "The tokenizer is Python code in the model's folder (auto_map in tokenizer_config.json), which this "
            "server never runs: use a conversion that has a tokenizer.json.",
            permanent=True,
        ) from error


def _names_code(config: dict[str, Any]) -> bool:
    """The oldest form of ``auto_map`` is a list, for the tokenizer alone."""
    named = config.get("auto_map")
    return isinstance(named, list) or (isinstance(named, dict) and "AutoTokenizer" in named)


def _read_as_it_is() -> str:
    """A model type whose tokenizers transformers reads from tokenizer.json without changing them."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    names: dict[str, str | None] = TOKENIZER_MAPPING_NAMES
    return next(name for name, kind in names.items() if kind == "TokenizersBackend")
