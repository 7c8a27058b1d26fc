"""Requests of /v1/responses as the inner Generation: tables."""

from typing import Any

import pytest

from api.generation.usage import TokenCounter
from api.responses.answer import usage
from api.responses.request import response_generation
from api.responses.schemas import INPUT_ITEMS, ResponsesRequest
from shared.deltas import Predicted
from shared.errors import InvalidRequest
from shared.protocol import ChatPrompt, Delta, Generation, Grammar, ToolUse

TOOL: Any = {"type": "function", "name": "f", "parameters": {"type": "object"}}


def translated(items: Any = None, **fields: Any) -> Generation:
    request = ResponsesRequest.model_validate({"input": items or [], **fields})
    items = items or [{"role": "user", "content": "Hi"}]
    return response_generation(request, INPUT_ITEMS.validate_python(items))


def told(*items: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    prompt = translated(list(items), **fields).prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt.messages


USER = {"role": "user", "content": "Hi"}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}", "id": "fc_1"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "21", "id": "fco_1"}
CALLED = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "item",
    [
        USER,
        {"type": "message", "id": "msg_1", "phase": "x", **USER},
        {"role": "user", "content": [{"type": "input_text", "text": "H"}, {"type": "text", "text": "i"}]},
    ],
)
def test_a_message_item_is_read_in_every_form(item: dict[str, Any]) -> None:
    assert told(item) == [{"role": "user", "content": "Hi"}]


def test_a_response_may_have_a_prediction_and_may_want_no_guesses() -> None:
    asked = translated(prediction={"type": "content", "content": "def f()"}, speculation=False)
    assert (asked.prediction, asked.speculate) == ("def f()", False)
    assert (translated().prediction, translated().speculate) == ("", True)


def test_the_usage_of_a_response_counts_a_prediction_where_it_had_one() -> None:
    counter = TokenCounter(1)
    plain = usage(counter).model_dump(mode="json")["output_tokens_details"]
    assert plain == {"reasoning_tokens": 0}
    for predicted in (Predicted(accepted=3), Predicted(accepted=1, rejected=2)):
        counter.see(Delta(request_id="r", attempt=1, index=0, predicted=predicted))
    details = usage(counter).model_dump(mode="json")["output_tokens_details"]
    assert (details["accepted_prediction_tokens"], details["rejected_prediction_tokens"]) == (4, 2)


def test_instructions_become_the_first_system_message_and_developer_becomes_system() -> None:
    assert told({"role": "developer", "content": "b"}, USER, instructions="a")[:2] == [
        {"role": "system", "content": "a"},
        {"role": "system", "content": "b"},
    ]


def test_thinking_text_and_calls_between_two_messages_are_one_turn() -> None:
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    said = {"role": "assistant", "content": [{"type": "output_text", "text": "So:", "annotations": []}]}
    assert told(USER, thought, said, CALL, RESULT, {"role": "assistant", "content": "21."})[1:] == [
        {"role": "assistant", "content": "So:", "reasoning_content": "hm", "tool_calls": [CALLED]},
        {"role": "tool", "tool_call_id": "c1", "content": "21"},
        {"role": "assistant", "content": "21."},
    ]


def test_consecutive_call_items_are_one_turn_and_two_assistant_messages_are_two() -> None:
    (turn,) = told(CALL, {**CALL, "call_id": "c2"})
    assert [call["id"] for call in turn["tool_calls"]] == ["c1", "c2"]
    assert len(told({"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"})) == 2


def test_a_function_call_output_may_be_a_list_of_parts() -> None:
    assert told({**RESULT, "output": [{"type": "input_text", "text": "21"}]})[0]["content"] == "21"


def test_items_and_tools_of_unknown_types_are_left_out() -> None:
    tools = [{"type": "namespace", "name": "m", "tools": []}, {"type": "web_search"}, TOOL]
    generation = translated([{"type": "web_search_call", "id": "ws_1"}, USER], tools=tools)
    assert isinstance(generation.prompt, ChatPrompt)
    assert len(generation.prompt.messages) == 1
    assert generation.tool_use == ToolUse(names=["f"])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "required", "tools": [{"type": "web_search"}]}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice"),
        ({"items": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
        ({"items": [{"type": "web_search_call"}]}, "input"),
    ],
)
def test_unsupported_fields_of_a_response_request_are_refused_by_name(
    fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        translated(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("choice", "use"),
    [
        ("auto", ToolUse(names=["f"])),
        ("required", ToolUse(mode="required", names=["f"], parallel=False)),
        ({"type": "function", "name": "f"}, ToolUse(mode="required", names=["f"], parallel=False)),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
            ToolUse(names=["f"]),
        ),
        ("none", None),
    ],
)
def test_a_response_tool_choice_says_which_tools_may_or_must_be_called(
    choice: Any, use: ToolUse | None
) -> None:
    assert translated(tools=[TOOL], tool_choice=choice).tool_use == use


def test_several_response_calls_are_demanded_only_of_a_client_that_says_so() -> None:
    use = translated(tools=[TOOL], tool_choice="required", parallel_tool_calls=True).tool_use
    assert use == ToolUse(mode="required", names=["f"])


@pytest.mark.parametrize(
    ("wanted", "grammar"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, Grammar(param="text.format")),
        (
            {"type": "json_schema", "name": "x", "schema": {}, "strict": True},
            Grammar(json_schema={}, param="text.format.schema"),
        ),
    ],
)
def test_a_text_format_of_a_response_becomes_a_grammar(
    wanted: dict[str, Any], grammar: Grammar | None
) -> None:
    assert translated(text={"format": wanted}).grammar == grammar


def test_a_response_request_asks_for_logprobs_by_number_or_by_include() -> None:
    by_name = translated(include=["message.output_text.logprobs"])
    assert [translated().logprobs, by_name.logprobs, translated(top_logprobs=2).logprobs] == [None, 0, 2]


def test_the_cache_key_reaches_the_generation() -> None:
    assert translated(prompt_cache_key="k").cache_key == "k"
