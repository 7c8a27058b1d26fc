"""How a folder's tokenizer is loaded: with its chat template, and without running code unless the operator allows it.

``auto_map`` in tokenizer_config.json names Python code in the folder. If there is a tokenizer.json, it holds the whole
tokenizer and is loaded as it is. Otherwise transformers may know the class; if not, the tokenizer is refused.
tokenizer.json is also loaded as it is where transformers cannot have its class, or refuses a value in config.json.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from workers.model.chat_template_file import chat_template_of
from workers.model.folder import optional_json_object
from workers.model.load_error import LoadError, first_line

log = logging.getLogger(__name__)

T = TypeVar("T")
_TEXT_PARTS = ("text_config", "language_config", "llm_config")
_TYPE = "tokenizer_type"


def read_with(read: Callable[[dict[str, Any]], T], folder: Path, options: dict[str, Any]) -> T:
    """``read``: what makes a tokenizer with such options. Raises LoadError, or what ``read`` raises."""
    try:
        return read(options)
    except Exception as error:
        _refuse_code_only(folder, error)
        if _TYPE in options or not (folder / "tokenizer.json").is_file():
            raise
        try:
            made = read({**options, _TYPE: _read_as_it_is()})
        except Exception:  # noqa: BLE001 (the first error is about the folder as its makers meant it)
            raise error from None
        log.warning("tokenizer.json of %s is read as it is: %s", folder.name, first_line(error))
        return made


def ends_of(config: Mapping[str, Any], id_of: Callable[[str], int | None]) -> list[int]:
    """The ids of the tokens that end an answer, as a config says them: numbers, or the tokens themselves.

    Empty where it says none, at its top or in its text part. ``id_of``: the id of a token, None for an unknown one.
    """
    parts = (config, *(config.get(name) for name in _TEXT_PARTS))
    said = (part.get("eos_token_id") for part in parts if isinstance(part, Mapping))
    return next((ids for one in said if (ids := list(_ids(one, id_of)))), [])


def add_turn_end(tokenizer: Any, turn_ends: Sequence[str]) -> None:
    """Adds the last of these special tokens to ``eos_token_ids`` if none of them is there.

    ``turn_ends``: what the template writes behind an answer.
    """
    special = {token.content: id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids = [special[token] for token in turn_ends if token in special]
    if ids and not set(tokenizer.eos_token_ids) & set(ids):
        tokenizer.eos_token_ids = {*tokenizer.eos_token_ids, ids[-1]}


def _ids(said: object, id_of: Callable[[str], int | None]) -> Iterable[int]:
    for one in said if isinstance(said, list) else [said]:
        if isinstance(one, str):
            number = int(one) if one.isascii() and one.isdecimal() and len(one) < 10 else id_of(one)
        else:
            number = int(one) if isinstance(one, int | float) and one == one // 1 else None
        if number is not None and number >= 0 and not isinstance(one, bool):
            yield number


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
        options[_TYPE] = _read_as_it_is()
    return options


def _refuse_code_only(folder: Path, error: BaseException) -> None:
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
