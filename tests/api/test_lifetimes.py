"""Requests through refusals, slow loads, lost workers, a lost broker and clients that disconnect."""

import json
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from pydantic import BaseModel

from shared.protocol import (
    Ack,
    Cancel,
    Chunks,
    Delta,
    Done,
    Failure,
    Finish,
    FinishReason,
    Ping,
    Refused,
    Resubmit,
    Submit,
)
from tests.api.conftest import Stack, chat_body, run_stack
from tests.api.fake_broker import WORDS, accept_only, answer, deltas
from tests.client import chunks

TEXT = "".join(WORDS)
THIRD = '" a"'  # as a chunk has it
FULL = Failure(status=503, code="queue_full", message="64 requests wait.", retry_after=7)


def refuse(submit: Submit) -> Iterable[BaseModel]:
    yield Refused(request_id=submit.request_id, attempt=submit.attempt, failure=FULL)


def first_three(submit: Submit) -> Iterable[BaseModel]:
    """Three tokens of the first attempt, then nothing; later attempts are complete."""
    yield Chunks(deltas=deltas(submit, end=3 if submit.attempt == 1 else None))


@contextmanager
def streaming(stack: Stack, **fields: Any) -> Iterator[Iterator[str]]:
    """The lines of a stream as they arrive."""
    body = chat_body(stream=True, **fields)
    with stack.client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        yield (line for line in response.iter_lines() if line)


def text_of(lines: Iterable[str], index: int = 0) -> str:
    parts = chunks(f"{line}\n\n".encode() for line in lines)
    choices = [choice for chunk in parts for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def read_until(lines: Iterator[str], what: str) -> list[str]:
    seen = []
    for line in lines:
        seen.append(line)
        if what in line:
            return seen
    raise AssertionError(f"the stream ended without {what!r}: {seen}")


# ---- refusals and the head


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_before_the_first_token_is_a_plain_status(stack: Stack, stream: bool) -> None:
    stack.broker.script = refuse
    response = stack.chat(stream=stream)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "7"
    assert response.json()["error"] == {
        "message": "64 requests wait.",
        "type": "server_error",
        "param": None,
        "code": "queue_full",
    }


def test_one_refused_prompt_refuses_the_request_and_cancels_the_others(stack: Stack) -> None:
    def refuse_b(submit: Submit) -> Iterable[BaseModel]:
        return refuse(submit) if getattr(submit.generation.prompt, "text", "") == "b" else accept_only(submit)

    stack.broker.script = refuse_b
    assert stack.complete(prompt=["a", "b"]).status_code == 503
    waiting = stack.broker.wait_for(Submit)
    stack.broker.wait_for(Cancel, lambda cancel: cancel.request_id == waiting.request_id)


def test_a_stream_gets_its_head_and_comments_during_a_slow_load(stack: Stack) -> None:
    stack.broker.script = accept_only
    with streaming(stack) as lines:  # the head has arrived before any token
        submit = stack.broker.wait_for(Submit)
        assert next(lines) == ": keep-alive"
        stack.broker.say(*answer(submit))
        assert text_of(lines) == TEXT


def test_a_refusal_after_the_head_of_a_stream_is_an_error_event_without_done(stack: Stack) -> None:
    stack.broker.script = accept_only
    with streaming(stack) as lines:
        stack.broker.say(*refuse(stack.broker.wait_for(Submit)))
        data = [line for line in lines if not line.startswith(":")]
    assert [json.loads(line[6:])["error"]["code"] for line in data] == ["queue_full"]


def test_a_request_without_a_stream_waits_for_a_slow_load(stack: Stack) -> None:
    def later(submit: Submit) -> Iterable[BaseModel]:
        time.sleep(2 * stack.settings.first_token_silence)
        return answer(submit)

    stack.broker.script = later
    assert stack.chat().json()["choices"][0]["message"]["content"] == TEXT


# ---- resume


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_does_not_notice_a_lost_worker(stack: Stack, stream: bool) -> None:
    def lose(submit: Submit) -> Iterable[BaseModel]:
        yield from first_three(submit)
        if submit.attempt == 1:
            yield Resubmit(request_id=submit.request_id, attempt=1, reason="killed")

    stack.broker.script = lose
    response = stack.chat(stream=stream)
    text = (
        text_of(response.text.splitlines()) if stream else response.json()["choices"][0]["message"]["content"]
    )
    assert text == TEXT
    again = stack.broker.wait_for(Submit, lambda submit: submit.attempt == 2)
    assert again.held == [[100, 101, 102]]


def test_all_unfinished_requests_are_submitted_to_a_new_broker(stack: Stack) -> None:
    stack.broker.script = first_three
    with streaming(stack, n=2) as lines:
        seen = read_until(lines, THIRD)
        stack.broker.restart()
        again = stack.broker.wait_for(Submit, lambda submit: submit.attempt == 2)
        assert again.held == [[100, 101, 102]] * 2
        seen += lines
    assert [text_of(seen, index) for index in (0, 1)] == [TEXT, TEXT]


def test_a_gap_in_the_deltas_is_repaired_by_submitting_again(stack: Stack) -> None:
    def lossy(submit: Submit) -> Iterable[BaseModel]:
        missing = 4 if submit.attempt == 1 else None
        yield Chunks(deltas=[delta for delta in deltas(submit) if delta.index != missing])

    stack.broker.script = lossy
    assert stack.chat().json()["choices"][0]["message"]["content"] == TEXT
    assert stack.broker.wait_for(Submit, lambda submit: submit.attempt == 2).held == [[100, 101, 102, 103]]


def test_a_request_with_too_many_gaps_fails(stack: Stack) -> None:
    def broken(submit: Submit) -> Iterable[BaseModel]:
        yield Chunks(deltas=[delta for delta in deltas(submit) if delta.index != 4])

    stack.broker.script = broken
    response = stack.chat()
    assert (response.status_code, response.json()["error"]["code"]) == (500, "worker_lost")
    stack.broker.wait_for(Cancel)


def test_deltas_of_an_old_attempt_do_not_reach_the_client(stack: Stack) -> None:
    def haunted(submit: Submit) -> Iterable[BaseModel]:
        ghost = [d.model_copy(update={"attempt": submit.attempt - 1, "text": "boo"}) for d in deltas(submit)]
        yield Chunks(deltas=ghost)
        yield Refused(request_id=submit.request_id, attempt=submit.attempt - 1, failure=FULL)
        yield Resubmit(request_id=submit.request_id, attempt=submit.attempt - 1, reason="late")
        yield from answer(submit)

    stack.broker.script = haunted
    assert stack.chat().json()["choices"][0]["message"]["content"] == TEXT
    assert len([m for m in stack.broker.received if isinstance(m, Submit)]) == 1


def test_repeated_deltas_do_not_reach_the_client(stack: Stack) -> None:
    def twice(submit: Submit) -> Iterable[BaseModel]:
        for delta in deltas(submit):
            yield Chunks(deltas=[delta, delta])

    stack.broker.script = twice
    assert stack.chat().json()["choices"][0]["message"]["content"] == TEXT


def test_invalid_messages_and_unknown_requests_from_the_broker_are_ignored(stack: Stack) -> None:
    stack.broker.say_bytes(b"\xc1 not msgpack")
    stack.broker.say(Ping())
    stack.broker.say(Chunks(deltas=[Delta(request_id="nobody", attempt=1, index=0, ids=[1], text="x")]))
    assert stack.chat().status_code == 200


# ---- acknowledgements


def test_received_tokens_are_acknowledged_while_the_request_runs(stack: Stack) -> None:
    def forty_at_once(submit: Submit) -> Iterable[BaseModel]:
        one = Delta(request_id=submit.request_id, attempt=1, index=0, ids=[1], text="x")
        yield Chunks(deltas=[one.model_copy(update={"index": index}) for index in range(40)])

    stack.broker.script = forty_at_once
    with streaming(stack):
        assert stack.broker.wait_for(Ack).next_index == 40


def test_a_finished_request_is_acknowledged_with_done(stack: Stack) -> None:
    assert stack.chat().status_code == 200
    done = stack.broker.wait_for(Done)
    assert done.request_id == stack.broker.wait_for(Submit).request_id


# ---- a broker that is away


def test_a_new_request_waits_for_a_lost_broker_and_then_gets_a_503_with_retry_after() -> None:
    with run_stack() as stack:
        stack.chat()
        stack.broker.deaf = True
        while stack.client.get("/ready").status_code == 200:
            time.sleep(0.01)
        assert stack.client.get("/health").status_code == 200
        started = time.monotonic()
        response = stack.chat()
        assert time.monotonic() - started >= stack.settings.broker_timeout
        assert (response.status_code, response.json()["error"]["code"]) == (503, "broker_unavailable")
        assert int(response.headers["retry-after"]) >= 1
        assert stack.client.get("/v1/models").json()["data"][0]["status"] == "loadable"
        assert stack.client.get("/admin/status").status_code == 503
        stack.broker.deaf = False
        while stack.client.get("/ready").status_code != 200:
            time.sleep(0.01)
        assert stack.chat().status_code == 200
        assert (
            len([m for m in stack.broker.received if isinstance(m, Submit)]) == 2
        )  # the refused one needs none


def test_a_running_request_survives_a_short_absence_of_the_broker_and_not_a_long_one() -> None:
    with run_stack() as stack:
        stack.broker.script = first_three
        with streaming(stack) as lines:
            seen = read_until(lines, THIRD)
            stack.broker.deaf = True
            read_until(lines, ": keep-alive")
            stack.broker.deaf = False
            stack.broker.restart()
            assert text_of([*seen, *lines]) == TEXT
        stack.broker.script = accept_only
        with streaming(stack) as lines:
            stack.broker.deaf = True
            data = [line for line in lines if not line.startswith(":")]
        assert [json.loads(line[6:])["error"]["code"] for line in data] == ["broker_unavailable"]


# ---- clients that leave


def leave_politely(client: socket.socket) -> None:
    client.close()


def leave_rudely(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def post(stack: Stack, path: str = "/v1/chat/completions", **fields: Any) -> socket.socket:
    client = stack.connect()
    content = json.dumps(chat_body(**fields)).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
    client.sendall(f"{head}\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
    return client


@pytest.mark.parametrize("leave", [leave_politely, leave_rudely])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [accept_only, first_three, lambda submit: ()])
def test_the_request_of_a_client_that_disconnects_is_cancelled(
    stack: Stack, script: Any, stream: bool, leave: Any
) -> None:
    stack.broker.script = script
    client = post(stack, stream=stream)
    submit = stack.broker.wait_for(Submit)
    leave(client)
    stack.broker.wait_for(Cancel, lambda cancel: cancel.request_id == submit.request_id)


def test_the_request_of_a_client_that_disconnects_after_the_head_is_cancelled(stack: Stack) -> None:
    stack.broker.script = first_three
    client = post(stack, stream=True)
    assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    leave_rudely(client)
    stack.broker.wait_for(Cancel)


def test_the_request_of_a_connected_client_is_not_cancelled(stack: Stack) -> None:
    stack.chat(stream=True)
    stack.chat()
    assert stack.client.get("/health").status_code == 200
    assert not [m for m in stack.broker.received if isinstance(m, Cancel)]


def test_a_client_that_reads_nothing_is_cut() -> None:
    def flood(submit: Submit) -> Iterable[BaseModel]:
        for index in range(128):
            text = "x" * (1 << 17)
            yield Chunks(
                deltas=[Delta(request_id=submit.request_id, attempt=1, index=index, ids=[1], text=text)]
            )

    with run_stack(send_timeout=0.4) as stack:
        stack.broker.script = flood
        with post(stack, stream=True) as client:
            stack.broker.wait_for(Cancel)
            with suppress(ConnectionResetError):
                while part := client.recv(1 << 20):
                    last = part
            assert not last.endswith(b"0\r\n\r\n")


def test_a_request_whose_body_never_comes_gets_a_408() -> None:
    with run_stack(body_timeout=0.2) as stack, stack.connect() as client:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.sendall(head + b"Content-Length: 5\r\n\r\n{")
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 408 ")


def test_stopping_the_api_cancels_running_requests() -> None:
    with run_stack() as stack:
        stack.broker.script = accept_only
        client = post(stack, stream=True)
        submit = stack.broker.wait_for(Submit)
    client.close()
    assert stack.broker.wait_for(Cancel).request_id == submit.request_id


def test_a_stalled_stream_is_complete_once_its_tokens_come(stack: Stack) -> None:
    stack.broker.script = accept_only
    with streaming(stack) as lines:
        submit = stack.broker.wait_for(Submit)
        read_until(lines, ": keep-alive")
        finish = Finish(reason=FinishReason.LENGTH, completion_tokens=1)
        only = Delta(request_id=submit.request_id, attempt=1, index=0, ids=[1], text="x", finish=finish)
        stack.broker.say(Chunks(deltas=[only]))
        assert read_until(lines, "[DONE]")
