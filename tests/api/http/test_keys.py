"""Requests with and without API keys, through the whole api."""

import logging
import time
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from shared.api_keys import KeyFile
from shared.errors import KeyLimitReached
from shared.protocol import Ack, Done, KeyTerms, Refused, Submit
from tests.api.conftest import Stack, chat_body, run_stack
from tests.api.fake_broker import DEADLINE, PROMPT_TOKENS, WORDS
from tests.api.http.test_caller import DIALECTS

ADMIN = "an-admin-key-for-tests"


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.json")


@pytest.fixture
def stack(keys: KeyFile) -> Iterator[Stack]:
    with run_stack(keys_file=keys.path, api_keys=f"ops:admin={ADMIN}") as running:
        yield running


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_without_keys_any_key_or_none_is_served(keys: KeyFile) -> None:
    with run_stack(keys_file=keys.path) as stack:
        assert stack.client.post("/v1/chat/completions", json=chat_body()).status_code == 200
        assert stack.client.get("/v1/models", headers=bearer("any")).status_code == 200


@pytest.mark.parametrize("path", DIALECTS)
@pytest.mark.parametrize("headers", [{}, bearer("wrong"), {"x-api-key": "wrong"}])
def test_once_there_are_keys_a_request_without_one_is_a_401_that_reaches_no_broker(
    stack: Stack, path: str, headers: dict[str, str]
) -> None:
    answer = stack.client.post(path, json=DIALECTS[path], headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    said = answer.json()["error"]
    expected = {"authentication_error"} if path == "/v1/messages" else {"invalid_request_error"}
    assert {said["type"]} == expected
    assert not any(isinstance(message, Submit) for message in stack.broker.received)


def test_a_401_comes_before_the_body_is_read(stack: Stack) -> None:
    with stack.connect() as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000000\r\n\r\n"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
@pytest.mark.parametrize("path", DIALECTS)
def test_a_key_is_served_in_every_dialect_and_header(
    stack: Stack, keys: KeyFile, path: str, header: str
) -> None:
    key = keys.add("anna")
    value = f"Bearer {key}" if header == "authorization" else key
    assert stack.client.post(path, json=DIALECTS[path], headers={header: value}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/docs", "/openapi.json"])
def test_probes_and_the_reference_need_no_key(stack: Stack, path: str) -> None:
    assert stack.client.get(path).status_code == 200


@pytest.mark.parametrize(
    "path", ["/v1/models", "/nowhere", "/v1/responses/resp_x", "/admin/status", "/health/x"]
)
def test_every_other_path_needs_a_key_whether_it_exists_or_not(stack: Stack, path: str) -> None:
    assert code(stack.client.get(path)) == (401, "invalid_api_key")


def test_a_revoked_key_is_refused_at_once(stack: Stack, keys: KeyFile) -> None:
    key = keys.add("anna")
    assert stack.client.get("/v1/models", headers=bearer(key)).status_code == 200
    keys.revoke("anna")
    assert code(stack.client.get("/v1/models", headers=bearer(key))) == (401, "invalid_api_key")


def test_administration_needs_a_key_that_may(stack: Stack, keys: KeyFile) -> None:
    key = keys.add("anna")
    assert code(stack.client.get("/admin/status", headers=bearer(key))) == (403, "admin_key_required")
    assert stack.client.get("/admin/status", headers=bearer(ADMIN)).status_code == 200


def test_the_token_of_the_run_directory_is_a_key_that_may_administrate(stack: Stack) -> None:
    stack.settings.token_file.write_text("the-owners-token\n")
    headers = bearer("the-owners-token")
    assert stack.client.get("/admin/status", headers=headers).status_code == 200
    assert stack.client.get("/v1/models", headers=headers).status_code == 200


def test_a_key_for_some_models_sees_and_uses_only_these(stack: Stack, keys: KeyFile) -> None:
    key = keys.add("anna", models=["tiny"])
    listed = stack.client.get("/v1/models", headers=bearer(key)).json()["data"]
    assert [model["id"] for model in listed] == ["tiny"]
    everything = stack.client.get("/v1/models", headers=bearer(ADMIN)).json()["data"]
    other = next(model["id"] for model in everything if model["id"] != "tiny")
    for path, body in DIALECTS.items():
        assert stack.client.post(path, json=body, headers=bearer(key)).status_code == 200
        refused = stack.client.post(path, json={**body, "model": other}, headers=bearer(key))
        assert refused.status_code == 403
        assert "tiny" in refused.json()["error"]["message"]
    assert code(stack.client.get(f"/v1/models/{other}", headers=bearer(key))) == (403, "model_not_allowed")


def test_a_stored_response_belongs_to_the_key_that_made_it(stack: Stack, keys: KeyFile) -> None:
    anna, otto = keys.add("anna"), keys.add("otto")
    made = stack.client.post(
        "/v1/responses", json={"model": "tiny", "input": "Hi"}, headers=bearer(anna)
    ).json()
    path = f"/v1/responses/{made['id']}"
    assert stack.client.get(path, headers=bearer(anna)).status_code == 200
    assert stack.client.get(path, headers=bearer(otto)).status_code == 404


@pytest.mark.parametrize("path", DIALECTS)
def test_a_limit_of_the_key_is_a_429_with_retry_after_in_every_dialect(
    stack: Stack, keys: KeyFile, path: str
) -> None:
    def refuse(submit: Submit) -> list[Refused]:
        assert submit.key == KeyTerms(name="anna", priority="low", concurrency=2, tokens_per_minute=90)
        failure = KeyLimitReached("The key 'anna' has used more.", retry_after=7).to_failure()
        return [Refused(request_id=submit.request_id, attempt=submit.attempt, failure=failure)]

    key = keys.add("anna", priority="low", concurrency=2, tokens_per_minute=90)
    stack.broker.script = refuse
    answer = stack.client.post(path, json={**DIALECTS[path], "stream": True}, headers=bearer(key))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert answer.json()["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_the_broker_is_told_once_what_a_request_with_a_key_has_used(
    stack: Stack, keys: KeyFile, path: str
) -> None:
    stack.client.post(path, json={**DIALECTS[path], "max_tokens": 8}, headers=bearer(keys.add("anna")))
    stack.broker.wait_for(Done)
    told = [message.spent for message in stack.broker.received if isinstance(message, Ack | Done)]
    assert sum(spent.prompt for spent in told if spent) == PROMPT_TOKENS
    assert sum(spent.out for spent in told if spent) == len(WORDS)
    assert sum(spent.cached for spent in told if spent) == 2


def test_without_a_key_nothing_is_told_of_tokens() -> None:
    with run_stack() as open_stack:
        open_stack.chat()
        assert open_stack.broker.wait_for(Done).spent is None
        assert open_stack.broker.wait_for(Submit).key is None


def test_a_stream_of_administration_ends_with_the_key_that_asked_for_it(stack: Stack, keys: KeyFile) -> None:
    key = keys.add("bert", admin=True)
    with stack.client.stream("GET", "/admin/events", headers=bearer(key)) as answer:
        pieces = answer.iter_bytes()
        next(pieces)
        keys.revoke("bert")
        deadline = time.monotonic() + DEADLINE
        heard = list(takewhile(lambda _: time.monotonic() < deadline, pieces))
    assert b"invalid_api_key" in heard[-1]


def test_no_log_answer_status_or_metric_holds_a_key(
    keys: KeyFile, stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    made, wrong = keys.add("anna", tokens_per_minute=1), "a-wrong-key-that-somebody-tried"
    with caplog.at_level(logging.DEBUG):
        texts = [
            stack.client.get(path, headers={**headers, "host": "localhost"}).text
            for headers in (bearer(made), bearer(wrong), {"x-api-key": wrong}, bearer(ADMIN))
            for path in ("/v1/models", "/admin/status", "/metrics", "/nowhere")
        ]
        texts.append(stack.client.post("/v1/chat/completions", json=chat_body(), headers=bearer(made)).text)
        stack.client.post("/v1/chat/completions", json=chat_body(model=made), headers=bearer(made))
    said = caplog.text + "".join(texts)
    assert "req_" in said
    assert [key for key in (made, wrong, ADMIN) if key in said] == []
