"""Spellings of a family's calls that models write and no template shows."""

import json
from typing import Any

import pytest

from tests.workers.output.family_templates import format_of
from workers.chat_template.call_format import CallFormat
from workers.chat_template.families import FAMILIES, completed
from workers.output.derived_calls import call_filter
from workers.output.derived_format import tool_format_of
from workers.output.tool_calls import ToolPolicy

STRING = {"type": "string"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {"city": STRING, "state": STRING}},
        },
    }
    for name in ("get_weather", "get_time")
]
CITY = '{"city": "Paris"}'
OBJECT = f'{{"name": "get_weather", "arguments": {CITY}}}'
FIRST: Any = ("get_weather", {"city": "Paris"})
SECOND: Any = ("get_time", {})
DSML = (
    '<｜DSML｜toolcalls>\n<｜DSML｜invoke name="get_weather">\n<｜DSML｜parameter name="city" string="true">Paris'
    "</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
)
DOTS = "<dots_function_call>"
KIMI = "<|tool_calls_section_begin|><|tool_call_begin|>{}<|tool_call_argument_begin|>{}<|tool_call_end|>"
KIMI_END = "<|tool_calls_section_end|>"
LLAMA, QWEN, CODER = (
    "Llama 3.1, 3.2, 3.3, 4",
    "Qwen 2.5, Qwen 3, QwQ, Hermes, Granite 4",
    "Qwen 3 Coder, Qwen 3.5, MiMo V2",
)
DEEPSEEK, LFM, STEP = "DeepSeek V3, R1", "LFM2, LFM2.5", "Step 3"
BEGIN, END = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>", "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
INVOKE = '<steptml:invoke name="get_weather"><steptml:parameter name="city">Paris</steptml:parameter></steptml:invoke>'
STEPS, STEPPED = "<｜tool_calls_begin｜><｜tool_call_begin｜>", "<｜tool_call_end｜><｜tool_calls_end｜>"
PARAMETER = "<parameter=city>\nParis\n</parameter>\n"
ONE = [FIRST]

SPELLINGS: dict[str, tuple[str, str, str, list[Any]]] = {
    "an id with underscores": ("Kimi K2", KIMI.format("functions_get_weather_2", CITY) + KIMI_END, "", ONE),
    "an id without a namespace": ("Kimi K2", KIMI.format("get_weather:3", CITY) + KIMI_END, "", ONE),
    "an id that is the name": ("Kimi K2", KIMI.format("get_weather", CITY) + KIMI_END, "", ONE),
    "an id without a number": ("Kimi K2", KIMI.format("functions.get_weather", CITY) + KIMI_END, "", ONE),
    "no list around": (LFM, '<|tool_call_start|>get_weather(city="Paris")<|tool_call_end|>', "", ONE),
    "triple quotes": (
        LFM,
        '<|tool_call_start|>[get_weather(city="""a\n"b"""), get_time()]<|tool_call_end|>',
        "",
        [("get_weather", {"city": 'a\n"b'}), SECOND],
    ),
    "an object in a list of Python's calls": (
        LFM,
        f"<|tool_call_start|>[{OBJECT}]<|tool_call_end|>",
        "",
        ONE,
    ),
    "an object between tags": (CODER, f"Well.\n<tool_call>\n{OBJECT}\n</tool_call>", "Well.", ONE),
    "two objects between tags": (
        CODER,
        f'<tool_call>\n{OBJECT}\n</tool_call>\n<tool_call>\n{{"name": "get_time", "arguments": {{}}}}\n</tool_call>',
        "",
        [FIRST, SECOND],
    ),
    "arguments as an object between tags": (
        CODER,
        f"<tool_call>\n<function=get_weather>\n{CITY}\n</function>\n</tool_call>",
        "",
        ONE,
    ),
    "an inner end that is missing": (
        CODER,
        f"<tool_call>\n<function=get_weather>\n{PARAMETER}</tool_call>",
        "",
        ONE,
    ),
    "an object behind tags": (
        "dots",
        f'{DOTS}<invoke name="get_time"></invoke></dots_function_call>{DOTS}{OBJECT}</dots_function_call>',
        "",
        [SECOND, FIRST],
    ),
    "an object in place of keys": (
        "GLM 4.5, GLM 4.6, Laguna XS",
        f"<tool_call>{OBJECT}</tool_call>",
        "",
        ONE,
    ),
    "a list of Mistral's before": (
        "Devstral, Ministral 3, Magistral",
        f'[TOOL_CALLS][{OBJECT}, {{"name": "get_time", "arguments": {{}}}}]',
        "",
        [FIRST, SECOND],
    ),
    "an id of Mistral's before": (
        "Devstral, Ministral 3, Magistral",
        f"[TOOL_CALLS]get_weather[CALL_ID]abcdefghi[ARGS]{CITY}",
        "",
        ONE,
    ),
    "a name of Mistral's later form": (
        "Mistral 7B v0.3, Nemo, Mixtral",
        f"[TOOL_CALLS]get_weather[ARGS]{CITY}",
        "",
        ONE,
    ),
    "DeepSeek's later form": (DEEPSEEK, f"{BEGIN}get_weather<｜tool▁sep｜>{CITY}{END}", "", ONE),
    "no fence": (DEEPSEEK, f"{BEGIN}function<｜tool▁sep｜>get_weather\n{CITY}{END}", "", ONE),
    "an outer mark of DeepSeek's": (
        "DeepSeek V4",
        DSML,
        "",
        ONE,
    ),
    "no kind before the name": (STEP, STEPS + INVOKE + STEPPED, "", ONE),
    "a mark between calls": (
        STEP,
        STEPS
        + INVOKE
        + '<｜tool_call_end｜><｜tool_sep｜><｜tool_call_begin｜><steptml:invoke name="get_time"></steptml:invoke>'
        + STEPPED,
        "",
        [FIRST, SECOND],
    ),
    "a fence between marks": (QWEN, f"<tool_call>\n```json\n{OBJECT}\n```\n</tool_call>", "", ONE),
    "no arguments": (QWEN, '<tool_call>{"name": "get_time", "arguments": null}</tool_call>', "", [SECOND]),
    "a namespace": (QWEN, f"<tool_call>{OBJECT.replace('get_', 'functions.get_')}</tool_call>", "", ONE),
    "OpenAI's object": (
        QWEN,
        f'<tool_call>{{"type": "function", "function": {OBJECT}}}</tool_call>',
        "",
        ONE,
    ),
    "the name under another key": (
        QWEN,
        f'<tool_call>{{"function": "get_weather", "arguments": {CITY}}}</tool_call>',
        "",
        ONE,
    ),
    "text before a bare object": (LLAMA, f"Here it is: {OBJECT} More?", "Here it is: More?", ONE),
    "text before bare objects": (
        LLAMA,
        f'So.\n{OBJECT}; {{"name": "get_time", "parameters": {{}}}}',
        "So.",
        [FIRST, SECOND],
    ),
    "a bare object of another kind": (
        LLAMA,
        'Say {"name": "Bob", "parameters": {}} or {}.',
        'Say {"name": "Bob", "parameters": {}} or {}.',
        [],
    ),
    "a bare object of OpenAI's": (LLAMA, f'So: {{"type": "function", "function": {OBJECT}}}', "So:", ONE),
}


def format_for(family: str) -> CallFormat:
    if family == STEP:
        return next(each.format for each in FAMILIES if each.names == STEP)
    return completed(format_of(family), "<|python_tag|>" if family == LLAMA else "", ())


def play(family: str, parts: list[str]) -> tuple[str, list[Any]]:
    policy = ToolPolicy(tool_format_of(format_for(family)), frozenset({"get_weather", "get_time"}), TOOLS)
    filter = call_filter(policy, "key")
    found = [*map(filter.push, parts), filter.flush(closed=True)]
    calls = [(call.name, json.loads(call.arguments)) for each in found for call in each.calls]
    return "".join(each.text for each in found), calls


@pytest.mark.parametrize("what", SPELLINGS)
def test_a_spelling_that_models_vary_is_the_same_call_however_it_is_cut(what: str) -> None:
    family, text, shown, calls = SPELLINGS[what]
    assert play(family, [text]) == (shown, calls)
    assert play(family, list(text)) == (shown, calls)
    for at in range(len(text)):
        assert play(family, [text[:at], text[at:]]) == (shown, calls), at


@pytest.mark.parametrize("what", SPELLINGS)
def test_a_varied_spelling_that_is_cut_off_is_a_call_of_its_own_arguments_or_text(what: str) -> None:
    family, text, _, calls = SPELLINGS[what]
    for end in range(len(text)):
        shown, found = play(family, [text[:end]])
        assert found == calls[: len(found)], end
        assert found or shown == text[:end], end
