"""Whatever a hosted server says, and whenever: one answer or one error for the client, and a word in each silence."""

import gzip
import json
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.faults.stack import FaultStack, fault_stack
from tests.faults.test_hosting import chat, served, serving

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]

KEEP_ALIVE = 0.5  # seconds
MODELS = {
    "verbatim": served("--do", "verbatim"),
    "late": served("--late", "3", "--endpoints", "chat/completions"),
    "floods": served("--do", "floods"),
}
ANSWER = {
    "object": "chat.completion",
    "model": "theirs",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
WHOLE = json.dumps(ANSWER)
HUGE = WHOLE.replace('"prompt_tokens": 1', f'"prompt_tokens": {10**400}')
DEEP = '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"


@pytest.fixture(scope="module")
def stack() -> Iterator[FaultStack]:
    with fault_stack(**serving(MODELS, first_token_silence=KEEP_ALIVE, keepalive=KEEP_ALIVE)) as running:
        yield running
        running.check()


def http(body: str | bytes, kind: str = "application/json", status: str = "200 OK", more: str = "") -> str:
    text = body if isinstance(body, str) else body.decode("latin-1")
    head = f"HTTP/1.1 {status}\r\nconnection: close\r\n{more}"
    return head + (f"content-type: {kind}\r\n" if kind else "") + f"\r\n{text}"


def chunk(text: str | None = None, reason: str | None = None) -> str:
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return f"data: {json.dumps({'model': 'theirs', 'choices': [choice]})}\n\n"


STREAM = chunk("Pa") + chunk("ris") + chunk(None, "stop") + "data: [DONE]\n\n"


def asked(stack: FaultStack, *said: tuple[float, str], stream: bool = False) -> httpx.Response:
    body = chat("verbatim", json.dumps(said), stream=stream)
    return stack.http.post("/v1/chat/completions", json=body)


@pytest.mark.parametrize(
    "said",
    [
        http(WHOLE),
        http(WHOLE, kind=""),
        http(WHOLE, kind="text/plain"),
        http("\xef\xbb\xbf" + WHOLE),
        http(gzip.compress(WHOLE.encode()), more="content-encoding: gzip\r\n"),
        http(HUGE),
        "HTTP/1.1 100 Continue\r\n\r\n" + http(WHOLE),
    ],
    ids=["plain", "no type", "as text", "marked", "compressed", "huge counts", "continue"],
)
def test_an_answer_is_one_in_whatever_it_is_wrapped(stack: FaultStack, said: str) -> None:
    answer = asked(stack, (0, said))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert (answer.json()["model"], answer.json()["choices"]) == ("verbatim", ANSWER["choices"])


@pytest.mark.parametrize(
    ("said", "stream"),
    [
        (http("", status="307 Elsewhere", more="location: /\r\n"), False),
        (http("<html>", kind="text/html"), False),
        (http("", status="204 Nothing"), False),
        (http(WHOLE, status="799 What"), False),
        (http(DEEP), False),
        (http("[1]"), False),
        (http(STREAM, kind="text/event-stream"), False),
        (http(WHOLE), True),
        (http("<html>", kind="text/html"), True),
        ("SSH-2.0-OpenSSH_9.6\r\n", True),
    ],
    ids=[
        "elsewhere",
        "page",
        "nothing",
        "no status",
        "deep",
        "list",
        "stream",
        "whole",
        "page of one",
        "ssh",
    ],
)
def test_what_is_no_answer_to_what_was_asked_is_one_error(stack: FaultStack, said: str, stream: bool) -> None:
    answer = asked(stack, (0, said), stream=stream)
    if answer.status_code == 200:  # the head went out before it was known
        [event] = [line for line in answer.text.splitlines() if line.startswith("data: ")]
        assert json.loads(event[6:])["error"]["code"] == "hosted_server_failed"
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "hosted_server_failed")


def test_a_stream_that_ends_with_its_reason_is_whole_and_one_that_only_says_done_is_not(
    stack: FaultStack,
) -> None:
    kind = "text/event-stream"
    without = asked(stack, (0, http(chunk("a") + chunk(None, "stop"), kind=kind)), stream=True)
    assert "error" not in without.text
    cut = asked(stack, (0, http(chunk("[DONE]") + chunk('"error"'), kind=kind)), stream=True)
    assert "ended its answer before it was whole" in cut.text


def test_a_compressed_stream_is_passed_as_what_it_says(stack: FaultStack) -> None:
    packed = http(gzip.compress(STREAM.encode()), "text/event-stream", more="content-encoding: gzip\r\n")
    assert asked(stack, (0, packed), stream=True).text == STREAM.replace("theirs", "verbatim")


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_silence_is_filled_with_comments_between_events_only(stack: FaultStack, at: int) -> None:
    head, body = http("", kind="text/event-stream"), STREAM.replace("theirs", "verbatim")
    begun, cut = STREAM[: STREAM.index("\n\n") + 2], STREAM.index("ris")
    parts = [("", head + STREAM), (head + begun, STREAM[len(begun) :]), (head + STREAM[:cut], STREAM[cut:])]
    before, behind = parts[at]
    text = asked(stack, (0, before), (5 * KEEP_ALIVE, behind), stream=True).text
    comments = [line for line in text.split("\n\n") if line.startswith(":")]
    assert bool(comments) is (at < 2)  # a comment in the middle of an event would be part of it
    assert "".join(f"{part}\n\n" for part in text.split("\n\n") if part and part[0] != ":") == body


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
def test_a_dialect_that_its_server_turns_out_to_lack_is_translated_behind_a_head_that_is_out(
    stack: FaultStack, path: str
) -> None:
    stack.http.post("/admin/models/late/unload", json={"wait": True})
    bound = {"max_tokens": 9} if path == "/v1/messages" else {"max_output_tokens": 9}
    said = {"messages": [{"role": "user", "content": "Hi"}]} if path == "/v1/messages" else {"input": "Hi"}
    answer = stack.http.post(path, json={"model": "late", "stream": True, **bound, **said})
    assert answer.status_code == 200
    assert answer.text.startswith(":"), "the head is out before its server listens"
    last = answer.text.rstrip().rpartition("data: ")[2]
    assert json.loads(last)["type"] in ("message_stop", "response.completed")
    wrong = stack.http.post(path, json={"model": "late", "stream": True, **bound})
    assert wrong.status_code == 400


def test_a_server_that_floods_its_log_fills_no_disk(stack: FaultStack) -> None:
    assert stack.http.post("/v1/chat/completions", json=chat("floods")).status_code == 200
    until = time.monotonic() + 3
    while time.monotonic() < until:
        stack.http.get("/v1/models")
    assert len(stack.log("worker-floods")) < 4 << 20
    assert "bytes are left out here" in stack.log("worker-floods")


def test_times_to_the_first_text_of_a_hosted_answer_are_measured(stack: FaultStack) -> None:
    asked(stack, (0, http(STREAM, kind="text/event-stream")), stream=True)
    stack.until(lambda: _first_tokens(stack) >= 1, "with a measured first token")


def _first_tokens(stack: FaultStack) -> float:
    rows = [
        line.rpartition(" ")[2]
        for line in stack.http.get("/metrics").text.splitlines()
        if line.startswith('vllm:time_to_first_token_seconds_count{model_name="verbatim"')
    ]
    return sum(map(float, rows))
