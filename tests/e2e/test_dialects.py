"""Every dialect from its official client to a scripted worker and back, with real processes."""

import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from tests.e2e.stack import Stack, scripted_stack

if TYPE_CHECKING:  # each process of the tests reads this file, and the package takes two seconds
    from anthropic import Anthropic
    from anthropic.types import MessageParam

HELLO: "list[MessageParam]" = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with scripted_stack("--step", "0.02", "--tokens", "40") as stack:
        yield stack


@pytest.fixture
def client(stack: Stack) -> "Iterator[Anthropic]":
    from anthropic import Anthropic

    base = f"http://127.0.0.1:{stack.port}"
    with Anthropic(base_url=base, api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.mark.slow
def test_a_streamed_anthropic_message_is_complete(client: "Anthropic") -> None:
    with client.messages.stream(model="a", max_tokens=8, messages=HELLO) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 8)
    assert len(text.split()) == 8


@pytest.mark.slow
def test_an_anthropic_message_survives_the_death_of_its_worker(stack: Stack, client: "Anthropic") -> None:
    with client.messages.stream(model="a", max_tokens=64, messages=HELLO) as stream:
        texts = stream.text_stream
        begun = next(texts)
        (worker,) = stack.workers("a")
        psutil.Process(worker["pid"]).send_signal(signal.SIGKILL)
        text = begun + "".join(texts)
        message = stream.get_final_message()
    assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", 40)
    assert len(text.split()) == 39  # the last one ends the stream


@pytest.mark.slow
def test_a_response_can_be_continued_after_a_restart_of_the_api(stack: Stack) -> None:
    first = stack.openai.responses.create(model="a", input="hello", max_output_tokens=4)
    old = stack.status()["api_pid"]
    psutil.Process(old).send_signal(signal.SIGTERM)
    stack.until(lambda: _is_another(stack, old), "another api")
    second = stack.openai.responses.create(
        model="a", input="more", max_output_tokens=4, previous_response_id=first.id
    )
    assert first.usage is not None and second.usage is not None
    said = len("hello") + len(first.output_text) + len("more")
    assert second.usage.input_tokens >= said > first.usage.input_tokens


def _is_another(stack: Stack, pid: int) -> bool:
    try:
        return bool(stack.status()["api_pid"] != pid)
    except (httpx.TransportError, KeyError):
        return False
