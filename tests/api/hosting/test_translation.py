"""The one inner request as a request of chat completions."""

import json
from typing import Any

import pytest

from api.hosting.translation import chat_request
from shared.errors import InvalidRequest
from shared.protocol import ChatPrompt, Generation, Grammar, Sampling, Stopping, TextPrompt, ToolUse

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
UNSAID = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty"]


def request(**fields: Any) -> dict[str, Any]:
    prompt = ChatPrompt(
        messages=fields.pop("messages", [{"role": "user", "content": "Hi"}]), tools=fields.pop("tools", None)
    )
    sampling = fields.pop("sampling", Sampling(seed=1, unsaid=UNSAID))
    body: dict[str, Any] = json.loads(
        chat_request(Generation(prompt=prompt, sampling=sampling, **fields), "m")
    )
    return body


def test_what_the_client_did_not_say_is_not_sent() -> None:
    assert request() == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_what_the_client_said_is_sent() -> None:
    said = Sampling(
        seed=1,
        temperature=0.0,
        top_k=5,
        presence_penalty=0.5,
        logit_bias={7: 1.0},
        unsaid=["top_p", "min_p", "repetition_penalty"],
    )
    body = request(sampling=said, stopping=Stopping(max_tokens=9, stop=["x"]))
    assert (body["temperature"], body["top_k"], body["presence_penalty"]) == (0.0, 5, 0.5)
    assert (body["max_tokens"], body["stop"], body["logit_bias"]) == (9, ["x"], {"7": 1.0})
    assert "top_p" not in body


def test_arguments_of_calls_are_json_text() -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": {"a": 1}}}
    body = request(messages=[{"role": "assistant", "content": "", "tool_calls": [call]}])
    [sent] = body["messages"][0]["tool_calls"]
    assert sent == {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (ToolUse(names=["f"]), {}),
        (ToolUse(names=["f"], parallel=False), {"parallel_tool_calls": False}),
        (
            ToolUse(mode="required", names=["f"]),
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        ),
        (
            ToolUse(mode="required", names=["f", "g"]),
            {"tool_choice": "required", "parallel_tool_calls": True},
        ),
    ],
)
def test_the_choice_among_tools_is_sent(use: ToolUse, said: dict[str, Any]) -> None:
    body = request(tools=[TOOL], tool_use=use)
    assert body["tools"] == [TOOL]
    assert {key: body[key] for key in ("tool_choice", "parallel_tool_calls") if key in body} == said


def test_a_schema_is_a_response_format_and_another_grammar_is_refused() -> None:
    schema = {"type": "object"}
    assert request(grammar=Grammar(json_schema=schema))["response_format"]["json_schema"]["schema"] == schema
    assert request(grammar=Grammar())["response_format"] == {"type": "json_object"}
    with pytest.raises(InvalidRequest) as refused:
        request(grammar=Grammar(regex="a+", param="guided_regex"))
    assert refused.value.param == "guided_regex"


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"logprobs": 3}, "top_logprobs"),
        ({"n": 2}, "n"),
        ({"echo": True}, "echo"),
        ({"stopping": Stopping(min_tokens=1)}, "min_tokens"),
        ({"stopping": Stopping(stop_token_ids=[2])}, "stop_token_ids"),
        ({"stopping": Stopping(ignore_eos=True)}, "ignore_eos"),
    ],
)
def test_what_would_be_lost_on_the_way_is_refused_by_name(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        request(**fields)
    assert refused.value.param == name


def test_every_field_of_a_generation_is_sent_refused_or_changes_no_answer() -> None:
    sent = {"prompt", "sampling", "stopping", "grammar", "tool_use"}
    refused = {"logprobs", "n", "echo"}
    changes_nothing = {"split_reasoning", "cache_namespace", "cache_key", "prediction", "speculate"}
    assert set(Generation.model_fields) == sent | refused | changes_nothing
    assert set(Stopping.model_fields) == {"max_tokens", "stop", "min_tokens", "stop_token_ids", "ignore_eos"}


def test_an_effort_is_said_as_servers_of_chat_completions_know_it() -> None:
    prompt = ChatPrompt(
        messages=[{"role": "user", "content": "Hi"}], template_kwargs={"reasoning_effort": "low"}
    )
    generation = Generation(prompt=prompt, sampling=Sampling(seed=1, unsaid=UNSAID))
    body = json.loads(chat_request(generation, "m"))
    assert (body["reasoning_effort"], body["chat_template_kwargs"]) == ("low", {"reasoning_effort": "low"})


def test_only_messages_can_be_asked_for() -> None:
    generation = Generation(prompt=TextPrompt(text="Hi"), sampling=Sampling(seed=1))
    with pytest.raises(InvalidRequest):
        chat_request(generation, "m")
