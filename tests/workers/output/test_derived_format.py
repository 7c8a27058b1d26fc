"""What a chat template tells of a model's output, joined with the table: a call that is demanded can be read."""

import importlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.marks import quick_and_slow
from tests.workers.chat_template.formats import CALLS, rendering
from workers.chat_template.analysis import TemplateAnalysis, analyse
from workers.chat_template.demands import Demands
from workers.output.derived_calls import DerivedCallFilter, call_filter
from workers.output.derived_format import with_analysis
from workers.output.tool_calls import ToolPolicy
from workers.output.tool_formats import ModelOutputFormat, ToolFormat, tool_format_named

TOKENIZER: Any = SimpleNamespace(added_tokens_decoder={})
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get",
            "parameters": {"type": "object", "properties": {"word": {"type": "string"}}},
        },
    }
]


def table(name: str) -> ToolFormat:
    module = importlib.import_module(f"mlx_lm.tool_parsers.{name.removesuffix('_list')}")
    return tool_format_named(name, module.tool_call_start, module.tool_call_end, module.parse_tool_call)


def joined(tools: ToolFormat | None, kind: str, **changes: Any) -> ToolFormat | None:
    analysis = replace(analyse(rendering(kind).template), **changes)
    return with_analysis(ModelOutputFormat(tools), TOKENIZER, analysis).tools


def calls(tools: ToolFormat | None, text: str) -> list[str | None]:
    assert tools is not None
    filter = call_filter(ToolPolicy(tools, frozenset({"get"}), TOOLS), "key")
    found = [filter.push(text), filter.flush(closed=True)]
    return [piece.name for each in found for piece in each.calls if piece.name]


def demanded(tools: ToolFormat, count: int = 1) -> str:
    assert tools.syntax is not None
    before, behind = tools.syntax.quotes or ('"', '"')
    body = r"{\"word\": \"x\"}" if tools.syntax.as_text else '{"word": "x"}'
    if tools.syntax.key is not None:
        body = (tools.syntax.key + before + "x" + behind + tools.syntax.after).replace("{key}", "word")
    call = tools.syntax.opening.replace("{name}", "get") + body + tools.syntax.closing
    return tools.syntax.outer[0] + tools.syntax.between.join([call] * count) + tools.syntax.outer[1]


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize(
    "name", quick_and_slow((None, "kimi_k2"), ("mistral", "mistral_list", "json_tools", "glm47"))
)
def test_a_demanded_call_is_one_that_the_model_s_reader_reads(kind: str, name: str | None) -> None:
    tools = joined(table(name) if name else None, kind)
    assert tools is not None
    assert tools.syntax is not None
    assert calls(tools, demanded(tools)) == ["get"]
    assert tools.syntax.several is (tools.format is None or tools.format.several)
    if tools.syntax.several:
        assert calls(tools, demanded(tools, 2)) == ["get", "get"]


def test_a_reader_that_streams_arguments_stays_where_it_reads_what_the_template_shows() -> None:
    for name, kind in (("json_tools", "json"), ("mistral", "name + json")):
        found, its_own = joined(table(name), kind), table(name)
        assert found is not None and its_own.syntax is not None
        assert found == replace(its_own, syntax=replace(its_own.syntax, several=True))


def test_a_template_that_shows_another_form_than_the_table_has_is_believed() -> None:
    tools = joined(table("mistral"), "list")
    assert tools is not None and tools.format is not None
    assert calls(tools, '[TOOL_CALLS][{"name": "get", "arguments": {"word": "x"}}]') == ["get"]


def test_a_form_that_is_not_proved_leaves_the_table_s_reader() -> None:
    tools = joined(table("glm47"), "tagged, lines", proved=False)
    assert tools is not None and tools.format is None


def test_tools_that_the_template_does_not_show_are_described() -> None:
    analysis = TemplateAnalysis(Demands(shows_tools=False))
    assert with_analysis(ModelOutputFormat(table("json_tools")), TOKENIZER, analysis).tools is None


def test_delimiters_of_a_derived_form_that_are_special_tokens_are_read_as_text() -> None:
    token = SimpleNamespace(content="<|call_start|>", special=True)
    tokenizer: Any = SimpleNamespace(added_tokens_decoder={7: token})
    found = with_analysis(ModelOutputFormat(), tokenizer, analyse(rendering("pythonic").template))
    assert found.special == {"<|call_start|>": 7}


def test_only_one_call_is_given_where_only_one_is_allowed() -> None:
    tools = joined(None, "json, name as key")
    assert tools is not None
    policy = ToolPolicy(tools, frozenset({"get"}), TOOLS, parallel=False)
    filter = call_filter(policy, "key")
    assert isinstance(filter, DerivedCallFilter)
    text = '<|prefix|>[{"get": {"word": "x"}}, {"get": {"word": "y"}}]<|suffix|>'
    found = [filter.push(text), filter.flush(closed=True)]
    assert [piece.arguments for each in found for piece in each.calls] == ['{"word": "x"}']
    assert filter.satisfied
