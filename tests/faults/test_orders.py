"""Operators' orders against the whole server: its processes come and go as was ordered, and its streams stay whole."""

from collections.abc import Iterator

import pytest

from tests.faults.stack import FaultStack, all_right, fault_stack


@pytest.fixture
def stack() -> Iterator[FaultStack]:
    with fault_stack("--step", "0.02") as stack:
        yield stack


def ordered(stack: FaultStack, model: str, action: str) -> None:
    answer = stack.http.post(f"/admin/models/{model}/{action}", json={"wait": True})
    assert (answer.status_code, answer.json()["done"]) == (200, True), answer.text


@pytest.mark.slow
def test_load_reload_and_unload_are_done_when_they_say_so_and_streams_stay_whole(stack: FaultStack) -> None:
    ordered(stack, "a", "load")
    first = stack.worker_pid()
    running = stack.stream(1, 60)
    stack.until(lambda: stack.in_flight() == 1, "a running stream")
    ordered(stack, "a", "reload")
    assert stack.worker_pid() != first
    all_right([running, stack.stream(2, 5)])
    ordered(stack, "a", "unload")
    assert stack.worker_processes() == []
    stack.check()


@pytest.mark.slow
def test_a_broker_killed_in_the_middle_of_an_unload_starts_nothing_twice_and_streams_stay_whole(
    stack: FaultStack,
) -> None:
    ordered(stack, "a", "load")
    running = stack.stream(1, 100)
    stack.until(lambda: stack.in_flight() == 1, "a running stream")
    assert stack.http.post("/admin/models/a/unload").status_code == 202
    stack.kill_broker()
    all_right([running])
    stack.check()
