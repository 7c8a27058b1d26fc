"""The ranges, types and defaults of OpenAI's schemas."""

from typing import Any

import pytest
from pydantic import ValidationError

from api.openai import schemas as openai
from api.openai.schemas import ChatCompletionRequest, CompletionRequest

HI = [{"role": "user", "content": "Hi"}]


def chat(**fields: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest.model_validate({"messages": HI, **fields})


def completion(**fields: Any) -> CompletionRequest:
    return CompletionRequest.model_validate({"prompt": "Hi", **fields})


BOUNDS: list[tuple[str, list[Any], list[Any]]] = [
    ("max_tokens", [1, 128_000], [0, 128_001, "5", 1.5, True]),
    ("max_completion_tokens", [1, 128_000], [0, -1, "5"]),
    ("temperature", [0, 2, 0.7], [-0.1, 2.1, "hot", True, float("inf")]),
    ("top_p", [0, 1], [-0.1, 1.5]),
    ("presence_penalty", [-2, 2], [-2.5, 2.5]),
    ("frequency_penalty", [-2, 2], [-2.5, 2.5]),
    ("n", [1, 128], [0, 129, "2", True]),
    ("seed", [0, -(2**63), 2**63 - 1], [2**63, 10**30, "1", 1.5]),
    ("stop", ["x", ["x"] * 16, []], [5, [5], {"a": 1}, "", [""], ["x"] * 17, "x" * 257]),
    ("stream", [True, False], ["yes", 1]),
    ("logit_bias", [{"5": -100, "7": 1.5}, {}], [{"5": 101}, {"x": 1}, [1], {"5": "1"}]),
    ("top_k", [-1, 0, 5], [-2, 1.5]),
    ("min_p", [0, 1], [-0.1, 1.1]),
    ("repetition_penalty", [0.1, 2], [0, 2.1]),
    ("min_tokens", [0, 5], [-1]),
    ("ignore_eos", [True], [1, "true"]),
]


@pytest.mark.parametrize(("field", "value"), [(field, v) for field, good, _ in BOUNDS for v in good])
def test_a_chat_parameter_in_range_is_accepted(field: str, value: Any) -> None:
    assert getattr(chat(**{field: value}), field) == value


@pytest.mark.parametrize(("field", "value"), [(field, v) for field, _, bad in BOUNDS for v in bad])
def test_a_chat_parameter_out_of_range_or_of_another_type_is_an_error_of_its_field(
    field: str, value: Any
) -> None:
    with pytest.raises(ValidationError) as caught:
        chat(**{field: value})
    assert caught.value.errors()[0]["loc"][0] == field


def test_null_in_a_request_means_absent_at_every_depth() -> None:
    nothing = dict.fromkeys(
        ["stop", "n", "seed", "logprobs", "top_logprobs", "stream", "stream_options", "tools", "top_p"]
    )
    message = {"role": "user", "content": "Hi", "name": None, "tool_calls": None}
    assert chat(messages=[message], **nothing) == chat()


def test_unknown_fields_of_a_request_are_ignored_at_every_depth() -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {}}], "x": 1}
    assert chat(messages=[message], user={"id": 5}, metadata={"a": 1}, reasoning_effort="low").n == 1


@pytest.mark.parametrize("role", ["system", "developer", "user", "tool"])
def test_every_chat_message_but_the_assistants_needs_content(role: str) -> None:
    with pytest.raises(ValidationError) as caught:
        chat(messages=[{"role": role, "content": None, "tool_call_id": "call_1"}])
    assert caught.value.errors()[0]["loc"] == ("messages", 0, "content")


def test_an_assistant_message_with_tool_calls_needs_no_content() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{not json"}}
    request = chat(messages=[*HI, {"role": "assistant", "tool_calls": [call]}])
    assert request.messages[1].tool_calls is not None


def test_a_tool_message_names_the_call_it_answers() -> None:
    with pytest.raises(ValidationError):
        chat(messages=[{"role": "tool", "content": "21"}])
    chat(messages=[{"role": "tool", "content": [], "tool_call_id": "call_1", "name": "f"}])


@pytest.mark.parametrize(
    "fields",
    [
        {"stream_options": {"include_usage": True}},
        {"top_logprobs": 2},
        {"tool_choice": "required"},
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "nope"}},
        {"tools": [{"type": "function"}]},
        {"logprobs": True, "top_logprobs": 21},
    ],
)
def test_a_chat_field_that_needs_another_says_so(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        chat(**fields)
    assert caught.value.errors()[0]["loc"][0] in fields


@pytest.mark.parametrize("prompt", ["", "x", ["a", "b"], [1, 2], [[1], [2, 3]]])
def test_a_prompt_has_four_forms(prompt: Any) -> None:
    assert completion(prompt=prompt).prompt == prompt


@pytest.mark.parametrize(
    "prompt", [[-1], ["a", 1], [1, "a"], [], [[]], 5, {"a": 1}, [True], [1.5], [1 << 31]]
)
def test_a_prompt_of_another_form_is_one_error_of_the_field(prompt: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        completion(prompt=prompt)
    assert [error["loc"][0] for error in caught.value.errors()] == ["prompt"]


def test_completion_requests_have_their_own_defaults_and_logprobs() -> None:
    assert completion().max_tokens == 16
    assert completion(max_tokens=0, logprobs=5).logprobs == 5
    for bad in ({"logprobs": True}, {"logprobs": 6}, {"best_of": 1, "n": 2}):
        with pytest.raises(ValidationError):
            completion(**bad)


def test_the_schemas_keep_the_names_of_the_first_specification() -> None:
    first = (openai.ChatCompletionChoice, openai.ChatCompletionChunkDelta, openai.ChatCompletionChunkChoice)
    assert first == (openai.ChatChoice, openai.ChunkDelta, openai.ChunkChoice)
