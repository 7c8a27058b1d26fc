"""The whole server with two api processes: what is counted is what was sent, and limits of keys hold over both."""

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest

from shared.api_keys import KeyFile
from tests.api.metrics.test_metrics import Samples, one, read
from tests.cli.command import ROOT, run
from tests.faults.stack import FaultStack, fault_stack

MONITORING = ROOT / "docs" / "monitoring"
TOKENS = 150  # of an answer that takes seconds: all of a crowd begin before the first ends
NAMES = re.compile(r"\b(?:vllm:|mlx_server_)[a-z0-9_]+")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyFile:
    return KeyFile(tmp_path_factory.mktemp("keys") / "keys.json")


@pytest.fixture(scope="module")
def stack(keys: KeyFile) -> Iterator[FaultStack]:
    with fault_stack("--step", "0.02", api_processes=2, keys_file=keys.path) as running:
        yield running


def ask(stack: FaultStack, tokens: int, key: str = "") -> int:
    """A connection of its own, which any of the api processes may accept."""
    body = {"model": "a", "prompt": "x", "max_tokens": tokens, "seed": 1}
    headers = {"authorization": f"Bearer {key}"} if key else {}
    url = f"http://127.0.0.1:{stack.port}/v1/completions"
    return httpx.post(url, json=body, headers=headers, timeout=60).status_code


def ask_together(stack: FaultStack, count: int, tokens: int, key: str = "") -> list[int]:
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(ask(stack, tokens, key))) for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def scrape(stack: FaultStack) -> Samples:
    token = (stack.folder / "worker.token").read_text().strip()
    answer = stack.http.get("/metrics", headers={"authorization": f"Bearer {token}"})
    return read(answer.text) if answer.status_code == 200 else {}


@pytest.mark.slow
def test_counted_requests_and_tokens_are_those_sent_though_their_worker_is_killed(stack: FaultStack) -> None:
    sending = threading.Thread(target=ask_together, args=(stack, 8, TOKENS))
    sending.start()
    stack.until(lambda: stack.in_flight() == 8, "all running")
    os.kill(stack.worker_pid(), signal.SIGKILL)
    sending.join()
    completions = {"route": "/v1/completions", "status": "200", "model": "a"}
    stack.until(lambda: one(scrape(stack), "mlx_server_requests_total", **completions) == 8, "8 counted")
    samples = scrape(stack)
    assert one(samples, "vllm:request_success_total", model_name="a", finished_reason="length") == 8
    assert one(samples, "vllm:generation_tokens_total", model_name="a") == 8 * TOKENS
    assert one(samples, "vllm:time_to_first_token_seconds_count", model_name="a") == 8
    assert one(samples, "vllm:request_queue_time_seconds_count", model_name="a") == 8
    assert one(samples, "mlx_server_resumes_total", model="a", cause="worker") == 8
    assert one(samples, "mlx_server_worker_losses_total", model="a") == 1
    assert one(samples, "mlx_server_loads_total", model="a") == 2


@pytest.mark.slow
def test_every_name_of_the_dashboard_and_the_alerts_is_in_the_answer(
    stack: FaultStack, keys: KeyFile
) -> None:
    key = keys.add("names")
    assert ask(stack, 4, key) == 200
    assert ask(stack, -5, key) == 400  # a name appears with its first event
    stack.until(lambda: one(scrape(stack), "mlx_server_key_requests_total", key="names") == 1, "counted")
    for file in (*MONITORING.glob("*.json"), *MONITORING.glob("*.y*ml")):
        names = set(NAMES.findall(file.read_text()))
        assert names
        stack.until(partial(shows, stack, names), f"all names of {file.name}")


def shows(stack: FaultStack, names: set[str]) -> bool:
    return names <= {name for name, _ in scrape(stack)}


@pytest.mark.slow
def test_a_keys_concurrency_holds_over_two_api_processes(stack: FaultStack, keys: KeyFile) -> None:
    key = keys.add("two", concurrency=2)
    statuses = ask_together(stack, 12, TOKENS, key)
    assert statuses.count(200) == 2
    assert statuses.count(429) == 10
    assert ask(stack, 1, key) == 200
    [usage] = [each["usage"] for each in listed(stack, keys) if each["name"] == "two"]
    assert (usage["requests"], usage["refused"], usage["open"], usage["out"]) == (3, 10, 0, 2 * TOKENS + 1)


def listed(stack: FaultStack, keys: KeyFile) -> list[dict[str, Any]]:
    """As ``keys list`` tells it, which asks the running server."""
    done = run(
        *("keys", "list", "--json"),
        MLX_SERVER_KEYS_FILE=str(keys.path),
        MLX_SERVER_RUN_DIR=str(stack.folder),
        MLX_SERVER_PORT=str(stack.port),
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found
