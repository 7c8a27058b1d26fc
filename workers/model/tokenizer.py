"""How a folder's tokenizer is loaded: with its chat template, and without running code unless the operator allows it.

``auto_map`` in tokenizer_config.json names Python code in the folder. If there is a tokenizer.json, it holds the whole
tokenizer and is loaded as it is. Otherwise transformers may know the class; if not, the tokenizer is refused.
"""

from pathlib import Path
from typing import Any

from workers.model.chat_template_file import chat_template_of
from workers.model.folder import optional_json_object
from workers.model.load_error import LoadError


def tokenizer_options(folder: Path, template: str | None = None, allow_code: bool = False) -> dict[str, Any]:
    """``template``: an operator's, in place of the folder's.

    The options for AutoTokenizer.from_pretrained. Imports transformers. Raises LoadError."""
    config = optional_json_object(folder / "tokenizer_config.json")
    options: dict[str, Any] = {"trust_remote_code": allow_code, "local_files_only": True}
    if template is None:
        template = chat_template_of(folder, config)
    if template is not None:
        options["chat_template"] = template
    if not allow_code and _names_code(config) and (folder / "tokenizer.json").is_file():
        options["tokenizer_type"] = _read_as_it_is()
    return options


def refuse_code_only(folder: Path, error: BaseException) -> None:
    """Raises LoadError if ``error`` occurred because the tokenizer exists only as code."""
    config = optional_json_object(folder / "tokenizer_config.json")
    if _names_code(config) and not (folder / "tokenizer.json").is_file():
        raise LoadError(
            "The tokenizer is Python code in the model's folder (auto_map in tokenizer_config.json), which this "
            "server runs only where its table has allow_code: use a conversion that has a tokenizer.json.",
            permanent=True,
        ) from error


def _names_code(config: dict[str, Any]) -> bool:
    """``auto_map`` is an object; in its oldest form it is a list that is about the tokenizer only."""
    named = config.get("auto_map")
    return isinstance(named, list) or (isinstance(named, dict) and "AutoTokenizer" in named)


def _read_as_it_is() -> str:
    """A model type for which transformers loads tokenizer.json unchanged."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    names: dict[str, str | None] = TOKENIZER_MAPPING_NAMES
    return next(name for name, kind in names.items() if kind == "TokenizersBackend")
