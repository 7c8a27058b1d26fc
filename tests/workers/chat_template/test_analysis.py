"""Formats are derived and proved; thinking and its switches are found; a hostile template ends nothing but itself."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.workers.chat_template.formats import CALLS, found, rendering, template
from workers.chat_template.analysis import VERSION, TemplateAnalysis, analyse, digest_of, from_json, to_json
from workers.chat_template.call_format import NAME_HOLE, CallFormat
from workers.chat_template.families import FAMILIES
from workers.chat_template.proof import prove
from workers.chat_template.switches import SCALE, Switch, heard
from workers.chat_template.thinking import ThinkingMarks

AMBIGUOUS = {"whole end"}  # tags without escapes


@pytest.mark.parametrize("kind", CALLS)
def test_each_kind_of_call_is_derived_and_every_core_probe_is_read_as_it_was_rendered(kind: str) -> None:
    proof = prove(found(kind), rendering(kind))
    assert proof.proved and proof.native
    assert set(proof.limits) <= AMBIGUOUS


def test_marks_are_found_with_holes_for_what_differs() -> None:
    format = found("name + json, counted").format
    assert format.kind == "name_json"
    assert format.outer == ("<|calls_begin|>", "<|calls_end|>")
    assert format.opening == f"<|call_begin|>functions.{NAME_HOLE}:\ue103<|args|>"
    assert format.closing == "<|call_end|>"


def test_a_template_that_shows_calls_by_their_ids_alone_gets_ids_with_the_name() -> None:
    assert found("name by id").ids
    assert analyse(rendering("name by id").template).demands.ids == "functions"


def test_a_format_that_is_read_wrongly_is_not_native() -> None:
    """The template writes the first argument of a call only."""
    broken = "<tool_call>{{ {'name': m.tool_calls[0].function.name, 'arguments': "
    broken += "{'word': 'Paris', 'unit': 'C', 'zqkeyaq': 'zqvalueaq', 'zqkeybq': 'zqvaluebq'}} | tojson }}</tool_call>"
    analysis = analyse(template(broken))
    assert analysis.format is None and analysis.source == "ours"
    assert analysis.tools == "described"


def test_several_calls_that_are_dropped_or_refused_are_known() -> None:
    assert not found("json, no marks").format.several
    assert found("json").format.several


def test_an_analysis_travels_as_json_and_one_of_another_version_is_nothing() -> None:
    analysis = analyse(rendering("loose").template, ["<think>", "</think>"])
    assert from_json(to_json(analysis)) == analysis
    assert from_json(to_json(analysis).replace(f'"version":{VERSION}', '"version":1')) is None
    assert digest_of("a", ["b"]) != digest_of("a") != digest_of("b")


CONTENT = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"


def test_a_template_without_tools_gets_them_described() -> None:
    analysis = analyse(CONTENT + "{% if add_generation_prompt %}<|assistant|>{% endif %}")
    assert (analysis.tools, analysis.format, analysis.source) == ("described", None, "ours")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.names)
def test_a_template_that_shows_tools_and_no_calls_takes_its_family_from_the_marks(family: Any) -> None:
    shows = "{{ tools | tojson if tools else '' }}" + CONTENT
    analysis = analyse(shows, family.marks)
    assert analysis.source == "table"
    assert analysis.tools == "native"
    assert analysis.format is not None


@pytest.mark.parametrize(
    ("example", "key"),
    [
        ("<tool_call>name\n<arg_key>key</arg_key>\n<arg_value>value</arg_value>\n</tool_call>", "<arg_key>"),
        (
            "<tool_call>\n<function=name>\n<parameter=key>\nvalue\n</parameter>\n</function>\n</tool_call>",
            "<parameter=",
        ),
        ('<tool_call>\n{"name": "name"}\n</tool_call>', ""),
    ],
)
def test_a_template_that_shows_an_example_and_no_past_calls_is_called_as_in_its_example(
    example: str, key: str
) -> None:
    analysis = analyse(
        "{{ tools | tojson ~ EXAMPLE if tools else '' }}".replace("EXAMPLE", repr(example)) + CONTENT
    )
    assert analysis.format is not None
    assert key in analysis.format.key and bool(key) == bool(analysis.format.key)


# ---------------------------------------------------------------- thinking

THINKS = """\
{%- for m in messages -%}
{%- if m.role == 'assistant' -%}<|assistant|>
{% if m.reasoning_content %}<think>
{{ m.reasoning_content }}
</think>

{% endif %}{{ m.content }}<|end|>
{%- else -%}<|{{ m.role }}|>{{ m.content }}<|end|>{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% elif start_thinking %}<think>
{% endif %}{%- endif -%}"""
CHANNELS = THINKS.replace("<think>\n", "<|channel>thought\n").replace("\n</think>\n\n", "<channel|>")
PROMPTED = CONTENT + "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
ANSWERS = THINKS.replace("{% endif %}{{ m.content }}", "{% endif %}<response>{{ m.content }}</response>")
SPLIT = "{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] }}<|end|>{% endfor %}"


@pytest.mark.parametrize(
    ("template", "tokens", "marks"),
    [
        (THINKS, [], ThinkingMarks("<think>", "</think>", evidence="rendered")),
        (CHANNELS, [], ThinkingMarks("<|channel>thought", "<channel|>", evidence="rendered")),
        (ANSWERS, [], ThinkingMarks("<think>", "</think>", "<response>", "rendered", "</response>")),
        (PROMPTED, [], ThinkingMarks("<think>", "</think>", evidence="prompt")),
        (SPLIT, [], ThinkingMarks("<think>", "</think>", evidence="split")),
        (CONTENT, ["[THINK]", "[/THINK]"], ThinkingMarks("[THINK]", "[/THINK]", evidence="vocabulary")),
        (CONTENT, [], None),
    ],
)
def test_what_opens_and_closes_thinking_is_found(
    template: str, tokens: list[str], marks: ThinkingMarks | None
) -> None:
    assert analyse(template, tokens).thinking == marks


def test_the_switches_of_thinking_are_found_with_what_turns_it_off() -> None:
    analysis = analyse(THINKS)
    assert analysis.state == "free"
    assert set(analysis.switches) == {"enable_thinking", "start_thinking"}
    assert analysis.switches["enable_thinking"].off is False
    assert analysis.switches["start_thinking"].on is True


@pytest.mark.parametrize(
    ("said", "given"),
    [
        ({"enable_thinking": False}, "disabled"),
        ({"thinking": True}, "enabled"),
        ({"reasoning_effort": "none"}, "disabled"),
        ({}, None),
    ],
)
def test_a_wish_reaches_the_switch_that_the_template_has(said: dict[str, Any], given: str | None) -> None:
    listens = THINKS.replace(
        "enable_thinking is defined and not enable_thinking", "thinking_mode == 'disabled'"
    )
    listens = listens.replace("start_thinking", "thinking_mode == 'enabled'")
    assert heard(said, analyse(listens).switches).get("thinking_mode") == given


EFFORTS = ("low", "medium", "high")


@pytest.mark.parametrize(
    ("said", "switches", "given"),
    [
        ({"enable_thinking": False}, {"reasoning_effort": Switch(EFFORTS)}, {"reasoning_effort": "low"}),
        ({"enable_thinking": False}, {"reasoning_effort": Switch(EFFORTS, on="low")}, {}),
        (
            {"enable_thinking": True, "reasoning_effort": "high"},
            {"thinking": Switch((False,), False), "thinking_effort": Switch(EFFORTS, on="low")},
            {"thinking_effort": "high"},
        ),
        (
            {"enable_thinking": True, "reasoning_effort": "low"},
            {"reasoning_strength": Switch(EFFORTS)},
            {"reasoning_strength": "low"},
        ),
        (
            {"enable_thinking": True, "reasoning_effort": "medium"},
            {"thinking_budget": Switch((False, 0, 1024), False)},
            {"thinking_budget": 2048},
        ),
        (
            {"enable_thinking": False},
            {"thinking_budget": Switch((False, 0, 1024), 0)},
            {"thinking_budget": 0},
        ),
        ({"enable_thinking": True}, {"thinking": Switch((True,))}, {"thinking": True}),
        ({"thinking": True, "enable_thinking": True}, {"thinking": Switch((True,))}, {}),
    ],
)
def test_an_effort_reaches_what_the_template_listens_to(
    said: dict[str, Any], switches: dict[str, Switch], given: dict[str, Any]
) -> None:
    assert heard(said, switches) == {**said, **given}


CHOSEN = "{% if e not in ['low', 'high'] %}{{ raise_exception('effort') }}{% endif %}{{ e }}"
DEFAULT = "{% set e = reasoning_effort | default('xhigh') %}"
SAYS = {
    "any word": "Effort: {{ reasoning_effort or 'medium' }}",
    "two words": "{% set e = reasoning_effort or 'low' %}" + CHOSEN,
    "three, of which one is its own": DEFAULT + CHOSEN.replace("'high'", "'medium', 'xhigh'"),
    "only what is longer": "{{ 'long' if reasoning_effort == 'max' }}{{ 'short' if reasoning_effort == 'high' }}",
    "a switch for little": "{{ 'short' if low_effort }}",
    "nothing": "",
}


@pytest.mark.parametrize(
    ("what", "given"),
    [
        ("any word", "low low medium high high high"),
        ("two words", "low low high high high high"),
        ("three, of which one is its own", "low low medium xhigh xhigh xhigh"),
        ("only what is longer", "high high high high max max"),
    ],
)
def test_an_effort_becomes_the_nearest_that_the_template_takes(what: str, given: str) -> None:
    analysis = analyse(SAYS[what] + CONTENT)
    heard_of = [
        heard({"reasoning_effort": effort}, analysis.switches)["reasoning_effort"] for effort in SCALE
    ]
    assert heard_of == given.split()


def test_a_switch_for_little_effort_is_not_turned_on_by_much() -> None:
    switches = analyse(SAYS["a switch for little"] + CONTENT).switches
    assert [heard({"reasoning_effort": effort}, switches).get("low_effort") for effort in SCALE] == [
        *(True, True),
        *[None] * 4,
    ]


def test_a_template_of_which_nothing_is_known_gets_efforts_that_most_know() -> None:
    assert [heard({"reasoning_effort": effort}, {})["reasoning_effort"] for effort in ("minimal", "max")] == [
        "low",
        "high",
    ]


# ---------------------------------------------------------------- hostile templates

HOSTILE = {
    "cannot be parsed": "{% for %}",
    "raises on everything": "{{ raise_exception('no') }}",
    "fails on everything": "{{ messages.nothing.here }}",
    "deep": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "long": "{% for i in range(99999) %}{{ 'a' * 10000 }}{% endfor %}",
    "all memory": "{{ 'a' * 10**10 }}",
    "echoes": "{{ messages }}{{ tools }}",
    "echoes calls twice": "{% for m in messages %}{{ m.tool_calls }}{{ m.tool_calls }}{{ m.content }}{% endfor %}",
    "says nothing": "",
    "random case": "{% for m in messages %}{{ m | string | upper }}{% endfor %}",
}


def test_a_hostile_template_gives_an_analysis_without_a_format() -> None:
    """In a process of its own, with less memory than one of them asks for."""
    program = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
        "from workers.chat_template.analysis import analyse, to_json\n"
        "for template in sys.argv[1:]: print(to_json(analyse(template)))"
    )
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", program, *HOSTILE.values()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=root, check=False)
    assert ended.returncode == 0, ended.stderr[-500:]
    for what, line in zip(HOSTILE, ended.stdout.splitlines(), strict=True):
        analysis = from_json(line)
        assert analysis is not None
        assert analysis.tools == "described" or what.startswith("echoes"), what


def test_nothing_known_means_our_own_words() -> None:
    assert TemplateAnalysis().tools == "described"
    assert CallFormat("json").marks == ()
