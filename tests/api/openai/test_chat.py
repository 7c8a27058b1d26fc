"""Tools, reasoning and formats of chat over real HTTP, with httpx and the official client."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from shared.protocol import FinishReason, Submit
from tests.api.conftest import Stack, chat_body
from tests.api.fake_broker import DEADLINE, call, logprob, saying

TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALLS = saying(
    {"reasoning": "hm"},
    *call("call_1", "f", '{"a"', ": 1}"),
    *call("call_2", "f", "{}", index=1),
    reason=FinishReason.TOOL_CALLS,
)


@pytest.fixture
def sdk(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0, timeout=DEADLINE) as client:
        yield client


def test_a_chat_answer_with_tool_calls_has_null_content(stack: Stack) -> None:
    stack.broker.script = CALLS
    choice = stack.chat(tools=[TOOL]).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
        "reasoning_content": "hm",
        "reasoning": "hm",
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
            {"id": "call_2", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        ],
    }


def test_the_official_clients_stream_helper_joins_tool_calls(stack: Stack, sdk: openai.OpenAI) -> None:
    stack.broker.script = CALLS
    with sdk.chat.completions.stream(**chat_body(tools=[TOOL])) as stream:
        final = stream.until_done().get_final_completion()
    calls = final.choices[0].message.tool_calls or []
    assert [(call.id, call.function.name, call.function.arguments) for call in calls] == [
        ("call_1", "f", '{"a": 1}'),
        ("call_2", "f", "{}"),
    ]


def test_a_chat_request_with_functions_is_answered_with_function_call(stack: Stack) -> None:
    stack.broker.script = saying(*call("call_1", "f", "{}"), reason=FinishReason.TOOL_CALLS)
    choice = stack.chat(functions=[{"name": "f"}]).json()["choices"][0]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == {"name": "f", "arguments": "{}"}
    assert "tool_calls" not in choice["message"]


def test_the_official_client_parses_an_answer_that_follows_a_schema(stack: Stack, sdk: openai.OpenAI) -> None:
    stack.broker.script = saying({"text": '{"ok": '}, {"text": "true}"})
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    answer = sdk.chat.completions.create(**chat_body(response_format=wanted))
    assert answer.choices[0].message.content == '{"ok": true}'
    grammar = stack.broker.wait_for(Submit).generation.grammar
    assert grammar is not None
    assert grammar.json_schema == schema


def test_a_bad_schema_is_refused_without_asking_the_broker(stack: Stack) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "http://x"}}}
    response = stack.chat(response_format=wanted)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "response_format")
    assert not [message for message in stack.broker.received if isinstance(message, Submit)]


def test_a_token_without_text_keeps_its_log_probability(stack: Stack) -> None:
    (first, *_) = call("call_1", "f")
    stack.broker.script = saying({**first, "logprobs": [logprob(0, 1)]}, reason=FinishReason.TOOL_CALLS)
    choice = stack.chat(tools=[TOOL], logprobs=True, top_logprobs=1).json()["choices"][0]
    assert len(choice["logprobs"]["content"]) == 1


# ---- completions


def scores(stack: Stack, **fields: Any) -> list[dict[str, Any]]:
    body = stack.complete(echo=True, logprobs=1, **fields).json()
    return [choice["logprobs"] for choice in body["choices"]]


def test_echo_with_logprobs_scores_the_prompt_and_one_token(stack: Stack) -> None:
    (arrays,) = scores(stack, prompt=[97, 98, 99], max_tokens=1)
    assert arrays["tokens"] == ["a", "b", "c", "Once"]
    assert arrays["token_logprobs"] == [None, -1.5, -1.5, -0.25]
    assert arrays["top_logprobs"] == [None, {"b": -1.5}, {"c": -1.5}, {"t0": -0.5, "Once": -0.25}]
    assert arrays["text_offset"] == [0, 1, 2, 3]


def test_echo_with_logprobs_scores_each_prompt_of_a_batch(stack: Stack) -> None:
    assert [len(arrays["tokens"]) for arrays in scores(stack, prompt=[[97, 98], [99]], max_tokens=1)] == [
        3,
        2,
    ]


def test_echo_with_logprobs_and_max_tokens_0_scores_the_prompt_only(stack: Stack) -> None:
    body = stack.complete(prompt="Hi!", echo=True, logprobs=1, max_tokens=0).json()
    assert (body["choices"][0]["text"], body["usage"]["completion_tokens"]) == ("Hi!", 0)
    assert body["choices"][0]["logprobs"]["token_logprobs"] == [None, -1.5, -1.5]


def test_best_of_returns_the_choices_with_the_highest_mean_log_probability(stack: Stack) -> None:
    body = stack.complete(best_of=3, n=2, max_tokens=2).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert body["choices"][0]["logprobs"] is None
    assert body["usage"]["completion_tokens"] == 6
    assert stack.broker.wait_for(Submit).generation.n == 3
