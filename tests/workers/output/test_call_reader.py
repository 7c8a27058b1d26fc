"""Calls of every kind are read as they were rendered, however the text is cut; what is no call stays text, whole."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.marks import examples, quick_and_slow
from tests.workers.chat_template.formats import CALLS, found, rendering
from workers.chat_template.assistant_text import AssistantTurns
from workers.chat_template.call_format import CallFormat
from workers.chat_template.environment import Raised
from workers.chat_template.format_search import ids_for
from workers.chat_template.marks import tokens_of
from workers.chat_template.probes import ProbeCall, tools_for
from workers.output.call_reader import CallReader, Read

QUICK = ("json", "list", "loose", "name + json, counted", "pythonic", "tagged, lines", "tagged, typed")
KINDS = quick_and_slow(QUICK, tuple(kind for kind in CALLS if kind not in QUICK))
MARKS = [
    *(
        "</parameter>",
        "</function>",
        "</tool_call>",
        "<tool_call>",
        "<|tool_call>",
        "</arg_value>",
        "<arg_key>",
    ),
    *("]]>", "<![CDATA[", "[ARGS]", "<|call_end|>", "')", "})", '"}', '<|"|', "}}", "]", "</dsml:parameter>"),
]
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00<>[]\"'"), max_size=12)
STRINGS = st.one_of(
    WORDS,
    st.sampled_from(
        [
            "'",
            '"',
            "\\",
            "\\n",
            "a\nb",
            "\u2028",
            "it's",
            'say "so"',
            "C:\\x",
            "true",
            "null",
            "[1]",
            '{"a": 1}',
        ]
    ),
    st.tuples(WORDS, st.sampled_from(MARKS), WORDS.filter(str.strip)).map("".join),
)
NUMBERS = st.one_of(st.integers(-(10**20), 10**20), st.floats(allow_nan=False, allow_infinity=False))
TYPED = {  # each key has values of one type, as one schema says it
    "path": STRINGS,
    "text": STRINGS,
    "n": st.integers(-(10**20), 10**20),
    "größe": st.floats(allow_nan=False, allow_infinity=False),
    "a_b": st.lists(st.integers(0, 9), min_size=1, max_size=3),
    "loud": st.booleans(),
    "where": st.fixed_dictionaries(
        {"x": STRINGS.filter(lambda text: text == text.strip()), "y": NUMBERS.map(float)}
    ),
}
ARGUMENTS = st.fixed_dictionaries({}, optional=TYPED)
CALL = st.builds(ProbeCall, st.sampled_from(["get", "get_more", "mcp.read-it"]), ARGUMENTS)


def written(kind: str, calls: list[ProbeCall], text: str = "") -> tuple[str, list[Any]]:
    """What a model writes in a turn of these calls, and the tools it has."""
    tools = tools_for(*calls)
    turns = AssistantTurns(rendering(kind), tools)
    turn = turns.calls(calls, ids_for(calls, found(kind).ids), text)
    assert not isinstance(turn, Raised), turn
    return turn.text, tools


def read_in(pieces: list[str], format: CallFormat, tools: list[Any]) -> Read:
    reader = CallReader(format, tools)
    read = Read()
    for piece in pieces:
        read += reader.push(piece)
    return read + reader.flush()


def calls_of(read: Read) -> list[tuple[str, Any]]:
    return [(name, exact(json.loads(arguments))) for name, arguments in read.calls]


def wanted(calls: list[ProbeCall]) -> list[tuple[str, Any]]:
    return [(call.name, exact(dict(call.arguments))) for call in calls]


def exact(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def cut(text: str, at: list[int]) -> list[str]:
    ends = sorted({min(each, len(text)) for each in at})
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]


@pytest.mark.parametrize("kind", KINDS)
@examples(15)
@given(data=st.data())
def test_rendered_calls_are_read_as_they_were_however_the_text_is_cut(kind: str, data: st.DataObject) -> None:
    several = found(kind).format.several
    calls = data.draw(st.lists(CALL, min_size=1, max_size=3 if several else 1))
    text, tools = written(kind, calls)
    whole = read_in([text], found(kind).format, tools)
    assert calls_of(whole) == wanted(calls)
    assert not whole.text.strip()
    pieces = cut(text, data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    assert read_in(pieces, found(kind).format, tools) == whole


@pytest.mark.parametrize("kind", KINDS)
@examples(10)
@given(data=st.data())
def test_a_cut_off_text_never_gives_another_call(kind: str, data: st.DataObject) -> None:
    calls = data.draw(st.lists(CALL, min_size=1, max_size=2 if found(kind).format.several else 1))
    text, tools = written(kind, calls)
    for end in range(0, len(text), 1 + len(text) // 30):
        read = read_in([text[:end]], found(kind).format, tools)
        assert calls_of(read) == wanted(calls)[: len(read.calls)]
        if not read.calls:
            assert read.text == text[:end]


@pytest.mark.parametrize("kind", KINDS)
@examples(10)
@given(data=st.data())
def test_blanks_and_a_missing_first_or_last_mark_give_the_same_call_or_text(
    kind: str, data: st.DataObject
) -> None:
    arguments = {"n": data.draw(st.integers(1, 99)), "path": data.draw(st.sampled_from(["a", "x y"]))}
    call = ProbeCall("get", arguments)
    text, tools = written(kind, [call])
    tokens = tokens_of(text)
    change = data.draw(st.sampled_from(["first", "last", "double", "remove"]))
    at = data.draw(st.integers(0, len(tokens) - 1))
    if change in ("first", "last"):
        tokens = tokens[1:] if change == "first" else tokens[:-1]
    elif tokens[at].isspace() and "".join(tokens[:at]).rstrip().endswith(">"):
        tokens[at] = "\n\n" if change == "double" else ""
    changed = "".join(tokens)
    read = read_in([changed], found(kind).format, tools)
    if read.calls:
        values = {
            key: value.strip() if isinstance(value, str) else value
            for key, value in json.loads(read.calls[0][1]).items()
        }
        assert values == arguments
    else:
        assert read.text == changed


@pytest.mark.parametrize("kind", KINDS)
@examples(10)
@given(
    noise=st.lists(st.one_of(st.sampled_from(MARKS), WORDS, st.just("get"), st.just('{"a": 1')), max_size=8),
    data=st.data(),
)
def test_text_without_a_call_is_shown_whole(kind: str, noise: list[str], data: st.DataObject) -> None:
    text, (_, tools) = "".join(noise), written(kind, [ProbeCall("get", {})])
    read = read_in(
        cut(text, data.draw(st.lists(st.integers(0, len(text)), max_size=5))), found(kind).format, tools
    )
    if not read.calls:
        assert read.text == text


@pytest.mark.parametrize("kind", sorted(set(CALLS) - {"json, no marks"}))
def test_text_before_a_call_is_shown_at_once(kind: str) -> None:
    text, tools = written(kind, [ProbeCall("get", {"path": "x"})], "Let me see.")
    reader = CallReader(found(kind).format, tools)
    assert reader.push("Let me see.").text == "Let me see."
    read = reader.push(text.removeprefix("Let me see.")) + reader.flush()
    assert calls_of(read) == [("get", exact({"path": "x"}))]
    assert not read.text


@pytest.mark.parametrize("kind", CALLS)
def test_a_name_that_the_request_does_not_have_is_text(kind: str) -> None:
    text, tools = written(kind, [ProbeCall("get", {"path": "x"})])
    unknown = text.replace("get", "put")
    assert read_in([unknown], found(kind).format, tools) == Read(unknown)


def read_one(kind: str, text: str, **properties: Any) -> Read:
    schema = {"type": "object", "properties": properties}
    tools = [{"type": "function", "function": {"name": "get", "parameters": schema}}]
    return read_in([text], found(kind).format, tools)


STRING, NUMBER = {"type": "string"}, {"type": "integer"}

ALMOST = {
    "a raw line break in a string": '{"name": "get", "arguments": {"a": "x\ny"}}',
    "a comma too many": '{"name": "get", "arguments": {"a": "x\\ny",}}',
    "single quotes": "{'name': 'get', 'arguments': {'a': 'x\\ny'}}",
    "a bracket too many": '{"name": "get", "arguments": {"a": "x\\ny"}}}',
    "a bracket missing": '{"name": "get", "arguments": {"a": "x\\ny"}',
    "parameters": '{"name": "get", "parameters": {"a": "x\\ny"}}',
    "arguments first": '{"arguments": {"a": "x\\ny"}, "name": "get"}',
    "arguments as text": '{"name": "get", "arguments": "{\\"a\\": \\"x\\\\ny\\"}"}',
    "a list": '[{"name": "get", "arguments": {"a": "x\\ny"}}]',
}


@pytest.mark.parametrize("what", ALMOST)
def test_almost_valid_json_arguments_are_repaired(what: str) -> None:
    read = read_one("json", f"<tool_call>\n{ALMOST[what]}\n</tool_call>")
    assert calls_of(read) == [("get", exact({"a": "x\ny"}))]


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        "[]",
        "null",
        '{"name": "get", "arguments": [1]}',
        '{"name": "get", "arguments": {"a": NaN}}',
        '{"name": 1}',
    ],
)
def test_json_that_is_no_call_is_text(body: str) -> None:
    text = f"<tool_call>{body}</tool_call> behind"
    assert read_one("json", text) == Read(text)


def test_a_missing_end_mark_behind_an_argument_loses_nothing() -> None:
    text = "<tool_call>\n<function=get>\n<parameter=a>\nx y\n<parameter=n>\n3\n</function>\n</tool_call>"
    read = read_one("tagged, lines", text, a=STRING, n=NUMBER)
    assert calls_of(read) == [("get", exact({"a": "x y", "n": 3}))]


@pytest.mark.parametrize(
    ("schema", "value", "meant"),
    [
        (NUMBER, "3", 3),
        (NUMBER, "three", "three"),
        (STRING, "3", "3"),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": ["string", "integer"]}, "3", "3"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "3", 3),
        ({"$ref": "#/$defs/n"}, "3", 3),
        ({"enum": [1, 2]}, "2", 2),
        ({"enum": ["1", "2"]}, "2", "2"),
        ({"type": "boolean"}, "True", True),
        ({"type": "array"}, "['a', 'b']", ["a", "b"]),
        ({"type": "object"}, '{"a": ', '{"a": '),
        ({}, "3", 3),
        ({}, "three", "three"),
    ],
)
def test_the_schema_says_what_a_value_without_a_type_means(schema: Any, value: str, meant: Any) -> None:
    parameters = {"type": "object", "properties": {"a": schema}, "$defs": {"n": NUMBER}}
    tools = [{"type": "function", "function": {"name": "get", "parameters": parameters}}]
    text = f"<tool_call>\n<function=get>\n<parameter=a>\n{value}\n</parameter>\n</function>\n</tool_call>"
    read = read_in([text], found("tagged, lines").format, tools)
    assert calls_of(read) == [("get", exact({"a": meant}))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "argument"),
    [
        ("tagged, lines", "{<a>\n" * 20_000),
        ("json", '{"}' * 20_000),
        ("pythonic", {"old": "{<a>\n" * 20_000}),
        ("loose", [{"old": "{<a>\n", "new": "it"}] * 4_000),
    ],
)
def test_a_long_argument_is_read_in_linear_time(kind: str, argument: Any) -> None:
    """Pieces of four characters: a reader that begins anew with each piece would take minutes."""
    text, tools = written(kind, [ProbeCall("get", {"text": argument})])
    read = read_in(re.findall(r"(?s).{1,4}", text), found(kind).format, tools)
    assert calls_of(read) == [("get", exact({"text": argument}))]


@pytest.mark.slow
def test_blanks_without_end_take_no_time() -> None:
    """Small models write newline after newline."""
    read = read_in(
        ["<tool_call>", *["\n"] * 55_000, "x"], found("json").format, tools_for(ProbeCall("get", {}))
    )
    assert read.text.endswith("x")


def test_a_string_in_other_quotes_is_read_in_linear_time() -> None:
    text, tools = written("pythonic", [ProbeCall("get", {"text": "word " * 30_000})])
    text = text.replace('"', "'")
    assert len(read_in(re.findall(r"(?s).{1,4}", text), found("pythonic").format, tools).calls) == 1


def test_a_quote_in_a_key_without_quotes_loses_no_call() -> None:
    call = ProbeCall("get", {"where": {"it's": "x"}})
    text, tools = written("loose", [call])
    assert calls_of(read_in(list(text), found("loose").format, tools)) == wanted([call])
