"""The chat template is found in every file that may hold it; tool_use serves requests with tools."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_model import make_tiny_llama
from workers.model.chat_template_file import chat_template_of
from workers.model.load import LoadedModel, inspect, load
from workers.model.load_error import LoadError
from workers.output.tool_formats import output_format_of

PLAIN, TOOLS = (
    "plain: {{ messages[0].content }}",
    "tools: <tool_call> {% if false %}{{ tool_call.name }}{% endif %} {{ messages[0].content }}",
)
CHAT = [{"role": "user", "content": "Hello"}]
TOOL = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = make_tiny_llama(tmp_path / "model")
    edited(folder / "tokenizer_config.json", chat_template=None)
    return folder


def edited(file: Path, **changes: object) -> None:
    content = json.loads(file.read_bytes()) if file.exists() else {}
    file.write_text(json.dumps(content | changes))


def in_a_list(folder: Path, templates: dict[str, str]) -> None:
    entries = [{"name": name, "template": text} for name, text in templates.items()]
    edited(folder / "tokenizer_config.json", chat_template=entries)


def in_an_object(folder: Path, templates: dict[str, str]) -> None:
    edited(folder / "tokenizer_config.json", chat_template=templates)


def in_files(folder: Path, templates: dict[str, str]) -> None:
    edited(folder / "tokenizer_config.json", chat_template="of no account")
    (folder / "additional_chat_templates").mkdir()
    for name, text in templates.items():
        place = "chat_template" if name == "default" else f"additional_chat_templates/{name}"
        (folder / f"{place}.jinja").write_text(text)


def in_the_processors_file(folder: Path, templates: dict[str, str]) -> None:
    edited(folder / "chat_template.json", chat_template=templates)


def loaded(folder: Path) -> LoadedModel:
    return load(folder, inspect(folder), lambda phase, done, total: None, trusted=True)


@pytest.mark.parametrize("kept", [in_a_list, in_an_object, in_files, in_the_processors_file])
def test_the_template_for_tools_serves_requests_with_tools(folder: Path, kept: Any) -> None:
    kept(folder, {"default": PLAIN, "tool_use": TOOLS, "rag": "rag"})
    tokenizer = loaded(folder).tokenizer
    for tools, text in ((None, "plain: Hello"), ([], "plain: Hello"), (TOOL, "tools: <tool_call>  Hello")):
        assert tokenizer.apply_chat_template(CHAT, tools=tools, tokenize=False) == text
    family = output_format_of(tokenizer).tools
    assert family is not None
    assert family.start == "<tool_call>"


@pytest.mark.parametrize(
    ("templates", "text"),
    [
        ({"default": PLAIN}, "plain: Hello"),
        ({"chatml": PLAIN}, "plain: Hello"),
        ({"tool_use": PLAIN}, "plain: Hello"),
    ],
)
def test_of_several_named_chat_templates_default_serves_requests_without_tools(
    folder: Path, templates: dict[str, str], text: str
) -> None:
    in_a_list(folder, templates)
    for tools in (None, TOOL):
        assert loaded(folder).tokenizer.apply_chat_template(CHAT, tools=tools, tokenize=False) == text


def test_chat_template_json_is_used_where_there_is_no_other_template(folder: Path) -> None:
    edited(folder / "chat_template.json", chat_template=PLAIN)
    assert chat_template_of(folder, {}) == PLAIN
    assert chat_template_of(folder, {"chat_template": "mine"}) == "mine"


def test_a_byte_order_mark_is_no_part_of_the_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"\xef\xbb\xbf" + PLAIN.encode())
    assert chat_template_of(folder, {}) == PLAIN


def test_a_folder_without_a_chat_template_has_none(folder: Path) -> None:
    assert not loaded(folder).tokenizer.has_chat_template


@pytest.mark.parametrize("entry", [3, ["a"], [{"name": "default"}], {"default": 3}, [[]], "x" * 2_000_000])
def test_an_entry_that_is_no_chat_template_is_refused(folder: Path, entry: object) -> None:
    edited(folder / "tokenizer_config.json", chat_template=entry)
    with pytest.raises(LoadError, match="template") as caught:
        loaded(folder)
    assert caught.value.permanent
