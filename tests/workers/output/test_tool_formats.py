"""The output format read from a tokenizer and its template: tool format, thinking, special tokens."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.tokenizer_utils import load as load_tokenizer
from tokenizers import AddedToken

from shared.settings import Settings
from tests.tiny_model import make_tiny_llama
from workers.model.load import LoadedModel, inspect, load
from workers.model.serve_model import serve_model
from workers.output.tool_formats import output_format_of

TEMPLATE = "{{ messages[0].content }}"
TEMPLATES = {
    '{{ "<tool_call>" }}{{ tool_call.name }}': "<tool_call>",
    "<tool_call>\n<function=": "<tool_call>",
    "<arg_key>": "<tool_call>",
    "[TOOL_CALLS]": "[TOOL_CALLS]",
    "<minimax:tool_call>": "<minimax:tool_call>",
}


def loaded_with(folder: Path, template: str, *special: str, plain: tuple[str, ...] = ()) -> LoadedModel:
    """A tiny model whose tokenizer also has these tokens."""
    model = make_tiny_llama(folder / "model", vocab=300)
    loaded = load(model, inspect(model), lambda phase, done, total: None, trusted=True)
    inner: Any = loaded.tokenizer._tokenizer
    inner.chat_template = template
    inner.add_special_tokens({"additional_special_tokens": list(special)})
    inner.add_tokens([AddedToken(token, special=False) for token in plain])
    inner.save_pretrained(model)
    return replace(loaded, tokenizer=load_tokenizer(model, eos_token_ids=[2]))


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_tool_format_follows_from_the_chat_template(tmp_path: Path, template: str) -> None:
    output_format = output_format_of(loaded_with(tmp_path, template).tokenizer)
    assert output_format.tools is not None and output_format.tools.start == TEMPLATES[template]
    assert output_format.tools.syntax is not None


def test_a_chat_template_without_tools_has_no_tool_format(tmp_path: Path) -> None:
    output_format = output_format_of(loaded_with(tmp_path, TEMPLATE).tokenizer)
    assert (output_format.tools, output_format.thinking, dict(output_format.special)) == (None, None, {})


def test_special_tokens_that_delimit_calls_are_known_by_their_ids(tmp_path: Path) -> None:
    loaded = loaded_with(
        tmp_path, "[TOOL_CALLS]", "[TOOL_CALLS]", "[ARGS]", "[OTHER]", plain=("<think>", "</think>")
    )
    output_format = output_format_of(loaded.tokenizer)
    assert output_format.thinking == ("<think>", "</think>")
    assert loaded.tokenizer.convert_ids_to_tokens(output_format.think_id) == "<think>"
    assert set(output_format.special) == {"[TOOL_CALLS]", "[ARGS]"}
    assert loaded.tokenizer.convert_ids_to_tokens(output_format.special["[ARGS]"]) == "[ARGS]"


def test_a_loaded_model_says_what_it_can_do(tmp_path: Path) -> None:
    served = serve_model(loaded_with(tmp_path, TEMPLATE, plain=("<think>", "</think>")), Settings())
    assert served.capabilities is not None
    assert (served.capabilities.tools, served.capabilities.content) == ("described", "text")
    assert served.capabilities.reasoning and served.capabilities.json_schema
    assert served.capabilities.bytes > 10_000
