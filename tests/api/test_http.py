"""Routes, answers and errors over real HTTP, with httpx and the official client."""

import json
import sys
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any

import openai
import pytest

from api.generation.catalog import Catalog
from shared.errors import InvalidRequest, ModelUnavailable, QueueFull, ServingError, WorkerLost
from shared.protocol import ChatPrompt, ModelStatus, Refused, Submit, TokenPrompt
from tests.api.conftest import Stack, chat_body
from tests.api.fake_broker import DEADLINE, PROMPT_TOKENS, WORDS

TEXT = "".join(WORDS)
JSON = {"content-type": "application/json"}


@pytest.fixture
def sdk(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0, timeout=DEADLINE) as client:
        yield client


# ---- answers


def test_a_chat_completion_has_the_keys_clients_rely_on(stack: Stack) -> None:
    body = stack.chat().json()
    assert body["id"].startswith("chatcmpl-")
    assert (body["object"], body["model"]) == ("chat.completion", "tiny")
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": TEXT, "refusal": None, "annotations": []},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert {"service_tier", "created"} <= body.keys()
    assert isinstance(body["system_fingerprint"], str)  # the specification allows no null here
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] == 7 + len(WORDS)


def test_n_choices_are_answered_in_order_and_their_usage_is_summed(stack: Stack) -> None:
    body = stack.chat(n=3, max_tokens=2).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (PROMPT_TOKENS, 6)


def test_the_tokens_of_logprobs_concatenate_to_the_content(stack: Stack) -> None:
    choice = stack.chat(logprobs=True, top_logprobs=2).json()["choices"][0]
    entries = choice["logprobs"]["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in entries).decode() == choice["message"]["content"]
    assert choice["logprobs"]["refusal"] is None
    assert all(len(entry["top_logprobs"]) == 2 for entry in entries)


def test_a_completion_of_many_prompts_is_one_submit_each_and_one_answer(stack: Stack) -> None:
    body = stack.complete(prompt=[[1, 2], [3, 4, 5]], n=2, max_tokens=1).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (5, 4)
    prompts = [m.generation.prompt for m in stack.broker.received if isinstance(m, Submit)]
    assert prompts == [TokenPrompt(ids=[1, 2]), TokenPrompt(ids=[3, 4, 5])]


def test_echo_puts_each_prompt_before_its_completion(stack: Stack) -> None:
    body = stack.complete(prompt=["a: ", "b: "], echo=True, max_tokens=1).json()
    assert [choice["text"] for choice in body["choices"]] == ["a: Once", "b: Once"]


def test_completion_logprobs_are_four_arrays_of_one_length(stack: Stack) -> None:
    scores = stack.complete(logprobs=2).json()["choices"][0]["logprobs"]
    assert {len(scores[key]) for key in scores} == {len(WORDS)}
    assert scores["tokens"] == list(WORDS)
    assert scores["top_logprobs"][0] == {"t0": -0.5, "t1": -1.5, "Once": -0.25}


def test_the_streamed_text_is_the_whole_text(stack: Stack, sdk: openai.OpenAI) -> None:
    stream = sdk.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Hi"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == TEXT
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(WORDS)


def test_the_stream_helper_of_the_official_client_understands_n_choices(sdk: openai.OpenAI) -> None:
    with sdk.chat.completions.stream(
        model="tiny", messages=[{"role": "user", "content": "Hi"}], n=2
    ) as stream:
        stream.until_done()
        final = stream.get_final_completion()
    assert [choice.message.content for choice in final.choices] == [TEXT, TEXT]
    assert [choice.message.role for choice in final.choices] == ["assistant", "assistant"]


def test_the_official_client_streams_completions(sdk: openai.OpenAI) -> None:
    stream = sdk.completions.create(model="tiny", prompt=["a", "b"], stream=True)
    texts = {0: "", 1: ""}
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == {0: TEXT, 1: TEXT}


def test_a_stream_is_sent_as_an_event_stream_that_is_not_cached(stack: Stack) -> None:
    response = stack.chat(stream=True)
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["cache-control"] == "no-cache, no-transform"
    assert response.headers["x-accel-buffering"] == "no"
    assert "content-length" not in response.headers
    assert response.text.endswith("data: [DONE]\n\n")
    assert "\nid:" not in response.text


def test_chat_messages_reach_the_broker_in_the_inner_form(stack: Stack) -> None:
    stack.chat(messages=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
    prompt = stack.broker.wait_for(Submit).generation.prompt
    assert isinstance(prompt, ChatPrompt)
    assert [message["role"] for message in prompt.messages] == ["system", "user"]


# ---- models and health


def test_models_are_listed_hot_first_for_both_kinds_of_client(stack: Stack) -> None:
    stack.broker.models = [ModelStatus(id="org/name", state="hot", context_length=2048)]
    body = stack.client.get("/v1/models").json()
    assert [(m["id"], m["status"], m["context_length"]) for m in body["data"]] == [
        ("org/name", "hot", 2048),
        ("tiny", "loadable", None),
    ]
    assert (body["object"], body["has_more"], body["first_id"], body["last_id"]) == (
        "list",
        False,
        "org/name",
        "tiny",
    )
    one = body["data"][0]
    assert (one["object"], one["type"], one["lifecycle"]) == ("model", "model", "active")
    assert isinstance(one["created"], int)


def test_a_model_that_cannot_be_loaded_is_not_called_active(stack: Stack) -> None:
    stack.broker.models = [ModelStatus(id="tiny", state="failed", reason="no such folder")]
    listed = {one["id"]: one for one in stack.client.get("/v1/models").json()["data"]}
    assert (listed["tiny"]["status"], listed["tiny"]["lifecycle"]) == ("failed", "retired")
    assert (listed["org/name"]["status"], listed["org/name"]["lifecycle"]) == ("loadable", "active")


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (ModelUnavailable("no such folder"), {"x-should-retry": "false"}),
        (ModelUnavailable("killed from outside", retry_after=7), {"retry-after": "7"}),
        (QueueFull("full", retry_after=3), {"retry-after": "3"}),
        (InvalidRequest("not so", param="x"), {"x-should-retry": "false"}),
        (WorkerLost("gone"), {}),
    ],
)
def test_a_refusal_says_whether_to_retry(stack: Stack, error: ServingError, again: dict[str, str]) -> None:
    def script(submit: Submit) -> Any:
        yield Refused(request_id=submit.request_id, attempt=submit.attempt, failure=error.to_failure())

    stack.broker.script = script
    for path in ("/v1/chat/completions", "/v1/messages"):
        headers = stack.client.post(path, json=chat_body(max_tokens=5)).headers
        said = {name: headers[name] for name in ("retry-after", "x-should-retry") if name in headers}
        assert said == again


def test_the_official_client_does_not_retry_what_cannot_succeed(stack: Stack) -> None:
    def script(submit: Submit) -> Any:
        asked.append(submit.request_id)
        failure = ModelUnavailable("no such folder").to_failure()
        yield Refused(request_id=submit.request_id, attempt=submit.attempt, failure=failure)

    asked: list[str] = []
    stack.broker.script = script
    with (
        openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none") as client,
        pytest.raises(openai.InternalServerError, match="no such folder"),
    ):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hi"}])
    assert len(asked) == 1


@pytest.mark.parametrize("path", ["org/name", "org%2Fname"])
def test_a_model_id_with_a_slash_is_found_raw_and_percent_encoded(stack: Stack, path: str) -> None:
    assert stack.client.get(f"/v1/models/{path}").json()["id"] == "org/name"


@pytest.mark.parametrize("path", ["nope", "no/such", "no%2Fsuch", "../etc", "%2Fetc"])
def test_an_unknown_model_in_the_path_of_models_is_a_404(stack: Stack, path: str) -> None:
    response = stack.client.get(f"/v1/models/{path}")
    assert response.status_code == 404


def test_the_official_client_lists_models(sdk: openai.OpenAI) -> None:
    assert {model.id for model in sdk.models.list()} == {"tiny", "org/name"}
    assert sdk.models.retrieve("org/name").id == "org/name"


def test_health_ready_and_admin_status_answer(stack: Stack) -> None:
    assert stack.client.get("/health").json() == {"status": "ok"}
    assert stack.client.get("/ready").status_code == 200
    status = stack.client.get("/admin/status").json()
    assert status["epoch"] == stack.broker.epoch
    assert isinstance(status["api_pid"], int)


def test_the_root_names_the_server(stack: Stack) -> None:
    assert stack.client.head("/").status_code == 200
    assert stack.client.get("/").json()["name"] == "mlx-server"


# ---- errors


def error_of(response: Any) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/json"
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


@pytest.mark.parametrize(
    ("method", "path", "content", "headers", "status", "code"),
    [
        ("POST", "/v1/chat/completions", b"{", JSON, 400, "invalid_json"),
        ("POST", "/v1/chat/completions", b"", JSON, 400, "invalid_json"),
        ("POST", "/v1/chat/completions", b"a=b", {"content-type": "text/plain"}, 415, None),
        ("POST", "/v1/chat/completions", b"{}", {}, 415, None),
        ("POST", "/v1/responses/resp_none/cancel", b"", {}, 404, "response_not_found"),
        ("POST", "/no/such", b"{}", JSON, 404, None),
        ("GET", "/nope", b"", {}, 404, None),
        ("POST", "/v1/responses/compact", b"{}", JSON, 404, None),
        ("GET", "/v1/chat/completions", b"", {}, 405, None),
        ("DELETE", "/v1/models/tiny", b"", {}, 405, None),
        ("POST", "/v1/chat/completions", b"x" * (1 << 20) + b"x", JSON, 413, None),
        ("POST", "/v1/chat/completions", b'{"prompt": 1, "messages": 5}', JSON, 400, "invalid_type"),
    ],
)
def test_every_error_is_an_openai_error(
    stack: Stack,
    method: str,
    path: str,
    content: bytes,
    headers: dict[str, str],
    status: int,
    code: str | None,
) -> None:
    response = stack.client.request(method, path, content=content, headers=headers)
    assert response.status_code == status
    error = error_of(response)
    assert (error["type"], error["code"]) == ("invalid_request_error", code)


def test_a_wrong_method_is_a_405_that_lists_the_right_ones(stack: Stack) -> None:
    assert "POST" in stack.client.get("/v1/completions").headers["allow"]


def test_a_content_type_with_a_charset_is_accepted(stack: Stack) -> None:
    content = json.dumps(chat_body()).encode()
    headers = {"content-type": "application/json; charset=utf-8"}
    assert stack.client.post("/v1/chat/completions?x=y", content=content, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "method"),
    [
        ({"content-type": "application/x-www-form-urlencoded"}, "POST"),
        ({"content-type": "multipart/form-data; boundary=x"}, "POST"),
        ({"content-type": "text/plain"}, "POST"),
        ({"content-type": "text/plain", "origin": "http://localhost:3000"}, "POST"),
        ({"content-type": "application/json", "origin": "null"}, "POST"),
        ({"content-type": "application/json", "origin": "https://evil.example"}, "POST"),
        ({"origin": "https://evil.example", "access-control-request-method": "POST"}, "OPTIONS"),
        ({"origin": "http://localhost:3000", "access-control-request-method": "POST"}, "OPTIONS"),
    ],
)
def test_what_a_page_can_send_without_leave_reaches_no_broker_and_may_be_read_by_no_page(
    stack: Stack, headers: dict[str, str], method: str
) -> None:
    content = json.dumps(chat_body()).encode()
    answer = stack.client.request(method, "/v1/chat/completions", headers=headers, content=content)
    assert answer.status_code in (403, 405, 415) or method == "OPTIONS"
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert not [m for m in stack.broker.received if isinstance(m, Submit)]


OPENED: list[str] = []  # by the test below
HOOKS: list[bool] = []  # a hook stays until the process ends, so there is one


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if OPENED and event in ("open", "os.listdir", "os.scandir", "socket.connect", "socket.getaddrinfo"):
        OPENED.append(f"{event} {arguments[0]}")


def test_a_name_of_a_model_opens_no_file_and_no_connection(stack: Stack) -> None:
    if not HOOKS:
        sys.addaudithook(_note)
        HOOKS.append(True)
    names = [
        "../../etc/passwd",
        "/etc/passwd",
        "hf.co/x/y",
        "x" * 10_000,
        "t\u0131ny",
        "tiny\0",
        "file:///etc",
        "~",
    ]
    catalog = Catalog(stack.settings)
    OPENED.append("from here on")
    try:
        for name in names:
            with pytest.raises(ServingError):
                catalog.resolve(name)
        found = OPENED[1:]
    finally:
        OPENED.clear()
    assert found == []


@pytest.mark.parametrize("model", ["nope", "no/such", "../../etc", "/etc", "", "tiny\x00"])
def test_an_unknown_model_is_a_404_without_asking_the_broker(stack: Stack, model: str) -> None:
    response = stack.chat(model=model)
    assert response.status_code == 404
    error = error_of(response)
    assert (error["code"], error["param"]) == ("model_not_found", None)
    assert not [m for m in stack.broker.received if isinstance(m, Submit)]


def test_a_request_without_a_model_is_an_error_of_that_field(stack: Stack) -> None:
    error = error_of(stack.client.post("/v1/completions", json={"prompt": "x"}))
    assert (error["param"], error["code"]) == ("model", "missing_required_parameter")


def test_a_bad_request_for_a_stream_gets_a_plain_400(stack: Stack) -> None:
    response = stack.chat(stream=True, temperature=9)
    assert response.status_code == 400
    assert error_of(response)["param"] == "temperature"


def test_the_official_client_raises_the_right_exceptions(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        sdk.chat.completions.create(model="nope", messages=[{"role": "user", "content": "Hi"}])
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        sdk.chat.completions.create(model="tiny", messages=[])
    assert bad.value.param == "messages"


# ---- the guard


def test_every_answer_has_a_request_id_of_its_own(stack: Stack) -> None:
    responses = [
        stack.chat(),
        stack.chat(),
        stack.chat(n=0),
        stack.client.get("/nope"),
        stack.chat(stream=True),
    ]
    ids = [response.headers["x-request-id"] for response in responses]
    assert len(set(ids)) == 5
    assert all(id.startswith("req_") for id in ids)


@pytest.mark.parametrize(
    ("sent", "kept"), [("abc-1", True), ("x" * 128, True), ("x" * 129, False), ("a b", False)]
)
def test_a_valid_request_id_of_the_client_is_echoed(stack: Stack, sent: str, kept: bool) -> None:
    response = stack.client.get("/health", headers={"x-request-id": sent})
    assert (response.headers["x-request-id"] == sent) == kept


def test_a_chunked_request_body_is_read(stack: Stack) -> None:
    body = json.dumps(chat_body(max_tokens=1)).encode()
    response = stack.client.post("/v1/chat/completions", content=iter([body[:20], body[20:]]), headers=JSON)
    assert response.status_code == 200


OFFERS = {
    "Java's": ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"],
    "a keeping": ["Connection: keep-alive, upgrade", "Upgrade: TLS/1.0, HTTP/1.1"],
    "a socket's": ["Upgrade: websocket", "Connection: Upgrade"],
}


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("pieces", [1, 2, 1000])
def test_an_offer_to_speak_another_protocol_is_not_taken_and_costs_no_body(
    stack: Stack, offer: str, chunked: bool, pieces: int
) -> None:
    body = json.dumps(chat_body()).encode()
    size = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    head = "\r\n".join([*lines, size, *OFFERS[offer], "", ""]).encode()
    request = head + (b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body)
    with stack.connect() as connection:
        for _ in range(2):  # the connection goes on
            for i in range(pieces):
                size_of_piece = -(-len(request) // pieces)
                if piece := request[i * size_of_piece : (i + 1) * size_of_piece]:
                    connection.sendall(piece)
            response = HTTPResponse(connection)
            response.begin()
            assert response.status == 200
            assert json.loads(response.read())["choices"][0]["message"]["content"] == TEXT


@pytest.mark.parametrize("length", [b"Content-Length: 8388608", b"Transfer-Encoding: chunked"])
def test_a_client_still_sending_too_much_can_read_its_413(stack: Stack, length: bytes) -> None:
    with stack.connect() as client:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.sendall(head + length + b"\r\nConnection: close\r\n\r\n")
        block = b"a" * (1 << 18)
        for _ in range(32):
            client.sendall(b"40000\r\n" + block + b"\r\n" if b"chunked" in length else block)
        if b"chunked" in length:
            client.sendall(b"0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(1 << 16), b""))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"error"' in answer


def test_a_connection_is_kept_alive_after_a_refusal(stack: Stack) -> None:
    with stack.connect() as client, client.makefile("rb") as lines:
        for _ in range(3):
            client.sendall(b"GET /nope HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert lines.readline().startswith(b"HTTP/1.1 404 ")
            headers = dict(line.lower().split(b": ", 1) for line in iter(lines.readline, b"\r\n"))
            lines.read(int(headers[b"content-length"]))
