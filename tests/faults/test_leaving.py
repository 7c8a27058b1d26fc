"""Clients that leave while their request waits, loads or is read: it ends, and what it took is free again."""

import os
import signal
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.client import HOST, post
from tests.faults.client import MARKER
from tests.faults.stack import FaultStack, all_right, fault_stack
from tests.faults.test_workers import warm

PREFILL, LOAD = 0.5, 1.0

pytestmark = pytest.mark.slow
either_way = pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])


@pytest.fixture(scope="module")
def slow() -> Iterator[FaultStack]:
    models = "a=/none,b=/none,c=/none"
    options = ("--step", "0.02", "--prefill", str(PREFILL), "--load", str(LOAD))
    with fault_stack(*options, available_models=models, max_in_flight=2) as stack:
        yield stack
        stack.check()


class Caller:
    """Asks for a long answer."""

    def __init__(self, stack: FaultStack, model: str = "a", stream: bool = True) -> None:
        body = {"model": model, "messages": [{"role": "user", "content": MARKER}], "max_tokens": 9000}
        self._socket = socket.create_connection((HOST, stack.port))
        self._socket.sendall(post(stack.port, body | {"stream": stream}))

    def leave(self, reset: bool) -> None:
        if reset:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


def rows(stack: FaultStack) -> int:
    """Of the worker's batch, by its last heartbeat."""
    count: int = stack.workers("a")[0]["engine"].get("rows", 0)
    return count


@either_way
def test_a_client_that_leaves_during_prefill_frees_its_batch_slot(slow: FaultStack, reset: bool) -> None:
    warm(slow)
    caller = Caller(slow)
    slow.until(lambda: slow.in_flight() == 1, "in flight")
    caller.leave(reset)
    slow.until(lambda: slow.in_flight() == 0, "free")
    all_right([slow.stream(1, 5)])
    slow.until(lambda: rows(slow) == 0, "without a row")


@either_way
def test_a_client_that_leaves_the_queue_frees_its_place(slow: FaultStack, reset: bool) -> None:
    warm(slow)
    running = [slow.stream(seed, 9000) for seed in range(2)]
    for stream in running:
        stream.wait_for_word()
    caller, behind = Caller(slow), slow.stream(3, 5)
    slow.until(lambda: slow.status()["queued"] == 2, "queued")
    caller.leave(reset)
    slow.until(lambda: slow.status()["queued"] == 1, "out of the queue")
    for stream in running:
        stream.leave()
    all_right([behind])


@pytest.mark.parametrize(("model", "reset"), [("b", False), ("c", True)], ids=["FIN", "RST"])
def test_a_model_whose_only_client_left_is_loaded_and_idle(slow: FaultStack, model: str, reset: bool) -> None:
    caller = Caller(slow, model)
    slow.until(lambda: [w["state"] for w in slow.status()["workers"] if w["model"] == model], "started")
    caller.leave(reset)
    slow.until(lambda: slow.status()["queued"] == 0, "out of the queue")
    slow.until(lambda: slow.workers(model), "loaded")
    assert slow.in_flight() == 0
    all_right([slow.stream(1, 5, model)])


def test_a_worker_killed_during_prefill_repeats_no_token(slow: FaultStack) -> None:
    victim = warm(slow)
    stream = slow.stream(4, 20)
    slow.until(lambda: slow.in_flight() == 1, "in flight")
    os.kill(victim, signal.SIGKILL)
    assert not stream.result().wrong
    assert slow.worker_pid() != victim
