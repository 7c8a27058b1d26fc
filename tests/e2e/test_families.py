"""Every family's text through api, broker and worker, in three dialects: thinking, a call, its result, an answer."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.client import chunks
from tests.e2e.stack import Stack
from tests.faults.stack import FaultStack
from tests.marks import quick_and_slow
from tests.programs.parrot_worker import ANSWER, DIE, NAMES, RESULT, THOUGHT
from tests.workers.output.family_templates import FAMILIES, HARMONY

QUICK = (HARMONY, "Qwen 3 Coder, Qwen 3.5, MiMo V2")
ALL = quick_and_slow(QUICK, tuple(family for family in NAMES if family not in QUICK))
ARGUMENTS = {"city": "Paris", "days": 2}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
FUNCTION = {"name": "get_weather", "description": "The weather of a city.", "parameters": SCHEMA}
ASKED = "What is the weather?"


@pytest.fixture(scope="module")
def server() -> Iterator[Stack]:
    command = json.dumps([sys.executable, "-m", "tests.programs.parrot_worker"])
    models = ",".join(f"{number}=/none" for number in range(len(NAMES)))
    stack = FaultStack(available_models=models, worker_command=command, heartbeat_timeout=10)
    try:
        yield stack
    finally:
        stack.close()


@pytest.fixture
def stack(server: Stack, family: str) -> Iterator[Stack]:
    """The worker of each family goes when its test is over: fifty at rest would take a processor of their own."""
    yield server
    server.http.post(f"/admin/models/{NAMES.index(family)}/unload", json={}).raise_for_status()


def thinks(family: str) -> bool:
    return family == HARMONY or bool(FAMILIES[family]["thinking"])


def chat(stack: Stack, family: str, messages: list[Any], *, stream: bool = False) -> Any:
    body = {
        "model": str(NAMES.index(family)),
        "messages": messages,
        "tools": [{"type": "function", "function": FUNCTION}],
        "stream": stream,
    }
    if not stream:
        answer = stack.http.post("/v1/chat/completions", json=body, timeout=60).json()
        assert "choices" in answer, answer
        message = answer["choices"][0]["message"]
        return message, answer["choices"][0]["finish_reason"]
    message = {"reasoning_content": "", "content": "", "tool_calls": []}
    finish = None
    with stack.http.stream("POST", "/v1/chat/completions", json=body, timeout=60) as response:
        for chunk in chunks(response.iter_raw()):
            delta = chunk["choices"][0]["delta"]
            message["content"] += delta.get("content") or ""
            message["reasoning_content"] += delta.get("reasoning_content") or ""
            for piece in delta.get("tool_calls") or ():
                take(message["tool_calls"], piece)
            finish = chunk["choices"][0]["finish_reason"] or finish
    return message, finish


def take(calls: list[Any], piece: Any) -> None:
    if piece["index"] == len(calls):
        calls.append({"id": piece["id"], "type": "function", "function": {"name": "", "arguments": ""}})
    function = calls[piece["index"]]["function"]
    function["name"] += piece["function"].get("name") or ""
    function["arguments"] += piece["function"].get("arguments") or ""


def check_call(family: str, message: Any, finish: str) -> None:
    assert finish == "tool_calls"
    assert not (message["content"] or "").strip()
    assert (message.get("reasoning_content") or "").strip() == (THOUGHT if thinks(family) else "")
    (call,) = message["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == ARGUMENTS


@pytest.mark.slow
@pytest.mark.parametrize("family", ALL)
def test_every_dialect_gets_a_family_s_call_whole_and_streamed_and_after_its_worker_is_killed(
    stack: Stack, family: str
) -> None:
    """All of one family in one test, as each process of the tests starts a worker for it."""
    a_conversation_goes_on_to_its_answer(stack, family)
    an_anthropic_client_gets_the_same_call(stack, family)
    a_client_of_responses_gets_the_same_call(stack, family)
    message, finish = chat(stack, family, [{"role": "user", "content": f"{ASKED} {DIE}"}], stream=True)
    check_call(family, message, finish)


def a_conversation_goes_on_to_its_answer(stack: Stack, family: str) -> None:
    messages: list[Any] = [{"role": "user", "content": ASKED}]
    message, finish = chat(stack, family, messages)
    check_call(family, message, finish)
    streamed, finish = chat(stack, family, messages, stream=True)
    check_call(family, streamed, finish)
    id = message["tool_calls"][0]["id"]
    messages += [message, {"role": "tool", "tool_call_id": id, "content": RESULT}]
    answer, finish = chat(stack, family, messages)
    assert (answer["content"], finish, answer.get("tool_calls")) == (ANSWER, "stop", None)


def an_anthropic_client_gets_the_same_call(stack: Stack, family: str) -> None:
    tool = {"name": "get_weather", "description": "The weather.", "input_schema": SCHEMA}
    body = {
        "model": str(NAMES.index(family)),
        "max_tokens": 1000,
        "messages": [{"role": "user", "content": ASKED}],
        "tools": [tool],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }
    answer = stack.http.post("/v1/messages", json=body, timeout=60).json()
    blocks = {block["type"]: block for block in answer["content"]}
    assert set(blocks) - {"thinking"} == {"tool_use"}
    assert blocks["tool_use"]["input"] == ARGUMENTS
    assert answer["stop_reason"] == "tool_use"
    assert ("thinking" in blocks) is thinks(family)


def a_client_of_responses_gets_the_same_call(stack: Stack, family: str) -> None:
    body = {
        "model": str(NAMES.index(family)),
        "input": ASKED,
        "tools": [{"type": "function", **FUNCTION}],
    }
    answer = stack.http.post("/v1/responses", json=body, timeout=60).json()
    items = {item["type"]: item for item in answer["output"]}
    assert set(items) - {"reasoning"} == {"function_call"}
    assert json.loads(items["function_call"]["arguments"]) == ARGUMENTS


@pytest.mark.slow
@pytest.mark.parametrize("family", QUICK)
def test_the_models_list_says_how_tools_are_called(stack: Stack, family: str) -> None:
    chat(stack, family, [{"role": "user", "content": ASKED}])
    model = stack.http.get(f"/v1/models/{NAMES.index(family)}").json()
    assert model["capabilities"]["tools"] == "native"
    assert model["capabilities"]["reasoning"] is thinks(family)
