"""/v1/responses: events as tables, and over real HTTP with httpx and the official client."""

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from api.generation.usage import Identity
from api.responses.events import ResponseEvents
from api.responses.schemas import ResponsesRequest
from shared.errors import ContextLengthExceeded, InvalidRequest, ServingError, WorkerLost
from shared.protocol import ChatPrompt, Delta, FinishReason, Refused, Submit
from tests.api.conftest import Stack, run_stack
from tests.api.fake_broker import DEADLINE, PROMPT_TOKENS, WORDS, call, logprob, saying
from tests.client import named

TEXT = "".join(WORDS)
TOOL: Any = {"type": "function", "name": "f", "parameters": {"type": "object"}}
IDENTITY = Identity("resp_" + "0" * 32, 1_700_000_000, "tiny")
USER = {"role": "user", "content": "Hi"}


# ---- events


def parsed(data: bytes) -> list[dict[str, Any]]:
    out = named(data)
    assert [one["sequence_number"] for one in out] == list(range(len(out)))
    return out


def stream_of(*tokens: dict[str, Any]) -> tuple[ResponseEvents, bytes]:
    stream = ResponseEvents(IDENTITY, ResponsesRequest(input="Hi"))
    deltas = [Delta(request_id="r", attempt=1, index=0, ids=[1], **fields) for fields in tokens]
    return stream, stream.render(deltas)


def test_a_response_stream_sends_items_parts_and_deltas_in_order() -> None:
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


def test_a_response_tells_the_temperature_in_use_where_the_request_left_it_open() -> None:
    stream, data = stream_of({"text": "Hi", "start": {"prompt_tokens": 1, "temperature": 0.6, "top_p": 0.9}})
    first = parsed(data)[0]["response"]
    assert (first["temperature"], first["top_p"]) == (1.0, 1.0), "not known before the model has begun"
    last = stream.ended(5)
    assert (last.temperature, last.top_p) == (0.6, 0.9)


def test_a_silent_response_stream_sends_keepalive_events() -> None:
    stream = ResponseEvents(IDENTITY, ResponsesRequest(input="Hi"))
    sent = parsed(stream.idle() + stream.idle() + stream.render([]))
    kinds = [one["type"] for one in sent]
    assert kinds == ["response.created", "response.in_progress", "keepalive"]


def test_an_error_in_a_response_stream_has_both_shapes_and_ends_the_response() -> None:
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
def test_the_code_of_a_failed_response_says_whether_to_retry(
    error: ServingError, kind: str, code: str
) -> None:
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


def test_a_response_that_is_cut_off_at_max_output_tokens_is_incomplete(stack: Stack) -> None:
    answer = post(stack, max_output_tokens=2).json()
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert answer["output"][0]["status"] == "incomplete"


def test_a_response_has_its_log_probabilities_in_the_text_part(stack: Stack) -> None:
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
def test_a_response_continues_the_previous_one(stack: Stack, sdk: openai.OpenAI, streamed: bool) -> None:
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


def test_a_stored_response_can_be_fetched_and_deleted(stack: Stack, sdk: openai.OpenAI) -> None:
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


def test_a_stored_response_is_not_streamed_and_says_so(stack: Stack, sdk: openai.OpenAI) -> None:
    made = sdk.responses.create(model="tiny", input="Hi")
    with pytest.raises(openai.BadRequestError) as refused:
        list(sdk.responses.retrieve(made.id, stream=True))
    assert refused.value.param == "stream"
    assert sdk.responses.retrieve(made.id, stream=False).output_text == TEXT


def test_the_input_items_of_a_response_are_listed_in_pages(stack: Stack) -> None:
    id = post(stack, input=[{"role": "user", "content": str(i)} for i in range(3)]).json()["id"]
    page = stack.client.get(f"/v1/responses/{id}/input_items?order=asc&limit=2").json()
    assert ([one["content"][0]["text"] for one in page["data"]], page["has_more"]) == (["0", "1"], True)
    rest = stack.client.get(f"/v1/responses/{id}/input_items?order=asc&after={page['last_id']}").json()
    assert ([one["content"][0]["text"] for one in rest["data"]], rest["has_more"]) == (["2"], False)


def test_an_input_may_refer_to_an_item_of_a_stored_response(stack: Stack) -> None:
    item = post(stack).json()["output"][0]
    reference = {"type": "item_reference", "id": item["id"]}
    assert post(stack, input=[USER, reference, USER]).status_code == 200
    prompt = [m for m in stack.broker.received if isinstance(m, Submit)][-1].generation.prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.messages[1] == {"role": "assistant", "content": TEXT}
    unknown = post(stack, input=[USER, {"type": "item_reference", "id": "msg_nope"}])
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "input[1].id")


def test_a_response_with_store_false_is_not_stored(stack: Stack) -> None:
    answer = post(stack, store=False).json()
    assert not answer["store"]
    assert stack.client.get(f"/v1/responses/{answer['id']}").status_code == 404
    refused = post(stack, previous_response_id=answer["id"])
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "previous_response_id")


def test_input_tokens_counts_the_tokens_of_a_response_request(stack: Stack, sdk: openai.OpenAI) -> None:
    assert sdk.responses.input_tokens.count(model="tiny", input="Hi").input_tokens == PROMPT_TOKENS


def test_a_server_without_a_response_store_answers_store_false() -> None:
    with run_stack(response_store_bytes=0) as stack:
        answer = post(stack, store=True).json()
        assert not answer["store"]
        assert not stack.settings.responses_file.exists()


def test_only_the_last_item_of_a_truncated_response_is_incomplete(stack: Stack) -> None:
    stack.broker.script = saying({"text": "a"}, *call("c1", "f", "{"), reason=FinishReason.LENGTH)
    assert [item["status"] for item in post(stack).json()["output"]] == ["completed", "incomplete"]


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
def test_a_response_store_that_cannot_be_opened_costs_copies_and_no_answers(damage: bytes | None) -> None:
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
