"""Past turns as clients send them back, in the forms of several servers and of clients that keep them as objects."""

from typing import Any

import pytest
from pydantic_core import to_json

from api.generation.parse import parse
from api.messages.request import message_generation
from api.messages.schemas import MessagesRequest
from api.openai.request import chat_generation
from api.openai.schemas import ChatCompletionRequest
from api.responses.schemas import FunctionCallItem, ResponsesRequest
from shared.errors import UnsupportedParameter
from shared.protocol import ChatPrompt

HI = {"role": "user", "content": "Hi"}


def chat(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    prompt = chat_generation(parse(to_json({"messages": messages}), ChatCompletionRequest)).prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt.messages


def message(*messages: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    body = {"max_tokens": 9, "messages": messages, **fields}
    prompt = message_generation(parse(to_json(body), MessagesRequest)).prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt.messages


KEPT: list[tuple[Any, str]] = [
    ({"a": 1}, '{"a":1}'),
    ({}, "{}"),
    ([], "[]"),
    (None, ""),
    ("", ""),
    ('{"city": "Par', '{"city": "Par'),
]


@pytest.mark.parametrize(("kept", "text"), KEPT)
def test_the_arguments_of_a_past_call_may_be_kept_as_an_object_or_be_missing(kept: Any, text: str) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": kept}}
    said = chat(HI, {"role": "assistant", "tool_calls": [call]})
    assert said[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": text}
    item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": kept}
    read = parse(to_json({"input": [item]}), ResponsesRequest).input[0]
    assert isinstance(read, FunctionCallItem)
    assert read.arguments == text


@pytest.mark.parametrize(
    ("kept", "text"),
    [({"a": 1}, '{"a":1}'), ([], "{}"), ("", "{}"), (None, "{}"), ('{"a":1}', '{"a":1}'), ('{"a', "{}")],
)
def test_the_input_of_a_past_tool_use_may_be_kept_as_its_text(kept: Any, text: str) -> None:
    call = {"type": "tool_use", "id": "a", "name": "f", "input": kept}
    said = message(HI, {"role": "assistant", "content": [call]})
    assert said[1]["tool_calls"][0]["function"]["arguments"] == text


@pytest.mark.parametrize("kind", ["text", "input_text", "output_text"])
def test_a_text_in_a_chat_may_have_its_name_of_another_dialect(kind: str) -> None:
    assert chat({"role": "user", "content": [{"type": kind, "text": "Hi"}]}) == [HI]


FOUND = {
    "type": "search_result",
    "source": "http://x/",
    "title": "T",
    "content": [{"type": "text", "text": "t"}],
}
PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]


@pytest.mark.parametrize(
    ("block", "text"),
    [
        (FOUND, "T\nhttp://x/\nt"),
        ({"type": "document", "title": "T", "source": {"type": "text", "data": "t"}}, "T\nt"),
        ({"type": "document", "source": {"type": "content", "content": "t"}, "title": None}, "t"),
        ({"type": "document", "context": "c", "source": {"type": "content", "content": PARTS}}, "c\na\nb"),
    ],
)
def test_what_a_block_has_of_text_reaches_the_model(block: dict[str, Any], text: str) -> None:
    assert message({"role": "user", "content": [block]})[0]["content"] == text
    result = {"type": "tool_result", "tool_use_id": "a", "content": [block]}
    assert message({"role": "user", "content": [result]})[0]["content"] == text


def test_a_document_with_a_picture_is_refused_by_name() -> None:
    source = {"type": "content", "content": [{"type": "image", "source": {}}]}
    with pytest.raises(UnsupportedParameter) as refused:
        message({"role": "user", "content": [{"type": "document", "source": source}]})
    assert refused.value.param == "messages[0].content[0]"


def test_a_tool_in_the_form_of_another_dialect_is_not_lost() -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        message(HI, tools=[{"type": "function", "function": {"name": "f"}}])
    assert refused.value.param == "tools[0].type"
