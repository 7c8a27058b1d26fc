"""Several workers of one model read a conversation's earlier turns as seldom as a single one does."""

import json
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.stack import Stack
from tests.tiny_model import make_tiny_llama

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CONVERSATIONS, TURNS = 8, 6


class Talk:
    """One client: each turn has all earlier ones before it."""

    def __init__(self, stack: Stack, number: int) -> None:
        self.prompt_tokens = self.cached_tokens = 0
        self._stack = stack
        self._number = number
        self._messages = [
            {
                "role": "system",
                "content": "You answer what you are asked, in a word or two, and never ask back.",
            }
        ]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for turn in range(TURNS):
            said = f"I am number {self._number}, and this is my question {turn}."
            self._messages.append({"role": "user", "content": said})
            body = {"model": "tiny", "messages": self._messages, "max_tokens": 8, "temperature": 0}
            answer = self._stack.http.post("/v1/chat/completions", json=body, timeout=120).json()
            self._messages.append(
                {"role": "assistant", "content": answer["choices"][0]["message"]["content"]}
            )
            self.prompt_tokens += answer["usage"]["prompt_tokens"]
            self.cached_tokens += answer["usage"]["prompt_tokens_details"]["cached_tokens"]

    def join(self) -> None:
        self._thread.join(200)
        assert not self._thread.is_alive()


def leases(stack: Stack) -> list[int]:
    return list(stack.status()["memory"]["leases"].values())


def share(folder: Path, replicas: int) -> tuple[float, Counter[str]]:
    """What part of all prompts came from the prefix cache, and how many requests each worker ran."""
    tables = {"tiny": {"source": str(folder), "replicas": replicas, "preload": True}}
    stack = Stack({"models": json.dumps(tables), "available_models": "tiny"})
    try:
        stack.until(lambda: len(stack.workers("tiny")) == replicas, f"{replicas} workers", 120)
        stack.until(lambda: min(leases(stack)) > max(leases(stack)) / 2, "room to keep prompts in each")
        talks = [Talk(stack, number) for number in range(CONVERSATIONS)]
        for talk in talks:
            talk.join()
        ran = Counter(request["worker"] for request in stack.status()["recent"])
    finally:
        stack.close()
    return sum(talk.cached_tokens for talk in talks) / sum(talk.prompt_tokens for talk in talks), ran


def test_conversations_on_two_workers_find_nine_tenths_of_what_they_find_on_one(tmp_path: Path) -> None:
    folder = make_tiny_llama(tmp_path / "tiny")
    alone, _ = share(folder, 1)
    together, ran = share(folder, 2)
    print(
        f"share of prompt tokens from the cache: one worker {alone:.3f}, two {together:.3f}, requests {ran}"
    )
    assert len(ran) == 2
    assert min(ran.values()) >= TURNS
    assert together >= 0.9 * alone


def test_prompts_that_wait_in_one_worker_bring_another_one_which_takes_some_of_them(tmp_path: Path) -> None:
    """One sequence at a time in a worker, so that the others wait there."""
    tables = {"tiny": {"source": str(make_tiny_llama(tmp_path / "tiny")), "replicas": "1-2", "preload": True}}
    stack = Stack({"models": json.dumps(tables), "available_models": "tiny", "max_batch_rows": 1})
    said = {"model": "tiny", "max_tokens": 400, "ignore_eos": True, "temperature": 0}
    tokens: list[int] = []

    def ask(number: int) -> None:
        body = {**said, "prompt": f"Number {number}: ", "stream": False}
        answer = stack.http.post("/v1/completions", json=body, timeout=200).json()
        tokens.append(answer["usage"]["completion_tokens"])

    try:
        stack.until(lambda: stack.workers("tiny"), "a worker", 120)
        clients = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(200)
        recent = stack.status()["recent"]
    finally:
        stack.close()
    assert tokens == [400] * 40
    moved = [one for one in recent if "its worker has others before it" in one["resumes"]]
    assert moved
    assert len({one["worker"] for one in recent}) == 2
