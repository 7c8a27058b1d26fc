"""A spare process of the real program: it serves the next model, and no fault of it or of its broker does harm."""

import signal
from collections.abc import Iterator

import psutil
import pytest

from broker.memory.spares import EXPECTED
from shared.models import EMBEDDED_MODEL
from shared.settings import Settings
from tests.e2e.stack import DEADLINE
from tests.faults.stack import FaultStack, cmdline, environ

pytestmark = pytest.mark.slow


@pytest.fixture
def stack() -> Iterator[FaultStack]:
    command = Settings.model_fields["worker_command"].default
    words = "[" + ", ".join(f'"{word}"' for word in command) + "]"
    patience = {"heartbeat_timeout": 20.0, "stall_timeout": 30.0}
    stack = FaultStack(available_models=EMBEDDED_MODEL, worker_command=words, spare_workers=1, **patience)
    try:
        yield stack
    finally:
        for process in spares(stack):
            process.kill()
        stack.close()


def spares(stack: FaultStack) -> list[psutil.Process]:
    """Of any broker of this stack, and whatever has become of them."""
    return [
        process
        for process in psutil.process_iter()
        if "--spare" in cmdline(process)
        and environ(process).get("MLX_SERVER_RUN_DIR") == str(stack.folder)
        and process.status() != psutil.STATUS_ZOMBIE
    ]


def ready_spare(stack: FaultStack) -> psutil.Process:
    """Once it has said its size."""
    stack.until(lambda: any(size != EXPECTED for size in sizes(stack)), "a spare")
    [spare] = spares(stack)
    return spare


def sizes(stack: FaultStack) -> list[int]:
    """As the broker has them; none while there is no broker."""
    memory = stack.status().get("memory", {"spares": {}})
    return list(memory["spares"].values())


def ask(stack: FaultStack) -> None:
    body = {"model": EMBEDDED_MODEL, "prompt": "hello", "max_tokens": 2}
    assert stack.http.post("/v1/completions", json=body).status_code == 200


def test_a_cold_request_is_served_by_the_spare_which_is_replaced(stack: FaultStack) -> None:
    spare = ready_spare(stack)
    ask(stack)
    assert stack.worker_pid(EMBEDDED_MODEL) == spare.pid
    stack.until(lambda: len(spares(stack)) == 2, "another spare")
    assert stack.status()["memory"]["used"] <= stack.status()["memory"]["budget"]


def test_a_killed_broker_leaves_no_spare_and_no_second_worker(stack: FaultStack) -> None:
    spare = ready_spare(stack)
    stack.kill_broker()
    spare.wait(DEADLINE)
    second = ready_spare(stack)
    ask(stack)
    stack.kill_broker()
    stack.until(lambda: stack.workers_in("ready"), "the worker of the earlier broker")
    assert stack.worker_pid(EMBEDDED_MODEL) == second.pid
    stack.until(lambda: len(spares(stack)) == 2, "one worker and one spare")


def test_the_crash_of_a_spare_harms_no_request_and_is_said(stack: FaultStack) -> None:
    ready_spare(stack).send_signal(signal.SIGSEGV)
    stack.until(lambda: "was killed by SIGSEGV; another spare" in stack.log("broker"), "said")
    ask(stack)
