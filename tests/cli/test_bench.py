"""``mlx-server bench``: what it counts, and against which servers it says what it could not do."""

import json
from typing import Any

import pytest

from cli.bench.figures import Answered, level, take
from tests.cli.answering import answering
from tests.cli.command import call
from tests.e2e.stack import scripted_stack
from tests.ports import free_port


def chunk(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}}]}


def stream(*texts: str, tokens: int = 0, done: bool = True) -> str:
    events = [
        *map(chunk, texts),
        *([{"choices": [], "usage": {"completion_tokens": tokens}}] if tokens else []),
    ]
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + (
        "data: [DONE]\n\n" if done else ""
    )


def answered(*arrivals: float, sent: float = 0.0, tokens: int = 2, failure: str = "") -> Answered:
    return Answered(sent, list(arrivals), arrivals[-1] if arrivals else sent, tokens, 7, failure)


def test_a_level_counts_requests_tokens_first_tokens_and_gaps() -> None:
    found = level(2, [answered(1.0, 1.5, 3.5, tokens=3), answered(2.5, 3.0, sent=0.5, tokens=2)], seconds=4.0)
    assert (found.requests, found.failed) == (2, 0)
    assert (found.requests_per_second, found.tokens_per_second) == (0.5, 1.25)
    assert (found.first_token_p50, found.first_token_p99) == (1.0, 2.0)
    assert (found.gap_p50, found.gap_p99, found.gap_max) == (0.5, 2.0, 2.0)
    assert (found.whole_p50, found.whole_p99) == (2.5, 3.5)
    assert (found.prompt_tokens, found.tokens) == (14, 5)


def test_a_request_that_failed_is_in_no_other_figure() -> None:
    found = level(1, [answered(1.0, 2.0), answered(9.0, failure="it broke off")], seconds=2.0)
    assert (found.requests, found.failed) == (2, 1)
    assert found.requests_per_second == 0.5
    assert found.first_token_p99 == 1.0


def test_where_nothing_came_there_are_no_figures() -> None:
    found = level(1, [answered(failure="503")], seconds=1.0)
    assert (found.failed, found.first_token_p50, found.gap_max, found.whole_p99) == (1, None, None, None)


def test_what_comes_in_one_read_is_no_gap() -> None:
    answer = Answered(sent=0.0)
    for now, text in ((1.0, "a"), (1.0, "b"), (2.0, "c"), (2.0, "")):
        take(chunk(text), answer, now)
    assert answer.arrivals == [1.0, 2.0]


def bench(port: str, *more: str) -> tuple[int, dict[str, Any], str]:
    words = [
        "bench",
        f"http://127.0.0.1:{port}/v1",
        "--model",
        "a",
        "--json",
        "--clients",
        "2",
        "--requests",
        "4",
    ]
    done = call(*words, *more)
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def test_tokens_are_those_that_the_server_counts() -> None:
    with answering(200, stream("one", "two", tokens=5)) as (port, asked):
        code, said, _ = bench(port)
    assert code == 0
    assert [(each["clients"], each["requests"], each["tokens"]) for each in said["levels"]] == [(2, 4, 20)]
    bodies = [body for _, body in asked if isinstance(body, dict)]
    prompts = {body["messages"][0]["content"] for body in bodies}
    assert len(prompts) == len(bodies) == 5  # one to load the model, and no two alike


@pytest.mark.parametrize(
    ("status", "said", "sentence"),
    [
        (503, {"error": {"message": "the queue is full"}}, "503: the queue is full"),
        (500, "<html>", "500: <html>"),
        (200, stream("one", done=False), "the stream broke off"),
        (200, 'data: {"error": {"message": "no memory"}}\n\ndata: [DONE]\n\n', "no memory"),
        (200, "data: nonsense\n\n", "JSONDecodeError"),
        (200, "data: [1]\n\n", "AttributeError"),
    ],
    ids=["refused", "no json", "broken off", "failed in the stream", "not json", "not an object"],
)
def test_a_first_request_that_fails_is_the_answer(status: int, said: object, sentence: str) -> None:
    with answering(status, said) as (port, _):
        code, _, refusal = bench(port)
    assert code == 1
    assert f"a at http://127.0.0.1:{port}/v1: " in refusal
    assert sentence in refusal


def test_the_only_chat_model_is_measured_without_its_name() -> None:
    others = [{"id": "all-minilm-l6-v2"}, {"id": "b", "capabilities": {"kind": "embedding"}}]
    with answering(200, {"data": [{"id": "a", "capabilities": ["tool_use"]}, *others]}) as (port, asked):
        done = call("bench", f"http://127.0.0.1:{port}/v1")
    assert "a at http://" in done.stderr
    assert asked[0] == ("/v1/models", None)


def test_a_server_that_asks_for_a_key_is_said_to_do_so() -> None:
    with answering(200, {"data": []}, key="secret") as (port, _):
        done = call("bench", f"http://127.0.0.1:{port}/v1")
    assert (done.returncode, "asks for an API key: --key-file FILE" in done.stderr) == (1, True)


def test_where_no_server_is_that_is_said() -> None:
    done = call("bench", f"http://127.0.0.1:{free_port()}/v1")
    assert (done.returncode, "Nothing answers at" in done.stderr) == (1, True)


@pytest.mark.slow
def test_a_running_server_is_measured_without_its_address() -> None:
    with scripted_stack("--step", "0.001") as stack:
        done = call(
            *("bench", "--model", "a", "--clients", "1,4", "--requests", "8", "--max-tokens", "16", "--json"),
            MLX_SERVER_PORT=str(stack.port),
        )
    assert done.returncode == 0, done.stderr
    levels = json.loads(done.stdout)["levels"]
    assert [(each["clients"], each["failed"], each["tokens"]) for each in levels] == [
        (1, 0, 128),
        (4, 0, 128),
    ]
    assert all(each["gap_p50"] > 0 and each["first_token_p50"] > 0 for each in levels)


@pytest.mark.slow
def test_requests_that_a_full_server_refuses_are_counted_and_named() -> None:
    with scripted_stack("--step", "0.01", max_in_flight=1, queue_per_model=1) as stack:
        done = call(
            *("bench", "--model", "a", "--clients", "8", "--requests", "16", "--json"),
            MLX_SERVER_PORT=str(stack.port),
        )
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert 0 < found["levels"][0]["failed"] < found["levels"][0]["requests"] == 16
    assert found["failures"][0].startswith("503: ")
