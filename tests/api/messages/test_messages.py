"""/v1/messages: translations and events as tables, and over real HTTP with httpx and the official client."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from api.generation.usage import Identity, TokenCounter
from api.messages.answer import usage
from api.messages.events import MessageEvents
from api.messages.request import message_generation
from api.messages.schemas import MessagesRequest
from shared.deltas import Predicted
from shared.errors import ContextLengthExceeded, InvalidRequest, QueueFull
from shared.protocol import ChatPrompt, Delta, FinishReason, Generation, Grammar, Refused, Submit, ToolUse
from tests.api.conftest import Stack
from tests.api.fake_broker import DEADLINE, PROMPT_TOKENS, WORDS, call, saying
from tests.client import named

if TYPE_CHECKING:  # each process of the tests reads this file, and the package takes two seconds
    from anthropic import Anthropic

TEXT = "".join(WORDS)
TOOL: Any = {"name": "f", "description": "d", "input_schema": {"type": "object"}}
CALL = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": None}, "provider_specific_fields": None}


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "max_tokens": 64, "messages": [{"role": "user", "content": "Hi"}], **fields}


def translated(**fields: Any) -> Generation:
    return message_generation(MessagesRequest.model_validate(body(**fields)))


def prompt(**fields: Any) -> ChatPrompt:
    made = translated(**fields).prompt
    assert isinstance(made, ChatPrompt)
    return made


def told(*messages: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    return prompt(messages=list(messages), **fields).messages


# ---- requests


@pytest.mark.parametrize(
    "system",
    [
        "Be brief.",
        [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        [{"type": "text", "text": "x-anthropic-billing-header: v"}, {"type": "text", "text": "Be brief."}],
    ],
)
def test_the_anthropic_system_prompt_becomes_the_first_message(system: Any) -> None:
    assert prompt(system=system).messages[0] == {"role": "system", "content": "Be brief."}


def test_an_anthropic_system_message_may_follow_a_user_message() -> None:
    late = {"role": "system", "content": "Agents: none."}
    assert told({"role": "user", "content": "Hi"}, late)[1] == late


def test_a_past_anthropic_turn_is_one_message_with_its_thinking_and_calls() -> None:
    blocks = [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "Looking."},
        CALL,
    ]
    function = {"name": "f", "arguments": '{"a":null}'}
    assert told({"role": "assistant", "content": blocks}) == [
        {
            "role": "assistant",
            "content": "Looking.",
            "tool_calls": [{"id": "t1", "type": "function", "function": function}],
            "reasoning_content": "hm",
        }
    ]


@pytest.mark.parametrize(
    ("content", "text"),
    [("21", "21"), ([{"type": "text", "text": "21"}], "21"), (None, ""), ([], "")],
)
def test_a_tool_result_becomes_a_message_before_the_users_text(content: Any, text: str) -> None:
    result = {"type": "tool_result", "tool_use_id": "t1", "is_error": False, "content": content}
    blocks = [result, {"type": "text", "text": "and?"}]
    assert told({"role": "user", "content": blocks}) == [
        {"role": "tool", "tool_call_id": "t1", "content": text},
        {"role": "user", "content": "and?"},
    ]


def test_a_text_document_is_read_and_an_unknown_block_is_left_out() -> None:
    document = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "doc"}}
    blocks = [document, {"type": "web_search_tool_result", "x": 1}, {"type": "text", "text": "Sum up."}]
    assert told({"role": "user", "content": blocks}) == [{"role": "user", "content": "doc\n\nSum up."}]


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "source": {"type": "base64"}},
        {"type": "document", "source": {"type": "base64", "data": "x"}},
    ],
)
def test_an_image_in_an_anthropic_message_is_refused_by_name(block: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        told({"role": "user", "content": [block]})
    assert (caught.value.param or "").startswith("messages[0].content[0]")


@pytest.mark.parametrize(
    ("choice", "use"),
    [
        (None, ToolUse(names=["f"])),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolUse(names=["f"], parallel=False)),
        ({"type": "any"}, ToolUse(mode="required", names=["f"], parallel=False)),
        (
            {"type": "any", "disable_parallel_tool_use": False},
            ToolUse(mode="required", names=["f"]),
        ),
        ({"type": "tool", "name": "f"}, ToolUse(mode="required", names=["f"], parallel=False)),
        ({"type": "none"}, None),
    ],
)
def test_an_anthropic_tool_choice_says_which_tools_may_or_must_be_called(
    choice: Any, use: ToolUse | None
) -> None:
    tools = [TOOL, {"type": "web_search_20250305", "name": "web_search"}, {"type": "mcp_toolset"}]
    assert translated(tools=tools, tool_choice=choice).tool_use == use


@pytest.mark.parametrize(
    "choice", [{"type": "any"}, {"type": "tool", "name": "f"}, {"type": "tool", "name": "g"}]
)
def test_an_anthropic_tool_choice_without_its_tool_is_refused(choice: Any) -> None:
    with pytest.raises(InvalidRequest):
        translated(tools=[], tool_choice=choice)


@pytest.mark.parametrize(
    ("fields", "kwargs"),
    [
        ({}, {}),
        ({"thinking": {"type": "adaptive"}}, {"enable_thinking": True}),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 1024}},
            {"enable_thinking": True, "thinking_budget": 1024},
        ),
        ({"thinking": {"type": "disabled"}}, {"enable_thinking": False}),
        ({"output_config": {"effort": "max"}}, {"enable_thinking": True, "reasoning_effort": "max"}),
    ],
)
def test_anthropic_thinking_sets_the_variables_of_the_template(fields: Any, kwargs: dict[str, Any]) -> None:
    assert prompt(**fields).template_kwargs == kwargs


def test_an_anthropic_message_may_have_a_prediction_and_may_want_no_guesses() -> None:
    asked = translated(prediction={"type": "content", "content": "def f()"}, speculation=False)
    assert (asked.prediction, asked.speculate) == ("def f()", False)
    assert (translated().prediction, translated().speculate) == ("", True)


def test_the_usage_of_an_anthropic_message_counts_a_prediction_where_it_had_one() -> None:
    counter = TokenCounter(1)
    assert usage(counter).model_dump(mode="json")["output_tokens_details"] == {"thinking_tokens": 0}
    counter.see(Delta(request_id="r", attempt=1, index=0, predicted=Predicted(accepted=4, rejected=2)))
    details = usage(counter).model_dump(mode="json")["output_tokens_details"]
    assert (details["accepted_prediction_tokens"], details["rejected_prediction_tokens"]) == (4, 2)


def test_an_anthropic_output_format_becomes_a_grammar() -> None:
    schema = {"type": "object"}
    wanted = {"effort": None, "format": {"type": "json_schema", "schema": schema}}
    assert translated(output_config=wanted).grammar == Grammar(
        json_schema=schema, param="output_config.format"
    )


# ---- events


def events(*batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events of a stream; each batch lists the fields of its deltas."""
    stream = MessageEvents(Identity("msg_1", 0, "tiny"))
    sent = [
        stream.render([Delta(request_id="r", attempt=1, index=0, ids=[1], **fields) for fields in batch])
        for batch in batches
    ]
    return named(b"".join(sent) + stream.end())


def test_anthropic_content_blocks_open_grow_and_close_in_order() -> None:
    sent = events([{"reasoning": "hm"}, {"text": "Hi"}], [{"text": "!"}, *call("t1", "f", "{", "}")])
    assert [(one["type"].removeprefix("content_block_"), one.get("index")) for one in sent] == [
        ("message_start", None),
        ("start", 0),
        ("delta", 0),
        ("delta", 0),
        ("stop", 0),
        ("start", 1),
        ("delta", 1),
        ("delta", 1),
        ("stop", 1),
        ("start", 2),
        ("delta", 2),
        ("delta", 2),
        ("message_delta", None),
        ("message_stop", None),
    ]
    assert sent[3]["delta"]["type"] == "signature_delta"
    assert sent[9]["content_block"]["input"] == {}


def test_an_anthropic_stream_is_kept_alive_by_comments_then_by_pings() -> None:
    stream = MessageEvents(Identity("msg_1", 0, "tiny"))
    assert stream.idle() == b": keep-alive\n\n"
    stream.render([Delta(request_id="r", attempt=1, index=0, text="a")])
    assert stream.idle() == b'event: ping\ndata: {"type":"ping"}\n\n'


# ---- over HTTP


def post(stack: Stack, path: str = "/v1/messages", **fields: Any) -> httpx.Response:
    return stack.client.post(path, json=body(**fields))


@pytest.fixture
def sdk(stack: Stack) -> "Iterator[Anthropic]":
    from anthropic import Anthropic

    with Anthropic(base_url=stack.url, api_key="none", max_retries=0, timeout=DEADLINE) as client:
        yield client


def test_an_anthropic_message_has_the_keys_clients_rely_on(stack: Stack) -> None:
    answer = post(stack).json()
    usage = answer.pop("usage")
    assert answer.pop("id").startswith("msg_")
    assert answer == {
        "type": "message",
        "role": "assistant",
        "model": "tiny",
        "content": [{"type": "text", "text": TEXT}],
        "container": None,
        "stop_details": None,
        "stop_reason": "end_turn",
        "stop_sequence": None,
    }
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == PROMPT_TOKENS
    assert (usage["output_tokens"], usage["cache_creation_input_tokens"]) == (len(WORDS), 0)


def test_count_tokens_equals_the_later_usage(stack: Stack) -> None:
    response = stack.client.post(
        "/v1/messages/count_tokens?beta=true", json={"model": "tiny"} | {"messages": body()["messages"]}
    )
    assert response.json() == {"input_tokens": PROMPT_TOKENS}
    assert stack.broker.wait_for(Submit).generation.stopping.max_tokens == 0


def test_an_anthropic_answer_names_the_stop_sequence_that_ended_it(stack: Stack) -> None:
    stack.broker.script = saying({"text": "a"}, stop="END")
    answer = post(stack, stop_sequences=["END"]).json()
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "END")


def test_an_anthropic_answer_without_text_has_an_empty_block(stack: Stack) -> None:
    stack.broker.script = saying({"text": ""}, reason=FinishReason.LENGTH)
    answer = post(stack).json()
    assert (answer["stop_reason"], answer["content"][0]["text"]) == ("max_tokens", "")


def test_the_complete_part_of_truncated_call_arguments_is_kept(stack: Stack) -> None:
    stack.broker.script = saying(*call("t1", "f", '{"a": 1, "b": '), reason=FinishReason.LENGTH)
    assert post(stack, tools=[TOOL]).json()["content"][0]["input"] == {"a": 1}


@pytest.mark.parametrize("streamed", [False, True])
def test_the_official_client_reads_thinking_text_and_calls(
    stack: Stack, sdk: "Anthropic", streamed: bool
) -> None:
    tokens = [{"reasoning": "hm"}, {"text": "So:"}, *call("t1", "f", '{"a"', ": 1}")]
    stack.broker.script = saying(*tokens, reason=FinishReason.TOOL_CALLS)
    if streamed:
        with sdk.messages.stream(**body(tools=[TOOL])) as stream:
            answer: Any = stream.get_final_message()
    else:
        answer = sdk.messages.create(**body(tools=[TOOL]))
    thinking, text, called = answer.content
    assert (thinking.thinking, text.text) == ("hm", "So:")
    assert (called.id, called.name, called.input) == ("t1", "f", {"a": 1})
    assert answer.stop_reason == "tool_use"
    assert answer.usage.output_tokens == len(tokens)
    assert answer.usage.output_tokens_details.thinking_tokens == 1


def test_the_official_client_counts_and_lists(sdk: "Anthropic") -> None:
    counted = sdk.messages.count_tokens(model="tiny", messages=body()["messages"])
    assert counted.input_tokens == PROMPT_TOKENS
    assert {model.id for model in sdk.models.list()} == {"tiny", "org/name"}


@pytest.mark.parametrize(
    ("method", "path", "content", "headers", "status", "kind"),
    [
        ("POST", "/v1/messages", b"{", {}, 400, "invalid_request_error"),
        ("POST", "/v1/messages", b'{"model": "tiny", "messages": []}', {}, 400, "invalid_request_error"),
        ("GET", "/v1/messages", b"", {}, 405, "invalid_request_error"),
        ("POST", "/v1/messages/nope", b"{}", {}, 404, "not_found_error"),
        ("POST", "/v1/messages", b"a=b", {"content-type": "text/plain"}, 415, "invalid_request_error"),
        ("POST", "/v1/messages", b"x" * ((1 << 20) + 1), {}, 413, "request_too_large"),
        ("GET", "/v1/models/nope", b"", {"anthropic-version": "2023-06-01"}, 404, "not_found_error"),
    ],
)
def test_every_error_is_an_anthropic_error(
    stack: Stack, method: str, path: str, content: bytes, headers: dict[str, str], status: int, kind: str
) -> None:
    headers = {"content-type": "application/json", **headers}
    response = stack.client.request(method, path, content=content, headers=headers)
    answer = response.json()
    assert (response.status_code, answer["type"], answer["error"]["type"]) == (status, "error", kind)
    assert answer["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]


def test_an_unknown_model_is_a_404_for_anthropics_clients(stack: Stack) -> None:
    response = post(stack, model="claude-opus")
    assert (response.status_code, response.json()["error"]["type"]) == (404, "not_found_error")


def test_a_full_queue_is_a_529_for_anthropics_clients(stack: Stack) -> None:
    failure = QueueFull("too many", retry_after=3).to_failure()
    stack.broker.script = lambda submit: [
        Refused(request_id=submit.request_id, attempt=submit.attempt, failure=failure)
    ]
    response = post(stack)
    assert (response.status_code, response.json()["error"]["type"]) == (529, "overloaded_error")
    assert response.headers["retry-after"] == "3"


def test_an_error_in_an_anthropic_stream_is_an_event(stack: Stack, sdk: "Anthropic") -> None:
    from anthropic import APIStatusError

    failure = QueueFull("lost").to_failure()

    def script(submit: Submit) -> Any:
        yield from list(saying({"text": "a"}, {"text": "b"})(submit))[:1]
        yield Refused(request_id=submit.request_id, attempt=submit.attempt, failure=failure)

    stack.broker.script = script
    with pytest.raises(APIStatusError), sdk.messages.stream(**body()) as stream:
        stream.until_done()


@pytest.mark.parametrize(
    ("tool", "name", "argument"),
    [
        ({"type": "bash_20250124", "name": "bash"}, "bash", "restart"),
        ({"type": "text_editor_20250124", "name": "str_replace_editor"}, "str_replace_editor", "file_text"),
        (
            {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
            "str_replace_based_edit_tool",
            "insert_text",
        ),
        ({"type": "memory_20250818", "name": "memory"}, "memory", "new_path"),
    ],
)
def test_anthropics_client_tools_are_offered_with_their_published_schemas(
    tool: Any, name: str, argument: str
) -> None:
    made = translated(tools=[tool], tool_choice={"type": "tool", "name": name})
    assert isinstance(made.prompt, ChatPrompt) and made.prompt.tools
    [function] = [each["function"] for each in made.prompt.tools]
    assert function["name"] == name and function["description"]
    assert argument in function["parameters"]["properties"]
    assert made.tool_use == ToolUse(mode="required", names=[name], parallel=False)


@pytest.mark.parametrize("kind", ["computer_20250124", "computer_toolset_20260801"])
def test_a_tool_that_answers_with_pictures_is_refused_by_name(kind: str) -> None:
    with pytest.raises(InvalidRequest, match=kind) as refused:
        prompt(tools=[TOOL, {"type": kind, "name": "computer"}])
    assert refused.value.param == "tools[1]"


def too_long(submit: Submit) -> Any:
    error = ContextLengthExceeded("in other words", prompt_tokens=9000, context_length=8192)
    yield Refused(request_id=submit.request_id, attempt=submit.attempt, failure=error.to_failure())


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_prompt_that_is_too_long_gets_anthropics_wording(stack: Stack, path: str, stream: bool) -> None:
    stack.broker.script = too_long
    answer = stack.client.post(path, json=body(stream=stream))
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        400,
        "prompt is too long: 9000 tokens > 8192 maximum",
    )
