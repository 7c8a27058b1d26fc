"""From the client to a scripted worker and back, with real processes."""

import os
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from openai import APIStatusError, NotFoundError
from openai.types.chat import ChatCompletionMessageParam

from tests.client import HOST, post
from tests.e2e.stack import Stack, scripted_stack

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with scripted_stack("--step", "0.01") as stack:
        yield stack


def chat(stack: Stack, model: str = "a", max_tokens: int = 8, seed: int = 1) -> str:
    answer = stack.openai.chat.completions.create(
        model=model,
        messages=HELLO,
        max_tokens=max_tokens,
        seed=seed,
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == max_tokens
    return answer.choices[0].message.content or ""


def stream(stack: Stack, model: str = "a", max_tokens: int = 8, seed: int = 1) -> Iterator[str]:
    chunks = stack.openai.chat.completions.create(
        model=model,
        messages=HELLO,
        max_tokens=max_tokens,
        seed=seed,
        stream=True,
    )
    for chunk in chunks:
        if chunk.choices and chunk.choices[0].delta.content:
            yield chunk.choices[0].delta.content


def test_a_stream_has_the_text_of_the_whole_answer(stack: Stack) -> None:
    assert "".join(stream(stack)) == chat(stack) != ""


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(stack: Stack) -> None:
    assert chat(stack, seed=5) == chat(stack, seed=5) != chat(stack, seed=6)


def test_completions_are_answered_with_echo(stack: Stack) -> None:
    answer = stack.openai.completions.create(model="a", prompt="once upon", max_tokens=3, echo=True, seed=1)
    assert answer.choices[0].text.startswith("once upon w")


@pytest.mark.slow
def test_models_are_listed_hot_ones_first_with_their_status(stack: Stack) -> None:
    chat(stack, "b")
    listed = stack.http.get("/v1/models").json()["data"]
    assert listed[0]["status"] == "hot"
    assert {model["id"] for model in listed} == {"a", "b"}
    assert stack.openai.models.retrieve("b").id == "b"


def test_an_unknown_model_is_refused_with_the_nearest_name(stack: Stack) -> None:
    with pytest.raises(NotFoundError) as refused:
        chat(stack, "aa")
    assert refused.value.code == "model_not_found"
    assert "a" in str(refused.value)


def test_32_streams_at_once_all_end(stack: Stack) -> None:
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda seed: "".join(stream(stack, max_tokens=20, seed=seed)), range(32)))
    assert all(len(answer.split()) == 20 for answer in answers)
    assert len(set(answers)) == 32


def leave(stack: Stack, streaming: bool, reset: bool) -> None:
    """Asks for a long answer and closes the connection once it has begun."""
    body = {"model": "a", "messages": HELLO, "max_tokens": 9000, "stream": streaming}
    connection = socket.create_connection((HOST, stack.port))
    if reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.sendall(post(stack.port, body))
    stack.until(lambda: stack.in_flight() == 1, "in flight")
    connection.close()


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("reset", [True, False])
def test_a_client_that_disconnects_frees_its_batch_slot_within_a_second(
    stack: Stack, streaming: bool, reset: bool
) -> None:
    stack.until(lambda: stack.in_flight() == 0, "idle")
    leave(stack, streaming, reset)
    stack.until(lambda: stack.in_flight() == 0, "free")


@pytest.mark.slow
def test_a_killed_worker_is_restarted_and_leaves_another_models_stream_alone(stack: Stack) -> None:
    chat(stack, "a")
    chat(stack, "b")
    [victim] = stack.workers("b")
    other = stream(stack, "a", max_tokens=150)
    next(other)
    os.kill(victim["pid"], signal.SIGKILL)
    stack.until(lambda: not stack.workers("b"), "noticed")
    assert "silent" not in stack.status()["deaths"][0]["how"]
    assert len("".join(other).split()) == 149
    chat(stack, "b")
    [successor] = stack.workers("b")
    assert successor["pid"] != victim["pid"]


def test_a_stream_continues_when_its_worker_is_killed(stack: Stack) -> None:
    whole = chat(stack, "a", max_tokens=60)
    running = stream(stack, "a", max_tokens=60)
    begun = next(running)
    [victim] = stack.workers("a")
    os.kill(victim["pid"], signal.SIGKILL)
    assert begun + "".join(running) == whole


@pytest.mark.slow
def test_many_first_requests_start_one_worker() -> None:
    with scripted_stack() as stack, ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(lambda _: chat(stack), range(16)))) == 1
        assert len(stack.status()["workers"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_server_after_its_running_requests(number: int) -> None:
    with scripted_stack("--step", "0.02") as stack:
        answers: list[str] = []
        thread = threading.Thread(target=lambda: answers.append(chat(stack, max_tokens=150)))
        thread.start()
        stack.until(lambda: stack.in_flight() == 1, "in flight")
        assert stack.stop(number) == 0
        thread.join()
        assert len(answers[0].split()) == 150
        stack.until(lambda: not stack.survivors(), "gone")


@pytest.mark.slow
def test_the_last_messages_of_a_worker_are_read_before_its_exit_is_handled() -> None:
    with scripted_stack("--step", "0.02") as stack:
        answers: list[str] = []
        asking = threading.Thread(target=lambda: answers.append(chat(stack, max_tokens=150)))
        asking.start()
        stack.until(lambda: stack.in_flight() == 1, "in flight")
        [started] = stack.workers("a")
        worker = psutil.Process(started["pid"])
        broker = worker.parent()
        assert broker
        log = next((stack.folder / "log").glob("worker-a-*.log"))
        stopping = threading.Thread(target=stack.stop)
        stopping.start()
        stack.until(lambda: "leaving" in log.read_text(), "told to leave")
        broker.suspend()
        stack.until(lambda: worker.status() == psutil.STATUS_ZOMBIE, "ended")
        broker.resume()
        stopping.join()
        asking.join()
        assert len(answers[0].split()) == 150


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_says_why_and_names_no_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    settings = {"available_models": f"broken={tmp_path}"}
    stack = Stack(settings)
    try:
        with pytest.raises(APIStatusError) as refused:
            chat(stack, "broken")
        assert refused.value.status_code == 503
        assert "broken" in str(refused.value)
        assert str(tmp_path) not in str(refused.value)
        [model] = stack.http.get("/v1/models").json()["data"]
        assert model["status"] == "failed"
    finally:
        stack.close()
