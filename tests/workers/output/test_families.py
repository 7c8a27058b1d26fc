"""Each family's calls as its models write them, with thinking around, cut anywhere and broken."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.marks import examples, quick_and_slow
from tests.workers.output.family_templates import FAMILIES, HARMONY, format_of, template_of
from tests.workers.output.test_call_reader import CALL, calls_of, cut, read_in, wanted
from tests.workers.output.written import write
from workers.chat_template.analysis import analyse
from workers.chat_template.environment import Rendering
from workers.chat_template.probes import ProbeCall, calling, tools_for, user
from workers.output.choice import ChoiceFilter, Shown
from workers.output.derived_calls import call_filter
from workers.output.derived_format import tool_format_of
from workers.output.reasoning import ReasoningFilter, ThinkingDelimiters
from workers.output.tool_calls import ToolPolicy

FIRST = ("get_weather", {"city": "Paris", "days": 2})
SECOND = ("write_file", {"path": "a.py", "content": 'if a < b:\n    print("ä")'})
STRING = {"type": "string"}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": STRING, "days": {"type": "integer"}}},
        },
    },
    {
        "type": "function",
        "function": {
            "name": "write_file",
            "parameters": {"type": "object", "properties": {"path": STRING, "content": STRING}},
        },
    },
]
BARE = {"Llama 3.1, 3.2, 3.3, 4", "Functionary 3.2"}  # calls are told from text by where they stand
THINKING = [family for family, each in FAMILIES.items() if each["thinking"]]
SEVERAL = [family for family, each in FAMILIES.items() if each["two"]]
QUICK = ("DeepSeek V4", "Gemma 4", "Kimi K2", "LFM2.5 8B", "Llama 3.1, 3.2, 3.3, 4", "Mistral Small 3.2")
ALL = quick_and_slow(QUICK, tuple(family for family in FAMILIES if family not in QUICK))


def mostly_slow(families: list[str]) -> list[Any]:
    return quick_and_slow(
        tuple(family for family in families if family in QUICK),
        tuple(family for family in families if family not in QUICK),
    )


def thinking_of(family: str, *, opened: bool = False) -> ThinkingDelimiters | None:
    if not (marks := FAMILIES[family]["thinking"]):
        return None
    starts = tool_format_of(format_of(family)).starts
    return ThinkingDelimiters(marks[0], marks[1], opened, answer=marks[2], calls=starts)


def play(family: str, parts: list[str], *, opened: bool = False, names: frozenset[str] | None = None) -> Any:
    """(thinking, text, calls)"""
    thinking = thinking_of(family, opened=opened)
    policy = ToolPolicy(
        tool_format_of(format_of(family)), names or frozenset({"get_weather", "write_file"}), TOOLS
    )
    filter = ChoiceFilter(ReasoningFilter(thinking) if thinking else None, call_filter(policy, "key"))
    shown = Shown()
    for part in parts:
        shown += filter.push(part)
    shown += filter.flush(closed=True)
    return shown.reasoning, shown.text, [(call.name, json.loads(call.arguments)) for call in shown.calls]


def cut_everywhere(family: str, text: str, **more: Any) -> Any:
    whole = play(family, [text], **more)
    assert play(family, list(text), **more) == whole
    for at in range(len(text)):
        assert play(family, [text[:at], text[at:]], **more) == whole, at
    return whole


@pytest.mark.parametrize("family", ALL)
def test_a_call_is_read_as_its_family_writes_it(family: str) -> None:
    assert cut_everywhere(family, FAMILIES[family]["one"]) == ("", "", [FIRST])


@pytest.mark.parametrize("family", mostly_slow(SEVERAL))
def test_two_calls_are_read_as_their_family_writes_them(family: str) -> None:
    assert cut_everywhere(family, FAMILIES[family]["two"]) == ("", "", [FIRST, SECOND])


@pytest.mark.parametrize("family", mostly_slow(sorted(set(FAMILIES) - BARE)))
def test_text_before_a_call_is_text(family: str) -> None:
    text = "Let me see.\n" + FAMILIES[family]["one"]
    assert cut_everywhere(family, text) == ("", "Let me see.", [FIRST])


@pytest.mark.parametrize("family", mostly_slow(THINKING))
def test_a_call_behind_thinking_is_read(family: str) -> None:
    opened, closed, _ = FAMILIES[family]["thinking"]
    text = f"{opened}\nhm, 1 < 2\n{closed}\n\n" + FAMILIES[family]["one"]
    assert cut_everywhere(family, text) == ("hm, 1 < 2\n", "", [FIRST])


@pytest.mark.parametrize("family", THINKING)
def test_an_answer_behind_thinking_has_no_mark(family: str) -> None:
    opened, closed, answer = FAMILIES[family]["thinking"]
    text = f"{opened}\nhm\n{closed}\n\n{answer}four"
    assert cut_everywhere(family, text) == ("hm\n", "four", [])


@pytest.mark.parametrize("family", mostly_slow(THINKING))
def test_a_call_ends_thinking_that_was_not_closed(family: str) -> None:
    text = "hm, 1 < 2\n" + FAMILIES[family]["one"]
    assert cut_everywhere(family, text, opened=True) == ("hm, 1 < 2\n", "", [FIRST])


def as_text(family: str, text: str) -> str:
    """Text that is no call; a mark that begins an answer's message too is not shown."""
    marks = FAMILIES[family]["thinking"] or ["", "", ""]
    begins = marks[2][: marks[2].rfind("<")]
    return text.removeprefix(begins) if begins else text


@pytest.mark.parametrize("family", ALL)
def test_a_call_that_is_cut_off_is_the_same_call_or_text(family: str) -> None:
    text = FAMILIES[family]["one"]
    for end in range(len(text)):
        _, shown, calls = play(family, [text[:end]])
        assert (shown, calls) in ((as_text(family, text[:end]), []), ("", [FIRST])), end


@pytest.mark.parametrize("family", FAMILIES)
def test_a_call_of_another_name_is_text(family: str) -> None:
    text = FAMILIES[family]["one"]
    assert play(family, [text], names=frozenset({"write_file"})) == ("", as_text(family, text), [])


@pytest.mark.parametrize("family", ALL)
@examples(15)
@given(data=st.data())
def test_any_calls_are_read_as_they_were_written_however_they_are_cut(
    family: str, data: st.DataObject
) -> None:
    format = format_of(family)
    calls = data.draw(st.lists(CALL, min_size=1, max_size=3 if family in SEVERAL and format.several else 1))
    text, tools = write(format, calls), tools_for(*calls)
    whole = read_in([text], format, tools)
    assert calls_of(whole) == wanted(calls)
    assert not whole.text.strip()
    assert (
        read_in(cut(text, data.draw(st.lists(st.integers(0, len(text)), max_size=12))), format, tools)
        == whole
    )


@pytest.mark.parametrize("family", ALL)
def test_a_template_that_writes_calls_as_the_family_does_tells_its_form(family: str) -> None:
    analysis = analyse(template_of(family))
    assert (analysis.tools, analysis.source, analysis.proved) == ("native", "template", True)
    assert analysis.format is not None
    hidden: dict[str, Any] = {"between": ""} if family.startswith("Llama") else {}
    assert analysis.format == replace(format_of(family), also=analysis.format.also, id=None, **hidden)
    if marks := FAMILIES[family]["thinking"]:
        assert analysis.thinking is not None
        assert [analysis.thinking.open, analysis.thinking.close, analysis.thinking.answer] == marks


# Models that write an id of their own, other quotes or another end than the history shows.
NOT_AS_RENDERED = {"Command R7B, Command A", "Kimi K3", "LFM2.5 8B", "Mistral Small 3.2", "Solar Open"}


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - NOT_AS_RENDERED))
def test_a_history_is_rendered_as_the_family_writes_it(family: str) -> None:
    history = [user(), calling([ProbeCall(*FIRST)], ids=["call00000"])]
    rendered = Rendering(template_of(family)).render(history, TOOLS)
    assert isinstance(rendered, str)
    assert "".join(FAMILIES[family]["one"].split()) in "".join(rendered.split())


def test_a_harmony_template_tells_its_form_and_its_channels() -> None:
    analysis = analyse(template_of(HARMONY))
    assert (analysis.tools, analysis.proved, analysis.demands.thoughts) == ("native", True, "thinking")
    assert analysis.thinking is not None
    assert analysis.thinking.open == "<|channel|>analysis<|message|>"


LLAMA = "Llama 3.1, 3.2, 3.3, 4"
PYTHON = 'get_weather(city="Paris", days=2)'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"[{PYTHON}]", ("", "", [FIRST])),
        (f"<|python_start|>[{PYTHON}, write_file(path='a.py', content='x')]", None),
        (f"[{PYTHON}", ("", f"[{PYTHON}", [])),
        ("[put(a=1)]", ("", "[put(a=1)]", [])),
        ("[1, 2] and more", ("", "[1, 2] and more", [])),
        ("[get_we", ("", "[get_we", [])),
        (PYTHON, ("", PYTHON, [])),
        (
            '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Paris", "days": 2}}',
            ("", "", [FIRST]),
        ),
        (
            '{"type": "function", "name": "get_weather", "parameters": {"city": "Paris", "days": 2}}',
            ("", "", [FIRST]),
        ),
        ('{"answer": 4}', ("", '{"answer": 4}', [])),
        ("The answer is 4.", ("", "The answer is 4.", [])),
    ],
)
def test_llama_s_calls_are_read_as_json_or_as_python(text: str, expected: Any) -> None:
    two = ("", "", [FIRST, ("write_file", {"path": "a.py", "content": "x"})])
    assert cut_everywhere(LLAMA, text) == (expected or two)
