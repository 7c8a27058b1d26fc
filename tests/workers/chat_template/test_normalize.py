"""Whatever clients send, strict templates and lenient ones: it renders, and no word is lost in silence."""

import copy
from functools import cache
from typing import Any

import pytest

from tests.workers.chat_template.conversations import CONVERSATIONS, TOOLS, assistant, call, result, user
from tests.workers.chat_template.formats import CALLS, rendering, template
from workers.chat_template.demands import Demands, find_demands
from workers.chat_template.environment import Rendering
from workers.chat_template.format_search import FoundFormat, find_format
from workers.chat_template.histories import repaired
from workers.chat_template.normalize import normalize
from workers.chat_template.schemas import plain_tools

_TEXT = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
_ALTERNATE = """\
{%- set ns = namespace(turn='user') -%}
{%- for m in messages[(1 if messages[0].role == 'system' else 0):] -%}
{%- if m.role in ('user', 'assistant') and not m.tool_calls -%}
{%- if m.role != ns.turn -%}{{ raise_exception('roles must alternate') }}{%- endif -%}
{%- set ns.turn = 'assistant' if ns.turn == 'user' else 'user' -%}
{%- elif m.role == 'system' -%}{{ raise_exception('one system message') }}{%- endif -%}
{%- for c in m.tool_calls or [] -%}
{%- if c.id | length != 9 -%}{{ raise_exception('nine letters') }}{%- endif -%}
{%- endfor -%}
{%- endfor -%}"""
_UNLESS_LATE = "{% if m.role != 'system' or loop.first %}{{ m.content }}{% endif %}"
_TYPES = "{% for p in t.function.parameters.properties.values() %}{{ p.type + p.description }}{% endfor %}"
_JSON = CALLS["json"]
STRICT = {
    "alternating, ids of nine letters": _ALTERNATE + template(_JSON),
    "no system": "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}{% endfor %}"
    + template(_JSON),
    "first system only": template(_JSON).replace(
        "{{ m.content }}<|end|>\n{% endif",
        _UNLESS_LATE + "<|end|>\n{% endif",
    ),
    "first of all": _TEXT.replace("{{ m.content }}", _UNLESS_LATE),
    "one call": template(CALLS["json, no marks"], bare=True),
    "no tools": _TEXT,
    "no tool role": "{% for m in messages %}{% if m.role not in ('user', 'assistant', 'system') %}"
    "{{ raise_exception('role') }}{% endif %}{% endfor %}" + _TEXT,
    "parts only": "{% for m in messages %}<|{{ m.role }}|>"
    "{% for p in m.content %}{% if p is mapping %}{{ p.text }}{% endif %}{% endfor %}{% endfor %}",
    "arguments as text": template(CALLS["json"].replace("f.arguments}", "f.arguments + ''}")),
    "ids with names": template(CALLS["name by id"]),
    "content that is no text": template(_JSON).replace(
        "{{ m.content }}<|end|>", "{{ m.content + '' }}<|end|>"
    ),
    "names with results": template(_JSON).replace(
        "<|tool|>\n", "<|tool|>\n{% if not m.name %}{{ raise_exception('name') }}{% endif %}"
    ),
    "one type": template(_JSON).replace(
        "{{ tools | tojson }}", "{% for t in tools %}{{ t | tojson }}" + _TYPES + "{% endfor %}"
    ),
    "ids of nine letters or more": template(_JSON).replace(
        "{%- for c in m.tool_calls %}",
        "{%- for c in m.tool_calls %}{% if c.id | length < 9 %}{{ raise_exception('nine') }}{% endif %}",
    ),
    "a user somewhere": "{% if not messages | selectattr('role', 'equalto', 'user') | list %}"
    "{{ raise_exception('no user') }}{% endif %}" + template(_JSON),
    "words in every answer": template(_JSON).replace(
        "<|assistant|>\n",
        "{% if not (m.content or m.tool_calls) %}{{ raise_exception('empty') }}{% endif %}<|assistant|>\n",
        1,
    ),
    "tools in the first user's turn": "{% if tools %}{{ messages[0].content }}"
    "{% set messages = messages[1:] %}{% endif %}" + template(_JSON),
    "calls beside tools only": template(_JSON).replace(
        "{%- if m.tool_calls %}", "{%- if m.tool_calls and tools %}"
    ),
    "system beside the first turn": "{% if messages[0].role == 'system' %}<|user|>{{ messages[0].content }}"
    "{{ messages[1].content }}{% set messages = messages[2:] %}{% endif %}" + template(_JSON),
    "past thinking is cut off": template(_JSON).replace(
        "{{ m.content or '' }}", "{{ (m.content or '').split('</think>')[-1] }}"
    ),
    "users alternate around systems": "{% set ns = namespace(last='') %}{% for m in messages %}"
    "{% if m.role == 'user' and ns.last == 'user' %}{{ raise_exception('alternate') }}{% endif %}"
    "{% if m.role != 'system' %}{% set ns.last = m.role %}{% endif %}{% endfor %}" + template(_JSON),
    "text beside the first call only": "{% set ns = namespace(behind=false) %}"
    + template(_JSON)
    .replace("{{ m.content or '' }}", "{{ (m.content or '') if not (ns.behind and m.tool_calls) }}")
    .replace("<|tool|>\n", "<|tool|>\n{% set ns.behind = true %}"),
    "schemas with descriptions": template(_JSON).replace(
        "{{ tools | tojson }}",
        "{% for t in tools %}{{ t | tojson }}{% for p in (t.function.parameters.properties or {}).values() %}"
        "{{ 'x' + p.get('description', '') }}{% endfor %}{% endfor %}",
    ),
    "system in the last turn if it is a user's": "{% set ns = namespace(s='') %}{% if messages[0].role == 'system' %}"
    "{% set ns.s = messages[0].content %}{% set messages = messages[1:] %}{% endif %}"
    + template(_JSON)
    + "{% if messages and messages[-1].role == 'user' %}{{ ns.s }}{% endif %}",
    "tools that are a list": "{% for t in tools %}{{ t | tojson }}{% endfor %}" + template(_JSON),
}
TEMPLATES = {**STRICT, **{kind: rendering(kind).template for kind in ("json", "tagged, lines", "list")}}


@cache
def asked(what: str) -> tuple[Rendering, Demands]:
    renders = Rendering(TEMPLATES[what])
    found = find_format(renders)
    return renders, find_demands(renders, found if isinstance(found, FoundFormat) else None)


@pytest.mark.parametrize("what", TEMPLATES)
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["no tools", "tools"])
def test_any_history_renders_and_every_word_is_in_the_prompt_or_said_to_be_left_out(
    what: str, tools: Any
) -> None:
    renders, demands = asked(what)
    for name, (messages, words) in CONVERSATIONS.items():
        before = copy.deepcopy(messages)
        fitted = normalize(messages, tools, demands)
        prompt = renders.render(fitted.messages, fitted.tools, prompt=True)
        assert isinstance(prompt, str), (name, prompt)
        said = prompt + " ".join(text for _, text in fitted.left_out)
        assert [word for word in words if word not in said] == [], name
        assert messages == before, name


@pytest.mark.parametrize("what", TEMPLATES)
def test_normalizing_a_normalized_history_changes_nothing(what: str) -> None:
    _, demands = asked(what)
    for name, (messages, _) in CONVERSATIONS.items():
        once = normalize(messages, TOOLS, demands)
        twice = normalize(once.messages, once.tools, demands)
        assert (twice.messages, twice.tools) == (once.messages, once.tools), name


def test_messages_that_a_template_takes_are_not_changed() -> None:
    _, demands = asked("json")
    messages = [
        user("a"),
        assistant("b", {**call("get", {"x": 1}), "id": "call_1"}),
        result("c", "call_1", name="get"),
        user("d"),
    ]
    assert normalize(messages, None, demands).messages == messages


def test_results_stand_behind_their_calls_with_their_ids_and_names() -> None:
    _, demands = asked("alternating, ids of nine letters")
    messages = CONVERSATIONS["several calls"][0]
    turns = normalize(messages, TOOLS, demands).messages
    ids = [each["id"] for each in turns[1]["tool_calls"]]
    assert all(len(id) == 9 and id.isalnum() for id in ids) and len(set(ids)) == 2
    results = [turn for turn in turns if turn["role"] == "tool"]
    assert [(each["tool_call_id"], each["name"]) for each in results] == [
        (ids[1], "weather"),
        (ids[0], "weather"),
    ]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking"])
def test_past_thinking_is_kept_under_whichever_name_it_comes(name: str) -> None:
    thinks = "{% for m in messages %}{{ m.content }}{{ m.reasoning_content or '' }}{% endfor %}"
    renders = Rendering(thinks)
    demands = find_demands(renders, None)
    fitted = normalize([user("a"), assistant("b", **{name: "deep"}), user("c")], None, demands)
    assert fitted.messages[1] == {"role": "assistant", "content": "b", "reasoning_content": "deep"}
    assert fitted.left_out == []


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ('{"a": 1}', {"a": 1}),
        ({"a": 1}, {"a": 1}),
        ('{"city": "Par', {"city": "Par"}),
        ('{"city": "Par\\', {"city": "Par"}),
        ('{"a": {"b": [1, 2', {"a": {"b": [1, 2]}}),
        ('{"a": tr', None),
        ('{"a"', {"a": None}),
        ("", {}),
        (None, {}),
        ("null", {}),
        ("[1]", {"arguments": [1]}),
        ("Paris", {"arguments": "Paris"}),
        ("{'a': True,}", {"a": True}),
    ],
)
def test_malformed_arguments_of_past_calls_are_repaired(arguments: Any, meant: Any) -> None:
    assert repaired(arguments) == (meant if meant is not None else {"arguments": arguments})


def test_plain_schemas_are_plain_at_every_level_and_the_callers_stay() -> None:
    before = copy.deepcopy(TOOLS)
    plain = plain_tools(TOOLS)
    properties = plain[0]["function"]["parameters"]["properties"]
    assert {key: each["type"] for key, each in properties.items()} == {
        "city": "string",
        "units": "string",
        "more": "object",
        "any": "string",
        "list": "array",
    }
    assert properties["list"]["items"]["properties"] == {"n": {"type": "integer", "description": ""}}
    assert plain_tools(plain) == plain
    assert before == TOOLS
