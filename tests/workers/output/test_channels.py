"""Answers made of messages with headers are read: channels, recipients, thinking, calls and text."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.marks import examples
from workers.chat_template.call_format import KEY_HOLE, NAME_HOLE, CallFormat
from workers.output.channels import ChannelFilter, opened_by
from workers.output.choice import Shown
from workers.output.derived_format import tool_format_of
from workers.output.tool_calls import ToolPolicy
from workers.output.tool_formats import PLAIN

TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "get",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "string"}, "n": {"type": "integer"}},
            },
        },
    },
    {"type": "function", "function": {"name": "mcp.read-it", "parameters": {"type": "object"}}},
]
NAMES = frozenset({"get", "mcp.read-it"})
HARMONY = ToolPolicy(PLAIN, NAMES, TOOLS)
ATEM = CallFormat(
    "tagged",
    outer=(f" to={NAME_HOLE}<|message|><atem:calls>\n", "</atem:calls>"),
    opening=f'<atem:invoke name="{NAME_HOLE}">\n',
    closing="</atem:invoke>\n",
    key=f'<atem:parameter name="{KEY_HOLE}">',
    after="</atem:parameter>\n",
)
MUSE = ToolPolicy(tool_format_of(ATEM), NAMES, TOOLS)

THINKS = "<|channel|>analysis<|message|>hm, 1 < 2<|end|>"
CALL = "<|start|>assistant<|channel|>commentary to=functions.get <|constrain|>json<|message|>"
CASES: dict[str, tuple[str, tuple[str, str, list[tuple[str, Any]]]]] = {
    "an answer": ("<|channel|>final<|message|>four", ("", "four", [])),
    "thinking and an answer": (
        THINKS + "<|start|>assistant<|channel|>final<|message|>four",
        ("hm, 1 < 2", "four", []),
    ),
    "thinking twice": (
        THINKS + "<|start|>assistant" + THINKS + "<|start|>assistant<|channel|>final<|message|>four",
        ("hm, 1 < 2\n\nhm, 1 < 2", "four", []),
    ),
    "a call": (THINKS + CALL + '{"a": "x"}<|call|>', ("hm, 1 < 2", "", [("get", {"a": "x"})])),
    "a call as the template shows it": (
        ' to=functions.get<|channel|>commentary json<|message|>{"a": "x"}',
        ("", "", [("get", {"a": "x"})]),
    ),
    "a call in the channel of analysis": (
        '<|channel|>analysis to=functions.get code<|message|>{"a": "x"}',
        ("", "", [("get", {"a": "x"})]),
    ),
    "a call without functions": (
        '<|channel|>commentary to=get<|message|>{"a": "x"}',
        ("", "", [("get", {"a": "x"})]),
    ),
    "a call of a name with dots": (
        "<|channel|>commentary to=functions.mcp.read-it<|message|>{}",
        ("", "", [("mcp.read-it", {})]),
    ),
    "a call without arguments": (
        "<|channel|>commentary to=functions.get<|message|>",
        ("", "", [("get", {})]),
    ),
    "two calls": (
        CALL.removeprefix("<|start|>assistant") + '{"a": "x"}<|call|>' + CALL + '{"a": "y"}<|call|>',
        ("", "", [("get", {"a": "x"}), ("get", {"a": "y"})]),
    ),
    "a preamble and a call": (
        "<|channel|>commentary<|message|>I look.<|end|>" + CALL + '{"a": "x"}',
        ("", "I look.", [("get", {"a": "x"})]),
    ),
    "a preamble and an answer": (
        "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>final<|message|>four",
        ("", "I look.\n\nfour", []),
    ),
    "a mark inside of a string": (
        CALL.removeprefix("<|start|>assistant") + '{"a": "<|end|> \\" <|start|>"}<|call|>',
        ("", "", [("get", {"a": '<|end|> " <|start|>'})]),
    ),
    "nearly JSON": (
        "<|channel|>commentary to=functions.get<|message|>{'a': 'x',}",
        ("", "", [("get", {"a": "x"})]),
    ),
    "no JSON": (
        "<|channel|>commentary to=functions.get<|message|>hello<|call|>",
        ("", "<|channel|>commentary to=functions.get<|message|>hello<|call|>", []),
    ),
    "a call that is cut off": (
        '<|channel|>commentary to=functions.get<|message|>{"a": "x',
        ("", '<|channel|>commentary to=functions.get<|message|>{"a": "x', []),
    ),
    "a tool that is not offered": (
        "<|channel|>commentary to=functions.put<|message|>{}<|call|>",
        ("", "<|channel|>commentary to=functions.put<|message|>{}<|call|>", []),
    ),
    "no header": ("four <|5 > 4|>", ("", "four <|5 > 4|>", [])),
    "no channel": ("<|message|>four<|end|>", ("", "four", [])),
    "a missing end mark": (
        "<|channel|>analysis<|message|>hm<|start|>assistant<|channel|>final<|message|>four",
        ("hm", "four", []),
    ),
    "a header that is cut off": (THINKS + "<|start|>assistant<|channel|>fin", ("hm, 1 < 2", "", [])),
    "a word like a recipient": ("to be", ("", "to be", [])),
}
MUSE_CASES: dict[str, tuple[str, tuple[str, str, list[tuple[str, Any]]]]] = {
    "an answer": (" to=user<|message|>four", ("", "four", [])),
    "thinking and a call": (
        (
            " to=self<|message|>hm<|eom|><|start|>assistant to=get<|message|><atem:calls>\n"
            '<atem:invoke name="get">\n<atem:parameter name="n">3</atem:parameter>\n</atem:invoke>\n</atem:calls>'
        ),
        ("hm", "", [("get", {"n": 3})]),
    ),
    "a call of something else": (
        " to=put<|message|><atem:calls></atem:calls>",
        ("", "<|start|>assistant to=put<|message|><atem:calls></atem:calls>", []),
    ),
}


def play(
    parts: list[str], policy: ToolPolicy | None, opened: str = "assistant", closed: bool = True
) -> Shown:
    filter = ChannelFilter(opened, policy, "key")
    shown = Shown()
    for part in parts:
        shown += filter.push(part)
    return shown + filter.flush(closed=closed)


def seen(shown: Shown) -> tuple[str, str, list[tuple[str | None, Any]]]:
    return shown.reasoning, shown.text, [(call.name, json.loads(call.arguments)) for call in shown.calls]


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_a_harmony_answer_is_read_wherever_it_is_cut(case: str, closed: bool) -> None:
    text, (reasoning, answer, calls) = CASES[case]
    answer = answer.replace("<|channel|>commentary to", "<|start|>assistant<|channel|>commentary to")
    whole = play([text], HARMONY, closed=closed)
    assert seen(whole) == (reasoning, answer, calls)
    assert play(list(text), HARMONY, closed=closed) == whole
    for at in range(len(text)):
        assert play([text[:at], text[at:]], HARMONY, closed=closed) == whole


@pytest.mark.parametrize("case", MUSE_CASES)
def test_messages_to_a_recipient_are_read_wherever_they_are_cut(case: str) -> None:
    text, expected = MUSE_CASES[case]
    whole = play([text], MUSE)
    assert seen(whole) == expected
    assert play(list(text), MUSE) == whole


def test_without_tools_a_call_is_text_and_thinking_is_not() -> None:
    text = THINKS + CALL + "{}<|call|>"
    assert seen(play([text], None)) == ("hm, 1 < 2", CALL + "{}<|call|>", [])


def test_an_answer_that_the_prompt_begins_goes_on() -> None:
    opened = opened_by("<|start|>user<|message|>hi<|end|><|start|>assistant<|channel|>final<|message|>Well")
    assert seen(play([", hello"], HARMONY, opened)) == ("", ", hello", [])
    opened = opened_by("<|start|>assistant<|channel|>analysis<|message|>")
    assert seen(play(["hm<|end|><|start|>assistant<|channel|>final<|message|>ok"], HARMONY, opened)) == (
        "hm",
        "ok",
        [],
    )


def test_one_call_is_enough_where_only_one_is_allowed() -> None:
    text = CALL + '{"a": "x"}<|call|>' + CALL + '{"a": "y"}<|call|>'
    filter = ChannelFilter("assistant", ToolPolicy(PLAIN, NAMES, TOOLS, parallel=False), "key")
    assert len(filter.push(text).calls) == 1
    assert filter.satisfied


def test_text_and_thinking_are_shown_at_once_and_headers_belong_to_neither() -> None:
    filter = ChannelFilter("assistant", HARMONY, "key")
    assert filter.part == "thinking"
    assert filter.push("<|channel|>analysis<|message|>hm").reasoning == "hm"
    assert filter.thinking
    assert filter.push("<|end|><|start|>assistant<|channel|>final<|message|>fo").text == "fo"
    assert filter.part is None


PIECES = st.sampled_from(
    [
        *("<|start|>assistant", "<|channel|>", "analysis", "final", "commentary", " to=functions.get"),
        *("<|message|>", "<|end|>", "<|call|>", '{"a": "x"}', "word", " ", "<|", '"', "<|constrain|>json"),
    ]
)


@examples(200)
@given(pieces=st.lists(PIECES, max_size=16), data=st.data())
def test_no_cut_changes_what_a_channel_filter_shows(pieces: list[str], data: st.DataObject) -> None:
    text = "".join(pieces)
    ends = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    parts = [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]
    assert play(parts, HARMONY) == play([text], HARMONY) == play(list(text), HARMONY)


@pytest.mark.parametrize("said", ["<a>\\n", "<|end|>"])
def test_a_long_call_is_read_in_linear_time(said: str) -> None:
    filter = ChannelFilter("assistant", HARMONY, "key")
    filter.push("<|channel|>commentary to=functions.get<|message|>")
    for piece in ['{"a": "', *[said] * 50_000, '"}']:
        filter.push(piece)
    assert len(filter.flush(closed=True).calls) == 1
