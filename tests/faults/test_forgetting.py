"""Kept prompts are forgotten by the whole server, whatever happens to its processes meanwhile."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.command import COMMAND
from tests.faults.stack import FaultStack, all_right, fault_stack


@pytest.fixture
def stack() -> Iterator[FaultStack]:
    with fault_stack("--step", "0.02") as stack:
        assert stack.http.post("/admin/models/a/load", json={"wait": True}).status_code == 200
        yield stack


@pytest.mark.slow
def test_a_worker_confirms_and_one_that_is_killed_before_it_does_is_not_awaited(stack: FaultStack) -> None:
    running = stack.stream(1, 60)
    stack.until(lambda: stack.in_flight() == 1, "a running stream")
    first = stack.worker_pid()
    assert stack.http.post("/admin/prompts/forget", json={"all": True}).json()["models"] == ["a"]
    assert stack.worker_pid() == first
    os.kill(first, signal.SIGSTOP)
    answers: list[Any] = []

    def ask() -> None:
        answers.append(stack.http.post("/admin/prompts/forget", json={"all": True}).json())

    asking = threading.Thread(target=ask)
    asking.start()
    os.kill(first, signal.SIGKILL)
    asking.join(60)
    [said] = answers
    assert (said["models"], said["failed"]) == ([], "")
    all_right([running])
    stack.check()


@pytest.mark.slow
def test_a_server_that_is_stopped_is_not_taken_for_none(stack: FaultStack) -> None:
    api = stack.program("api")
    api.suspend()
    try:
        done = subprocess.run(
            [*COMMAND, "prompts", "delete", "--all"],
            env=stack.environment,
            cwd=stack.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        api.resume()
    assert done.returncode == 1
    assert "gave no answer in 10 s" in done.stderr
