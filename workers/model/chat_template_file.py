"""The chat template of a model folder, from whichever file holds it, as one template; pure.

Rule 1: files win over entries of tokenizer_config.json, as in transformers; chat_template.json comes last.
Rule 2: of several named templates ``tool_use`` serves requests with tools, and ``default`` all others.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared.operators_files import MAX_TEMPLATE
from workers.model.folder import optional_json_object
from workers.model.load_error import LoadError, first_line


def chat_template_of(folder: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    """The template, or None if the folder has none. Raises LoadError."""
    templates = (
        _from_files(folder)
        or _named(tokenizer_config.get("chat_template"))
        or _named(optional_json_object(folder / "chat_template.json").get("chat_template"))
    )
    if sum(map(len, templates.values())) > MAX_TEMPLATE:
        raise LoadError(f"The chat template has more than {MAX_TEMPLATE} characters.", permanent=True)
    return _one(templates)


def _from_files(folder: Path) -> dict[str, str]:
    files = {file.stem: file for file in sorted(folder.glob("additional_chat_templates/*.jinja"))}
    if (main := folder / "chat_template.jinja").is_file():
        files["default"] = main
    return {name: _text(file) for name, file in files.items()}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")  # without a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{file.name} cannot be read: {first_line(error)}.", permanent=True) from error


def _named(entry: object) -> dict[str, str]:
    """Templates by name. The entry is one template, a list of {name, template}, or an object by name."""
    match entry:
        case None:
            return {}
        case str(text):
            return {"default": text}
        case [*items]:
            entries = [item if isinstance(item, dict) else {} for item in items]
            pairs = [(entry.get("name"), entry.get("template")) for entry in entries]
        case dict(by_name):
            pairs = list(by_name.items())
        case _:
            pairs = [(None, None)]
    if not all(isinstance(name, str) and isinstance(text, str) for name, text in pairs):
        raise LoadError("chat_template is neither text nor a list of named templates.", permanent=True)
    return {str(name): str(text) for name, text in pairs}


def _one(templates: Mapping[str, str]) -> str | None:
    """Both templates joined into one, so that the detection of tool formats sees the delimiters of both."""
    if not templates:
        return None
    plain = templates.get("default") or next(iter(templates.values()))
    tools = templates.get("tool_use")
    if tools is None or tools == plain:
        return plain
    return "{% if tools %}" + tools + "{% else %}" + plain + "{% endif %}"
