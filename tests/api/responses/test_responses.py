"""/v1/responses: requests and events as tables, and over real HTTP with httpx and the official client."""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.generation.usage import Identity
from api.responses.events import ResponseEvents
from api.responses.request import response_generation
from api.responses.schemas import INPUT_ITEMS, FunctionCallItem, FunctionCallOutputItem, ResponsesRequest
from api.responses.store import Store, Stored
from api.responses.truncation import fewer
from shared.errors import ContextLengthExceeded, InvalidRequest, ServingError, WorkerLost
from shared.protocol import ChatPrompt, Delta, FinishReason, Generation, Grammar, Refused, Submit, ToolUse
from tests.api.conftest import Stack, run_stack
from tests.api.fake_broker import DEADLINE, PROMPT_TOKENS, WORDS, call, logprob, saying

TEXT = "".join(WORDS)
TOOL: Any = {"type": "function", "name": "f", "parameters": {"type": "object"}}
IDENTITY = Identity("resp_" + "0" * 32, 1_700_000_000, "tiny")


def translated(items: Any = None, **fields: Any) -> Generation:
    request = ResponsesRequest.model_validate({"input": items or [], **fields})
    items = items or [{"role": "user", "content": "Hi"}]
    return response_generation(request, INPUT_ITEMS.validate_python(items))


def told(*items: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    prompt = translated(list(items), **fields).prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt.messages


# ---- requests

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
def test_a_message_is_a_message_in_every_form(item: dict[str, Any]) -> None:
    assert told(item) == [{"role": "user", "content": "Hi"}]


def test_instructions_come_first_and_a_developer_is_the_system() -> None:
    assert told({"role": "developer", "content": "b"}, USER, instructions="a")[:2] == [
        {"role": "system", "content": "a"},
        {"role": "system", "content": "b"},
    ]


def test_what_the_model_did_in_one_go_is_one_turn() -> None:
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    said = {"role": "assistant", "content": [{"type": "output_text", "text": "So:", "annotations": []}]}
    assert told(USER, thought, said, CALL, RESULT, {"role": "assistant", "content": "21."})[1:] == [
        {"role": "assistant", "content": "So:", "reasoning_content": "hm", "tool_calls": [CALLED]},
        {"role": "tool", "tool_call_id": "c1", "content": "21"},
        {"role": "assistant", "content": "21."},
    ]


def test_calls_side_by_side_are_one_turn_and_two_messages_are_two() -> None:
    (turn,) = told(CALL, {**CALL, "call_id": "c2"})
    assert [call["id"] for call in turn["tool_calls"]] == ["c1", "c2"]
    assert len(told({"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"})) == 2


def test_a_result_may_be_a_list_of_parts() -> None:
    assert told({**RESULT, "output": [{"type": "input_text", "text": "21"}]})[0]["content"] == "21"


def test_items_and_tools_of_other_kinds_are_left_out() -> None:
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
def test_what_does_not_work_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        translated(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("choice", "use"),
    [
        ("auto", ToolUse(names=["f"])),
        ("required", ToolUse(mode="required", names=["f"])),
        ({"type": "function", "name": "f"}, ToolUse(mode="required", names=["f"], parallel=False)),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
            ToolUse(names=["f"]),
        ),
        ("none", None),
    ],
)
def test_a_tool_choice_says_which_tools_may_or_must_be_called(choice: Any, use: ToolUse | None) -> None:
    assert translated(tools=[TOOL], tool_choice=choice).tool_use == use


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
def test_a_format_is_a_grammar(wanted: dict[str, Any], grammar: Grammar | None) -> None:
    assert translated(text={"format": wanted}).grammar == grammar


def test_log_probabilities_are_asked_for_by_number_or_by_name() -> None:
    by_name = translated(include=["message.output_text.logprobs"])
    assert [translated().logprobs, by_name.logprobs, translated(top_logprobs=2).logprobs] == [None, 0, 2]


# ---- events


def parsed(data: bytes) -> list[dict[str, Any]]:
    blocks = data.decode().split("\n\n")
    assert blocks.pop() == ""
    out = []
    for block in blocks:
        kind, line = block.split("\n")
        out.append(json.loads(line.removeprefix("data: ")))
        assert kind == f"event: {out[-1]['type']}"
    assert [one["sequence_number"] for one in out] == list(range(len(out)))
    return out


def stream_of(*tokens: dict[str, Any]) -> tuple[ResponseEvents, bytes]:
    stream = ResponseEvents(IDENTITY, ResponsesRequest(input="Hi"))
    deltas = [Delta(request_id="r", attempt=1, index=0, ids=[1], **fields) for fields in tokens]
    return stream, stream.render(deltas)


def test_items_parts_and_deltas_come_in_order() -> None:
    finish = {"finish": {"reason": "tool_calls", "completion_tokens": 4}}
    tokens = [{"reasoning": "hm"}, {"text": "Hi"}, *call("c1", "f", "{}")]
    stream, data = stream_of(*tokens, finish)
    sent = parsed(data + stream.end(stream.ended(5)))
    assert [one["type"].removeprefix("response.") for one in sent] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    done = [one["item"] for one in sent if one["type"] == "response.output_item.done"]
    assert done == sent[-1]["response"]["output"]
    assert len({item["id"] for item in done}) == 3
    assert sent[14]["item"]["arguments"] == ""
    assert (sent[16]["name"], sent[16]["arguments"]) == ("f", "{}")


def test_silence_is_filled_with_events() -> None:
    stream = ResponseEvents(IDENTITY, ResponsesRequest(input="Hi"))
    sent = parsed(stream.idle() + stream.idle() + stream.render([]))
    kinds = [one["type"] for one in sent]
    assert kinds == ["response.created", "response.in_progress", "keepalive"]


def test_an_error_in_a_stream_is_told_in_both_shapes_and_ends_the_response() -> None:
    stream, data = stream_of({"text": "Hi"})
    error, failed = parsed(data + stream.fail(WorkerLost("gone")))[-2:]
    assert error["message"] == error["error"]["message"] == "gone"
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"]["message"] == "gone"


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (WorkerLost("gone"), "server_error", "server_error"),
        (ContextLengthExceeded("too long"), "invalid_request_error", "context_length_exceeded"),
        (InvalidRequest("no such schema"), "invalid_request_error", "invalid_prompt"),
    ],
)
def test_a_failed_response_says_whether_to_try_again(error: ServingError, kind: str, code: str) -> None:
    stream, data = stream_of()
    told, failed = parsed(data + stream.fail(error))[-2:]
    assert (told["error"]["type"], failed["response"]["error"]["code"]) == (kind, code)


# ---- over HTTP


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "input": "Hi", **fields}


def post(stack: Stack, **fields: Any) -> httpx.Response:
    return stack.client.post("/v1/responses", json=body(**fields))


@pytest.fixture
def sdk(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0, timeout=DEADLINE) as client:
        yield client


def test_a_response_has_the_keys_clients_rely_on(stack: Stack) -> None:
    answer = post(stack, tools=[TOOL], text={"format": {"type": "text"}}).json()
    assert answer["id"].startswith("resp_")
    (message,) = answer["output"]
    assert message.pop("id").startswith("msg_")
    assert message == {
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": TEXT, "annotations": [], "logprobs": []}],
    }
    assert (answer["object"], answer["status"], answer["error"]) == ("response", "completed", None)
    assert answer["tools"] == [{**TOOL, "description": None, "strict": True}]
    assert (answer["text"], answer["tool_choice"]) == ({"format": {"type": "text"}}, "auto")
    assert {"completed_at", "max_tool_calls", "prompt_cache_key", "service_tier"} <= answer.keys()
    usage = answer["usage"]
    assert usage["input_tokens"] + usage["output_tokens"] == usage["total_tokens"] == 7 + len(WORDS)


def test_what_is_cut_off_is_incomplete(stack: Stack) -> None:
    answer = post(stack, max_output_tokens=2).json()
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert answer["output"][0]["status"] == "incomplete"


def test_log_probabilities_are_in_the_text(stack: Stack) -> None:
    stack.broker.script = saying({"text": "a", "logprobs": [logprob(0, 1)]})
    (entry,) = post(stack, top_logprobs=1).json()["output"][0]["content"][0]["logprobs"]
    assert (entry["token"], len(entry["top_logprobs"])) == ("Once", 1)


def test_the_official_client_streams_text_and_calls(stack: Stack, sdk: openai.OpenAI) -> None:
    stack.broker.script = saying({"text": "So:"}, *call("c1", "f", '{"a"', ": 1}"))
    with sdk.responses.stream(**body(tools=[{**TOOL, "strict": True}])) as stream:
        final = stream.until_done().get_final_response()
    assert final.output_text == "So:"
    called: Any = final.output[1]
    assert (called.call_id, called.name, called.arguments) == ("c1", "f", '{"a": 1}')


def test_the_official_client_raises_what_a_stream_says(stack: Stack, sdk: openai.OpenAI) -> None:
    def script(submit: Submit) -> Any:
        yield from list(saying({"text": "a"}, {"text": "b"})(submit))[:1]
        yield Refused(
            request_id=submit.request_id, attempt=submit.attempt, failure=WorkerLost("gone").to_failure()
        )

    stack.broker.script = script
    with pytest.raises(openai.APIError, match="gone"):
        list(sdk.responses.create(**body(), stream=True))


@pytest.mark.parametrize("streamed", [False, True])
def test_a_response_goes_on_from_the_one_before(stack: Stack, sdk: openai.OpenAI, streamed: bool) -> None:
    if streamed:
        with sdk.responses.stream(**body()) as stream:
            first = stream.until_done().get_final_response().id
    else:
        first = sdk.responses.create(**body()).id
    second = sdk.responses.create(**body(input="More."), previous_response_id=first)
    sdk.responses.create(**body(input="And more."), previous_response_id=second.id)
    prompt = [m for m in stack.broker.received if isinstance(m, Submit)][-1].generation.prompt
    assert isinstance(prompt, ChatPrompt)
    said = [message["content"] for message in prompt.messages]
    assert said == ["Hi", TEXT, "More.", TEXT, "And more."]


def test_a_response_can_be_fetched_and_deleted(stack: Stack, sdk: openai.OpenAI) -> None:
    made = sdk.responses.create(**body())
    assert sdk.responses.retrieve(made.id).output_text == TEXT
    (item,) = sdk.responses.input_items.list(made.id)
    shown: Any = item
    assert shown.content[0].text == "Hi"
    with pytest.raises(openai.BadRequestError):
        sdk.responses.cancel(made.id)
    sdk.responses.delete(made.id)
    for lost in (sdk.responses.retrieve, sdk.responses.delete, sdk.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            lost(made.id)


def test_input_items_come_in_pages(stack: Stack) -> None:
    id = post(stack, input=[{"role": "user", "content": str(i)} for i in range(3)]).json()["id"]
    page = stack.client.get(f"/v1/responses/{id}/input_items?order=asc&limit=2").json()
    assert ([one["content"][0]["text"] for one in page["data"]], page["has_more"]) == (["0", "1"], True)
    rest = stack.client.get(f"/v1/responses/{id}/input_items?order=asc&after={page['last_id']}").json()
    assert ([one["content"][0]["text"] for one in rest["data"]], rest["has_more"]) == (["2"], False)


def test_an_item_can_be_referred_to(stack: Stack) -> None:
    item = post(stack).json()["output"][0]
    reference = {"type": "item_reference", "id": item["id"]}
    assert post(stack, input=[USER, reference, USER]).status_code == 200
    prompt = [m for m in stack.broker.received if isinstance(m, Submit)][-1].generation.prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.messages[1] == {"role": "assistant", "content": TEXT}
    unknown = post(stack, input=[USER, {"type": "item_reference", "id": "msg_nope"}])
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "input[1].id")


def test_what_is_not_to_be_stored_is_not(stack: Stack) -> None:
    answer = post(stack, store=False).json()
    assert not answer["store"]
    assert stack.client.get(f"/v1/responses/{answer['id']}").status_code == 404
    refused = post(stack, previous_response_id=answer["id"])
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "previous_response_id")


def test_tokens_are_counted_as_they_will_be(stack: Stack, sdk: openai.OpenAI) -> None:
    assert sdk.responses.input_tokens.count(model="tiny", input="Hi").input_tokens == PROMPT_TOKENS


def test_a_server_that_keeps_nothing_says_so() -> None:
    with run_stack(response_store_bytes=0) as stack:
        answer = post(stack, store=True).json()
        assert not answer["store"]
        assert not stack.settings.responses_file.exists()


# ---- the store


def stored(id: str, size: int = 10) -> Stored:
    return Stored(id, None, [{"type": "message"}], {"id": id, "output": [], "pad": "x" * size})


def test_what_is_stored_outlives_the_process_that_stored_it(tmp_path: Path) -> None:
    Store(tmp_path / "x" / "s.sqlite", 1 << 20).put(stored("a"), "me")
    assert Store(tmp_path / "x" / "s.sqlite", 1 << 20).get("a", "me") == stored("a")


def test_the_oldest_go_first_when_it_is_full(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite", 1000)
    for id in "abcd":
        store.put(stored(id, 300), "me")
    assert [store.get(id, "me") is not None for id in "abcd"] == [False, False, True, True]
    store.put(stored("e", 2000), "me")
    assert store.get("e", "me") is None


def test_a_finish_by_length_is_told_of_the_last_item_only(stack: Stack) -> None:
    stack.broker.script = saying({"text": "a"}, *call("c1", "f", "{"), reason=FinishReason.LENGTH)
    assert [item["status"] for item in post(stack).json()["output"]] == ["completed", "incomplete"]


def test_the_bytes_held_are_counted_as_they_come_and_go(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite", 2000)
    for id in "abcdefgh":
        store.put(stored(id, 300), "me")
        assert store.delete("b", "me") == (id == "b")
    with closing(sqlite3.connect(tmp_path / "s.sqlite")) as connection:
        [(held,)] = connection.execute("SELECT bytes FROM held")
        [(summed,)] = connection.execute("SELECT sum(size) FROM responses")
    assert held == summed <= 2000


def test_to_anybody_else_a_stored_response_is_not_there(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite", 1 << 20)
    store.put(stored("a"), "me")
    assert store.get("a", "you") is None
    assert list(store.chain("a", "you")) == []
    assert not store.delete("a", "you")
    assert store.get("a", "me") == stored("a")
    store.put(Stored("b", "a", [], {"output": []}), "you")
    assert [len(list(store.chain("b", who))) for who in ("you", "me")] == [1, 0]


def test_a_file_of_another_version_is_begun_anew(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "s.sqlite")) as connection:
        connection.execute("CREATE TABLE responses (number INTEGER PRIMARY KEY, id TEXT)")
    store = Store(tmp_path / "s.sqlite", 1 << 20)
    assert store.get("a", "me") is None
    store.put(stored("a"), "me")
    assert store.get("a", "me") == stored("a")


def test_a_conversation_of_two_thousand_turns_is_joined_in_no_time(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite", 1 << 30)
    store.put(stored("resp_0"), "me")
    rows = [(f"resp_{i}", "me", f"resp_{i - 1}", 100, "[]", '{"output": []}') for i in range(1, 2000)]
    with closing(sqlite3.connect(tmp_path / "s.sqlite")) as connection, connection:
        connection.executemany(
            "INSERT INTO responses (id, owner, previous, size, input, response) VALUES (?, ?, ?, ?, ?, ?)",
            rows,
        )
    began = time.perf_counter()
    assert sum(1 for _ in store.chain("resp_1999", "me")) == 2000
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize("other", [{"Authorization": "Bearer other"}, {"x-api-key": "other"}, {}])
def test_a_stored_response_belongs_to_the_key_that_made_it(stack: Stack, other: dict[str, str]) -> None:
    mine = {"Authorization": "Bearer mine"}
    url, ask = "/v1/responses", stack.client
    id = ask.post(url, json=body(), headers=mine).json()["id"]
    assert ask.get(f"{url}/{id}", headers=other).status_code == 404
    assert ask.get(f"{url}/{id}/input_items", headers=other).status_code == 404
    assert ask.post(f"{url}/{id}/cancel", headers=other).status_code == 404
    assert ask.delete(f"{url}/{id}", headers=other).status_code == 404
    answers = [
        ask.post(url, json=body(previous_response_id=previous), headers=other).json()["error"]
        for previous in (id, "resp_" + "0" * 32)
    ]
    assert {answer["code"] for answer in answers} == {"previous_response_not_found"}
    item = {"type": "item_reference", "id": f"msg_{id.removeprefix('resp_')}0000"}
    assert ask.post(url, json=body(input=[USER, item]), headers=other).status_code == 400
    assert ask.post(url, json=body(input=[USER, item]), headers=mine).status_code == 200
    assert ask.post(url, json=body(previous_response_id=id), headers=mine).status_code == 200
    assert ask.delete(f"{url}/{id}", headers={"x-api-key": "mine"}).status_code == 200


@pytest.mark.parametrize("damage", [b"no database at all " * 100, None])
def test_a_store_that_cannot_be_opened_costs_copies_and_no_answers(damage: bytes | None) -> None:
    with run_stack() as stack:
        first = post(stack).json()["id"]
        for file in stack.settings.responses_file.parent.glob("responses.sqlite*"):
            file.unlink()
        if damage is None:
            stack.settings.responses_file.mkdir()
        else:
            stack.settings.responses_file.write_bytes(damage)
        assert post(stack).status_code == 200
        assert post(stack, stream=True).status_code == 200
        for refused in (
            stack.client.get(f"/v1/responses/{first}"),
            stack.client.delete(f"/v1/responses/{first}"),
            post(stack, previous_response_id=first),
        ):
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
            assert refused.headers["retry-after"]


def test_a_store_that_is_locked_costs_copies_and_no_answers(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite", 1 << 20, patience=0.05)
    store.put(stored("a"), "me")
    with closing(sqlite3.connect(tmp_path / "s.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError):
            store.put(stored("b"), "me")
    store.put(stored("b"), "me")


# ---- truncation


def turns(count: int) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": f"{i} " + "word " * 20} for i in range(count)]


def with_room_for(characters: int) -> Any:
    """A script that refuses longer prompts, as a worker does."""

    def script(submit: Submit) -> Any:
        prompt = submit.generation.prompt
        assert isinstance(prompt, ChatPrompt)
        size = sum(len(message["content"]) for message in prompt.messages)
        if size <= characters:
            yield from saying({"text": "ok"})(submit)
            return
        error = ContextLengthExceeded("too long", prompt_tokens=size, context_length=characters)
        yield Refused(request_id=submit.request_id, attempt=submit.attempt, failure=error.to_failure())

    return script


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_that_is_too_long_loses_its_beginning_if_that_is_wanted(
    stack: Stack, stream: bool
) -> None:
    stack.broker.script = with_room_for(500)
    system = {"role": "system", "content": "Be brief."}
    asked = {"input": [system, *turns(41)], "instructions": "Be kind.", "stream": stream}
    assert post(stack, **asked).status_code == 400
    stack.broker.received.clear()
    assert post(stack, **asked, truncation="auto").status_code == 200
    submits = [message for message in stack.broker.received if isinstance(message, Submit)]
    prompt = submits[-1].generation.prompt
    assert isinstance(prompt, ChatPrompt) and len(submits) <= 4
    said = prompt.messages
    assert [message["content"] for message in said[:2]] == ["Be kind.", "Be brief."]
    assert said[2]["role"] == "user" and said[-1]["content"].startswith("40 ") and len(said) >= 5


def test_a_last_item_that_is_too_long_alone_is_refused(stack: Stack) -> None:
    stack.broker.script = with_room_for(50)
    refused = post(stack, input=turns(3), truncation="auto")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")


@given(
    st.lists(st.sampled_from(["user", "assistant", "system", "call", "output"]), min_size=1, max_size=12),
    st.integers(0, 400),
)
def test_what_is_left_is_an_end_of_the_conversation_and_its_systems_words(
    kinds: list[str], tokens: int
) -> None:
    items = INPUT_ITEMS.validate_python([as_item(kind, i) for i, kind in enumerate(kinds)])
    error = ContextLengthExceeded("too long", prompt_tokens=tokens, context_length=100)
    try:
        left = fewer(items, error)
    except ContextLengthExceeded:
        return
    assert len(left) < len(items) and left[-1] == items[-1]
    systems = [one for one in items if getattr(one, "role", "") == "system"]
    assert [one for one in left if getattr(one, "role", "") == "system"] == systems
    rest = [one for one in left if one not in systems]
    assert rest == [one for one in items if one not in systems][len(items) - len(systems) - len(rest) :]
    assert not rest or rest[0].type != "function_call_output"
    calls = {one.call_id for one in items if isinstance(one, FunctionCallItem)}
    kept = {one.call_id for one in left if isinstance(one, FunctionCallItem)}
    answered = {one.call_id for one in left if isinstance(one, FunctionCallOutputItem)}
    assert not (calls - kept) & answered


def as_item(kind: str, i: int) -> dict[str, Any]:
    match kind:
        case "call":
            return {"type": "function_call", "call_id": f"c{i % 4}", "name": "f", "arguments": "{}"}
        case "output":
            return {"type": "function_call_output", "call_id": f"c{(i - 2) % 4}", "output": f"{i}"}
        case role:
            return {"role": role, "content": f"{i}"}
