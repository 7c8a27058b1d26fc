"""What is read of a model's tokenizer and template: the family of its calls, its thinking, its marks."""

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
from workers.output.tool_formats import dialect_of

TEMPLATE = "{{ messages[0].content }}"
TEMPLATES = {
    '{{ "<tool_call>" }}{{ tool_call.name }}': "<tool_call>",
    "<tool_call>\n<function=": "<tool_call>",
    "<arg_key>": "<tool_call>",
    "[TOOL_CALLS]": "[TOOL_CALLS]",
    "<minimax:tool_call>": "<minimax:tool_call>",
}


def loaded_with(folder: Path, template: str, *special: str, plain: tuple[str, ...] = ()) -> LoadedModel:
    """A tiny model whose tokenizer knows these tokens too."""
    model = make_tiny_llama(folder / "model", vocab=300)
    loaded = load(model, inspect(model), lambda phase, done, total: None, trusted=True)
    inner: Any = loaded.tokenizer._tokenizer
    inner.chat_template = template
    inner.add_special_tokens({"additional_special_tokens": list(special)})
    inner.add_tokens([AddedToken(token, special=False) for token in plain])
    inner.save_pretrained(model)
    return replace(loaded, tokenizer=load_tokenizer(model, eos_token_ids=[2]))


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_family_follows_from_the_template(tmp_path: Path, template: str) -> None:
    dialect = dialect_of(loaded_with(tmp_path, template).tokenizer)
    assert dialect.family is not None and dialect.family.start == TEMPLATES[template]
    assert dialect.family.form is not None


def test_a_template_without_tools_has_no_family(tmp_path: Path) -> None:
    dialect = dialect_of(loaded_with(tmp_path, TEMPLATE).tokenizer)
    assert (dialect.family, dialect.thinking, dict(dialect.special)) == (None, None, {})


def test_marks_that_are_special_tokens_are_known_by_their_ids(tmp_path: Path) -> None:
    loaded = loaded_with(
        tmp_path, "[TOOL_CALLS]", "[TOOL_CALLS]", "[ARGS]", "[OTHER]", plain=("<think>", "</think>")
    )
    dialect = dialect_of(loaded.tokenizer)
    assert dialect.thinking == ("<think>", "</think>")
    assert loaded.tokenizer.convert_ids_to_tokens(dialect.think) == "<think>"
    assert set(dialect.special) == {"[TOOL_CALLS]", "[ARGS]"}
    assert loaded.tokenizer.convert_ids_to_tokens(dialect.special["[ARGS]"]) == "[ARGS]"


def test_a_loaded_model_says_what_it_can_do(tmp_path: Path) -> None:
    served = serve_model(loaded_with(tmp_path, TEMPLATE, plain=("<think>", "</think>")), Settings())
    assert served.capabilities is not None
    assert served.capabilities.tools and served.capabilities.reasoning and served.capabilities.json_schema
    assert served.capabilities.bytes > 10_000
