"""Hosted models: another server as a worker, however it behaves and whatever dies; nothing of it is left behind."""

import base64
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from tests.cli.command import ROOT
from tests.faults.stack import FaultStack, cmdline, fault_stack
from tests.marks import quick_and_slow

PROGRAM = str(ROOT / "tests" / "programs" / "hosted_server.py")
HANG = 4.0  # seconds; "ready_timeout" of a server that never is ready
pytestmark = pytest.mark.timeout(240)


def served(*options: str, **keys: Any) -> dict[str, Any]:
    ours = ("--of", str(os.getpid()))  # tests of another run on this machine have theirs
    return {"serve": [sys.executable, PROGRAM, "--port", "{port}", *options, *ours], "memory_gb": 0.1, **keys}


MODELS = {
    "good": served("--step", "0.1", aliases=["gpt-4o"]),
    "images": served("--endpoints", "chat/completions,images/generations,audio/speech,audio/transcriptions"),
    "never-ready": served("--do", "never-ready", ready_timeout=HANG),
    "no-program": served() | {"serve": ["/no/such/program", "{port}"]},
    "ends": served() | {"serve": [sys.executable, "-c", "raise SystemExit(3)", "{port}"]},
    "silent": served("--do", "silent", "--do", "open"),
    "deaf": served("--do", "deaf", "--do", "forks"),
    "leaks": served("--do", "leaks"),
    **{way: served("--do", way) for way in ("garbage", "cut", "html", "dies", "no-json")},
}


def serving(models: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The settings of a server with these tables of models."""
    return {
        "models": json.dumps(models),
        "available_models": ",".join(models),
        "worker_command": json.dumps([sys.executable, "-m", "workers"]),
        **more,
    }


@pytest.fixture(scope="module")
def stack() -> Iterator[FaultStack]:
    patient = {"first_token_silence": 60}  # how long a server takes to start decides of no answer's status
    with fault_stack(**serving(MODELS, max_cache_size_gb=4, min_stay=0, **patient)) as running:
        yield running
        running.check()


def ask(stack: FaultStack, model: str, **fields: Any) -> httpx.Response:
    return stack.http.post("/v1/chat/completions", json=chat(model, **fields))


def chat(model: str, say: str = "Hi", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": say}], **fields}


def words(say: str = "Hi") -> list[str]:
    return [f"{hashlib.sha256(f'{say}{number}'.encode()).hexdigest()[:6]} " for number in range(20)]


def streamed(
    stack: FaultStack,
    body: dict[str, Any],
    path: str = "/v1/chat/completions",
    begun: Callable[[], object] = lambda: None,
) -> list[str]:
    """The data of each event, as they came; ``begun`` is called behind the first."""
    events: list[str] = []
    with stack.http.stream("POST", path, json={**body, "stream": True}) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if line.startswith("data: "):
                events.append(line[6:])
                if len(events) == 1:
                    begun()
    return events


def text_of(events: list[str]) -> str:
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    return "".join(
        choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", [])
    )


def servers(model: str, options: list[str] | None = None) -> list[psutil.Process]:
    """All processes of the hosted server of a model, forks in sessions of their own included."""
    options = options or MODELS[model]["serve"][4:]
    found = [p for p in psutil.process_iter() if cmdline(p)[1:2] == [PROGRAM] and cmdline(p)[4:] == options]
    children = [child for p in found for child in p.children(recursive=True)]
    return [*found, *children]


def gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def unload(stack: FaultStack, model: str) -> None:
    answer = stack.http.post(f"/admin/models/{model}/unload", json={"wait": True})
    assert answer.status_code == 200, answer.text


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


# ---------------------------------------------------------------- what works


@pytest.mark.slow
def test_an_answer_passes_with_the_name_that_was_asked_for(stack: FaultStack) -> None:
    answer = ask(stack, "gpt-4o").json()
    assert answer["model"] == "gpt-4o"
    assert answer["choices"][0]["message"]["content"] == "".join(words())


@pytest.mark.slow
def test_a_stream_passes_event_by_event_with_the_name_that_was_asked_for(stack: FaultStack) -> None:
    *chunks, last = streamed(stack, chat("good"))
    assert last == "[DONE]"
    assert text_of(chunks) == "".join(words())
    assert {json.loads(chunk)["model"] for chunk in chunks} == {"good"}


@pytest.mark.slow
def test_models_tell_that_it_is_hosted_and_what_is_not_promised(stack: FaultStack) -> None:
    ask(stack, "good")
    can = stack.http.get("/v1/models/good").json()["capabilities"]
    assert can["kind"] == "hosted"
    assert can["endpoints"] == ["chat", "completions", "embeddings"]
    assert can["not_promised"] == ["resume", "seed", "prompt_cache_by_key"]


@pytest.mark.slow
def test_messages_and_responses_are_translated_with_tools(stack: FaultStack) -> None:
    tool = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
    asked = [{"role": "user", "content": "Hi"}]
    body = {"model": "good", "max_tokens": 99, "messages": asked}
    plain = stack.http.post("/v1/messages", json=body).json()
    assert plain["content"] == [{"type": "text", "text": "".join(words())}]
    assert plain["usage"]["input_tokens"] == 7
    assert plain["usage"]["output_tokens"] == 20
    called = stack.http.post("/v1/messages", json={**body, "tools": [tool]}).json()
    assert called["stop_reason"] == "tool_use"
    [use] = called["content"]
    assert (use["name"], use["input"]) == ("weather", {"city": "Paris"})
    result = [
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use["id"], "content": "sunny"}]},
    ]
    again = {**body, "messages": [*asked, *result], "tools": [tool]}
    assert stack.http.post("/v1/messages", json=again).json()["stop_reason"] == "end_turn"
    events = streamed(stack, body, "/v1/messages")
    assert json.loads(events[-1])["type"] == "message_stop"
    function = {"type": "function", "name": "weather", "parameters": tool["input_schema"]}
    response = stack.http.post(
        "/v1/responses", json={"model": "good", "input": "Hi", "tools": [function]}
    ).json()
    assert response["output"][0]["type"] == "function_call"
    assert json.loads(response["output"][0]["arguments"]) == {"city": "Paris"}


@pytest.mark.slow
def test_bytes_of_images_and_audio_arrive_as_they_were_sent(stack: FaultStack) -> None:
    image = bytes(range(256)) * 400
    url = "data:image/png;base64," + base64.b64encode(image).decode()
    content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    body = {"model": "images", "messages": [{"role": "user", "content": content}]}
    answer = stack.http.post("/v1/chat/completions", json=body).json()
    seen = f"image {hashlib.sha256(image).hexdigest()}"
    assert answer["choices"][0]["message"]["content"] == seen
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(image).decode()}
    blocks = [{"type": "image", "source": source}, content[0]]
    told = {"model": "images", "max_tokens": 99, "messages": [{"role": "user", "content": blocks}]}
    message = stack.http.post("/v1/messages", json=told).json()
    assert message["content"] == [{"type": "text", "text": seen}]
    parts = [{"type": "input_text", "text": "What is this?"}, {"type": "input_image", "image_url": url}]
    item = {"model": "images", "input": [{"role": "user", "content": parts}]}
    response = stack.http.post("/v1/responses", json=item).json()
    assert response["output"][0]["content"][0]["text"] == seen
    files: Any = {"file": ("a.wav", image, "audio/wav"), "model": (None, "images")}
    heard = stack.http.post("/v1/audio/transcriptions", files=files)
    assert heard.status_code == 200, heard.text
    assert heard.json()["bytes"] > len(image)
    said = stack.http.post("/v1/audio/speech", json={"model": "images", "input": "Hi"})
    assert said.headers["content-type"] == "audio/wav"
    assert said.content == b"RIFF" + b"Hi" * 100
    drawn = stack.http.post("/v1/images/generations", json={"model": "images", "prompt": "a fox"}).json()
    assert base64.b64decode(drawn["data"][0]["b64_json"]) == b"png"


@pytest.mark.slow
def test_an_endpoint_that_its_server_lacks_is_refused_by_name(stack: FaultStack) -> None:
    answer = stack.http.post("/v1/audio/speech", json={"model": "good", "input": "Hi"})
    status, code, message = error_of(answer)
    assert (status, code) == (400, "endpoint_missing")
    assert "/v1/audio/speech" in message
    assert "/v1/chat/completions" in message


@pytest.mark.slow
def test_its_tokens_are_counted_from_what_passes(stack: FaultStack) -> None:
    streamed(stack, chat("good", stream_options={"include_usage": True}))
    recent = stack.status()["recent"][0]
    assert (recent["model"], recent["tokens"], recent["ended"]) == ("good", 20, "finished")


# ---------------------------------------------------------------- what servers do


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            "never-ready",
            f"did not answer GET /health or its list of models with 200 and logged nothing for {HANG:g} s",
        ),
        ("ends", "exited with code 3 before it was ready"),
        ("no-program", "is no program on this machine"),
    ],
)
def test_a_server_that_cannot_be_started_is_a_refusal_with_its_reason(
    stack: FaultStack, model: str, said: str
) -> None:
    status, code, message = error_of(ask(stack, model))
    assert (status, code) == (503, "model_unavailable")
    assert said in message
    stack.until(lambda: gone(servers(model)), "without its processes")


@pytest.mark.slow
def test_a_server_without_a_log_serves_and_one_that_is_open_to_others_is_warned_of(stack: FaultStack) -> None:
    answer = ask(stack, "silent")
    assert answer.status_code == 200, answer.text
    ask(stack, "good")
    assert "its server listens beyond this machine" in stack.log("worker-silent")
    assert "its server listens beyond this machine" not in stack.log("worker-good")


@pytest.mark.slow
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("garbage", "answered with what is no HTTP"),
        ("html", "status 500 and what is no JSON object"),
        ("no-json", "status 200 and what is no JSON object"),
    ],
)
def test_an_answer_that_is_none_is_one_error_in_the_dialect_of_the_client(
    stack: FaultStack, model: str, said: str, streams: bool
) -> None:
    status, code, message = error_of(ask(stack, model, stream=streams))
    assert (status, code) == (502, "hosted_server_failed")
    assert said in message
    body = {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    other = stack.http.post("/v1/messages", json=body)
    assert other.status_code >= 500
    assert other.json()["type"] == "error"


@pytest.mark.slow
def test_a_stream_that_is_cut_ends_with_one_error_event(stack: FaultStack) -> None:
    *chunks, last = streamed(stack, chat("cut"))
    assert text_of(chunks) == "".join(words()[:10])
    assert json.loads(last)["error"]["code"] == "hosted_server_failed"


@pytest.mark.slow
def test_a_request_over_which_its_server_dies_twice_is_answered_with_an_error(stack: FaultStack) -> None:
    status, code, message = error_of(ask(stack, "dies"))
    assert (status, code) == (502, "hosted_server_failed")
    assert "'dies'" in message


@pytest.mark.slow
def test_a_request_over_which_its_server_crashes_twice_is_refused_when_it_comes_again(
    stack: FaultStack,
) -> None:
    status, code, _ = error_of(ask(stack, "good", say="please crash"))
    assert (status, code) == (502, "hosted_server_failed")
    status, code, message = error_of(ask(stack, "good", say="please crash"))
    assert (status, code) == (422, "request_crashed_engine"), message
    assert ask(stack, "good").json()["choices"][0]["message"]["content"] == "".join(words())


@pytest.mark.slow
def test_a_server_that_ignores_sigterm_and_has_forked_leaves_nothing(stack: FaultStack) -> None:
    ask(stack, "deaf")
    left = servers("deaf")
    assert len(left) == 3
    unload(stack, "deaf")
    stack.until(lambda: gone(left), "without its processes")


@pytest.mark.slow
def test_what_a_server_takes_is_what_it_is_charged_with(stack: FaultStack) -> None:
    ask(stack, "leaks")
    before = stack.workers("leaks")[0]["memory"]
    for _ in range(3):
        ask(stack, "leaks")
    stack.until(lambda: stack.workers("leaks")[0]["memory"] > before + (200 << 20), "charged with its leak")


# ---------------------------------------------------------------- what dies


def long_stream(stack: FaultStack, begun: Callable[[], object] = lambda: None) -> list[str]:
    """Of two seconds."""
    return streamed(stack, chat("good", say="long"), begun=begun)


@pytest.mark.slow
def test_a_killed_broker_is_not_noticed(stack: FaultStack) -> None:
    *chunks, last = long_stream(stack, stack.kill_broker)
    assert last == "[DONE]"
    assert text_of(chunks) == "".join(words("long"))
    stack.until(lambda: stack.http.get("/ready").status_code == 200, "ready")
    assert ask(stack, "good").status_code == 200


@pytest.mark.parametrize("whom", quick_and_slow(("server",), ("worker", "keeper")))
def test_a_server_that_is_killed_in_an_answer_is_one_error_event_and_nothing_is_left(
    stack: FaultStack, whom: str
) -> None:
    ask(stack, "good")
    [server] = servers("good")
    keeper = server.parent()
    assert keeper
    pid = {"server": server.pid, "worker": stack.worker_pid("good"), "keeper": keeper.pid}[whom]
    left = [server, keeper]
    last = long_stream(stack, lambda: psutil.Process(pid).send_signal(signal.SIGKILL))[-1]
    assert json.loads(last)["error"]["code"] == "hosted_server_failed"
    stack.until(lambda: gone(left), "without its processes")
    assert ask(stack, "good").status_code == 200


def is_ready(stack: FaultStack) -> bool:
    try:
        return stack.http.get("/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.slow
def test_a_killed_api_ends_its_connections_and_frees_the_places_they_had(stack: FaultStack) -> None:
    api = stack.program("api")
    with pytest.raises(httpx.TransportError):
        long_stream(stack, lambda: api.send_signal(signal.SIGKILL))
    stack.until(lambda: is_ready(stack), "ready")
    stack.until(lambda: stack.in_flight() == 0, "without a request in flight")
    [server] = servers("good")
    assert text_of(long_stream(stack)) == "".join(words("long"))
    assert servers("good") == [server]


@pytest.mark.slow
def test_a_client_that_leaves_frees_its_place(stack: FaultStack) -> None:
    ask(stack, "good")
    with stack.http.stream("POST", "/v1/chat/completions", json=chat("good", stream=True)) as answer:
        next(answer.iter_bytes())
    stack.until(lambda: stack.in_flight() == 0, "without a request in flight")


@pytest.mark.slow
def test_eight_clients_get_their_own_answers_while_the_model_is_loaded_and_unloaded(
    stack: FaultStack,
) -> None:
    def client(number: int) -> bool:
        return text_of(streamed(stack, chat("good", say=f"client {number}"))) == "".join(
            words(f"client {number}")
        )

    with ThreadPoolExecutor(8) as clients:
        answers = [clients.submit(client, number) for number in range(24)]
        unload(stack, "good")
        assert all(answer.result() for answer in answers)
