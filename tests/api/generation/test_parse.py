"""Request bodies that are parsed, and those that are refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from api.generation.parse import parse
from api.http.errors import InvalidField, OpenAIErrors, answer_to
from api.http.json_limits import SMALL, check_json_limits
from api.openai.schemas import ChatCompletionRequest, CompletionRequest, ErrorResponse
from tests.api.conftest import chat_body

FUNCTION = {"type": "function", "function": {"name": "f"}}


def refusal(data: bytes) -> InvalidField:
    with pytest.raises(InvalidField) as caught:
        parse(data, ChatCompletionRequest)
    return caught.value


def chat_refusal(**fields: Any) -> InvalidField:
    return refusal(json.dumps(chat_body(**fields)).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b'{"model": "x", "messages": [',
        b"[]",
        b"null",
        b'{"model":"\xff\xfe"}',
        b'{"temperature": NaN}',
        b'{"temperature": -Infinity}',
        b'{"x": "\\ud800 cat"}',
        b'{"x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"x": ' + b"[" * 64 + b"]" * 64 + b"}",
        b'{"x": ' + b'{"x": ' * 64 + b"1" + b"}" * 65,
        b'{"x": ' + b"1" * 5000 + b"}",
    ],
)
def test_a_body_that_is_not_strict_json_is_a_400(data: bytes) -> None:
    error = refusal(data)
    assert (error.status, error.param) == (400, None)


def test_brackets_in_text_do_not_count_as_nesting() -> None:
    parts = [{"type": "text", "text": "[{" * 10}] * 100
    parse(
        json.dumps(chat_body(messages=[{"role": "user", "content": parts}])).encode(), ChatCompletionRequest
    )


WIDE = [
    b"[]," * 100_000,
    b'{"a":1},' * 100_000,
    b'"a",' * 300_000,
    b"1," * 1_100_000,
    b"9" * 401 + b" " * SMALL + b",",
]


@pytest.mark.parametrize("inside", WIDE, ids=["lists", "objects", "strings", "numbers", "digits"])
def test_a_body_with_too_many_values_is_refused_before_it_is_parsed(inside: bytes) -> None:
    data = json.dumps(chat_body())[:-1].encode() + b', "x": [' + inside + b"0]}"
    with pytest.raises(InvalidField, match=r"The request body has (more than|a number)"):
        check_json_limits(data)
    assert refusal(data).code == "invalid_json"


@given(st.text(alphabet='"\\\\[{,1', max_size=40))
def test_the_contents_of_json_strings_are_not_counted(text: str) -> None:
    data = json.dumps({"x": [text] * 4000, "y": " " * SMALL}).encode()
    check_json_limits(data)


def test_a_long_prompt_of_brackets_quotes_and_digits_is_accepted() -> None:
    content = '[{"a": 1, "b": [\\\\]}] ' * 100_000 + "7" * 1000
    data = json.dumps(chat_body(messages=[{"role": "user", "content": content}])).encode()
    assert parse(data, ChatCompletionRequest).messages[0].content == content


def test_a_body_may_begin_with_a_byte_order_mark() -> None:
    parse(b"\xef\xbb\xbf" + json.dumps(chat_body()).encode(), ChatCompletionRequest)


def test_a_body_nested_64_levels_deep_is_accepted() -> None:
    body = json.dumps(chat_body())[:-1] + ', "x": ' + "[" * 63 + "]" * 63 + "}"
    parse(body.encode(), ChatCompletionRequest)


def test_the_last_of_duplicate_json_keys_counts() -> None:
    assert parse(b'{"prompt": "a", "prompt": "b"}', CompletionRequest).prompt == "b"


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": 9}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": "hi"}, "messages", "invalid_type"),
        ({"messages": ["hi"]}, "messages[0]", "invalid_type"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "missing_required_parameter"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
            "messages[0].content[0].text",
            "invalid_type",
        ),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0]", "invalid_type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "hologram"}]}]},
            "messages[0].content[0].type",
            "invalid_value",
        ),
        (
            {"messages": [{"role": "user", "content": [{"text": "x"}]}]},
            "messages[0].content[0].type",
            "missing_required_parameter",
        ),
        ({"tools": [FUNCTION], "tool_choice": {"type": "custom"}}, "tool_choice.type", "invalid_value"),
        (
            {"tools": [FUNCTION], "tool_choice": {"type": "function"}},
            "tool_choice.function",
            "missing_required_parameter",
        ),
        ({"tools": [{"type": "custom"}]}, "tools[0].type", "invalid_value"),
        ({"stop": ["a", 5]}, "stop[1]", "invalid_type"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x", "invalid_value"),
        ({"stream_options": {}}, "stream_options", "invalid_value"),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            "missing_required_parameter",
        ),
    ],
)
def test_an_error_names_the_field_with_its_path(fields: dict[str, Any], param: str, code: str) -> None:
    error = chat_refusal(**fields)
    assert (error.status, error.param, error.code) == (400, param, code)
    assert param in error.message


def test_an_error_says_what_is_allowed_and_what_was_sent() -> None:
    assert chat_refusal(temperature=9).message == (
        "Invalid value for 'temperature': it must be less than or equal to 2 (got 9)."
    )


def test_an_error_never_repeats_a_prompt() -> None:
    assert "secret" not in chat_refusal(messages="secret " * 20).message


def test_an_error_body_has_all_four_keys() -> None:
    body = OpenAIErrors().body(answer_to(chat_refusal(n=0)), "req_1")
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    assert ErrorResponse.model_validate_json(body).error.type == "invalid_request_error"
    failure = answer_to(RuntimeError("secret"))
    assert failure.status == 500
    assert b"secret" not in OpenAIErrors().body(failure, "req_1")


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": "my secret"},
        {"messages": ["my secret"]},
        {"messages": [{"role": "user", "content": ["my secret"]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ["my secret"]}]}]},
        {"messages": [{"role": "assistant", "reasoning": ["my secret"]}]},
    ],
)
def test_no_error_quotes_a_part_of_a_prompt(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidField) as refused:
        parse(to_json(fields), ChatCompletionRequest)
    assert "secret" not in refused.value.message and refused.value.param
