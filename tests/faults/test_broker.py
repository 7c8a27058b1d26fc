"""A broker that dies, stops or stays away: nothing is lost, and workers keep their models."""

import os
import signal
import time

import psutil
import pytest

from tests.faults.stack import FaultStack, all_right, fault_stack
from tests.faults.test_workers import warm
from tests.marks import quick_and_slow

EDGES = ("broker.does:passon",)
MORE_EDGES = (
    "broker.heard:forward",
    "broker.heard:submit",
    "broker.does:run",
    "broker.did:run",
    "broker.did:passon",
    "broker.heard:done",
)


def test_a_killed_broker_is_seen_by_none_of_20_streams(stack: FaultStack) -> None:
    workers = [warm(stack), warm(stack, "b")]
    streams = [stack.stream(seed, 150, "ab"[seed % 2]) for seed in range(20)]
    for stream in streams:
        stream.wait_for_word()
    before = stack.kill_broker()
    late = stack.stream(77, 20)
    all_right([*streams, late])
    assert stack.program("broker").pid != before
    assert [stack.worker_pid(), stack.worker_pid("b")] == workers


@pytest.mark.slow
def test_a_broker_that_dies_again_and_again_comes_back_as_soon_as_after_its_first_death(
    stack: FaultStack,
) -> None:
    for _ in range(5):
        stack.program("broker")
        seen = time.monotonic()
        while time.monotonic() < seen + 1.5:  # longer than supervisord's startsecs
            stack.http.get("/health")
        killed = time.monotonic()
        stack.kill_broker()
        stack.program("broker")
        assert time.monotonic() - killed < 4
    all_right([stack.stream(1, 20)])


@pytest.mark.parametrize("edge", quick_and_slow(EDGES, MORE_EDGES))
def test_a_broker_killed_at_any_edge_loses_nothing(stack: FaultStack, edge: str) -> None:
    worker = warm(stack)
    stack.fault(f"{edge}:kill9")
    all_right([stack.stream(seed, 30) for seed in range(4)])
    stack.until_fault()
    assert stack.worker_pid() == worker


@pytest.mark.slow
@pytest.mark.parametrize("edge", ["broker.did:spawn", "broker.does:spawn"])
def test_a_broker_killed_while_it_starts_a_worker_has_one_in_the_end(stack: FaultStack, edge: str) -> None:
    os.kill(warm(stack), signal.SIGKILL)
    stack.until(lambda: not stack.workers("a"), "noticed")
    stack.fault(f"{edge}:kill9")
    assert not stack.stream(4, 10).result().wrong
    assert len(stack.worker_processes()) == len(stack.status()["workers"])


@pytest.mark.slow
def test_a_broker_and_a_worker_killed_together_lose_nothing(stack: FaultStack) -> None:
    victim, other = warm(stack), warm(stack, "b")
    streams = [stack.stream(seed, 100, "ab"[seed % 2]) for seed in range(8)]
    for stream in streams:
        stream.wait_for_word()
    os.kill(victim, signal.SIGKILL)
    stack.kill_broker()
    all_right(streams)
    assert stack.worker_pid("b") == other


@pytest.mark.slow
def test_a_broker_killed_while_it_recovers_from_a_lost_worker_loses_nothing(stack: FaultStack) -> None:
    victim = warm(stack)
    streams = [stack.stream(seed, 300) for seed in range(4)]  # long enough to be killed under on any machine
    streams[0].wait_for_word()
    stack.fault("broker.does:resubmit:kill9")
    os.kill(victim, signal.SIGKILL)
    all_right(streams)
    stack.until_fault()


@pytest.mark.slow
def test_a_broker_killed_again_and_again_loses_nothing(stack: FaultStack) -> None:
    worker = warm(stack)
    streams = [stack.stream(seed, 400) for seed in range(6)]
    for _ in range(3):
        streams[0].wait_for_word()
        before = stack.kill_broker()
        stack.until(lambda before=before: stack.program("broker").pid != before, "started again")  # type: ignore[misc]
    all_right(streams)
    assert stack.worker_pid() == worker


@pytest.mark.slow
def test_a_stopped_broker_declares_no_worker_dead(stack: FaultStack) -> None:
    worker = warm(stack)
    stream = stack.stream(5, 300)
    stream.wait_for_word()
    deaths = stack.status()["deaths"]
    broker = stack.program("broker")
    broker.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    stack.until(lambda: time.monotonic() > stopped + 4, "two silences later")
    broker.send_signal(signal.SIGCONT)
    assert not stream.result().wrong
    assert stack.worker_pid() == worker
    assert len(stack.status()["deaths"]) == len(deaths)


@pytest.mark.slow
def test_a_restart_of_each_program_by_the_operator_loses_nothing(stack: FaultStack) -> None:
    worker = warm(stack)
    streams = [stack.stream(seed, 250) for seed in range(6)]
    for stream in streams:
        stream.wait_for_word()
    assert "started" in stack.supervisorctl("restart", "broker")
    all_right(streams)
    assert stack.worker_pid() == worker
    last = stack.stream(9, 60)
    last.wait_for_word()
    assert "started" in stack.supervisorctl("restart", "api:*")
    assert not last.result().wrong


def test_a_worker_told_to_leave_under_load_loses_nothing(stack: FaultStack) -> None:
    victim = warm(stack)
    streams = [stack.stream(seed, 80) for seed in range(6)]
    streams[0].wait_for_word()
    os.kill(victim, signal.SIGTERM)
    late = stack.stream(50, 10)
    all_right([*streams, late])
    stack.until(lambda: not psutil.pid_exists(victim), "gone")
    all_right([stack.stream(51, 10)])
    assert stack.worker_pid() != victim


@pytest.mark.slow
def test_what_a_leaving_worker_cannot_finish_goes_on_elsewhere() -> None:
    with fault_stack("--step", "0.02", drain_timeout=1) as stack:
        victim = warm(stack)
        streams = [stack.stream(seed, 150) for seed in range(4)]
        streams[0].wait_for_word()
        os.kill(victim, signal.SIGTERM)
        all_right(streams)
        assert stack.worker_pid() != victim
        stack.check()


@pytest.mark.slow
def test_a_broker_that_stays_away_ends_streams_with_one_error_and_refuses_new_ones() -> None:
    with fault_stack("--step", "0.02", broker_timeout=1.5, resume_timeout=4, orphan_grace=6) as stack:
        pid = warm(stack)
        stream = stack.stream(1, 2000)
        stream.wait_for_word()
        stack.supervisorctl("stop", "broker")
        stack.until(lambda: stack.http.get("/ready").status_code == 503, "missed")
        new = stack.stream(2, 5).result()
        assert (new.status, new.errors[0]["code"]) == (503, "broker_unavailable")
        assert 1 <= int(new.headers["retry-after"]) <= 60
        ended = stream.result()
        assert [error["code"] for error in ended.errors] == ["broker_unavailable"]
        assert (ended.done, ended.finishes) == (0, [])
        assert ended.keepalives > 0
        stack.until(lambda: pid not in [p.pid for p in stack.worker_processes()], "left by itself")


@pytest.mark.slow
def test_a_broker_that_comes_back_late_finds_its_streams_waiting() -> None:
    with fault_stack("--step", "0.02") as stack:
        pid = warm(stack)
        streams = [stack.stream(seed, 200) for seed in range(4)]
        streams[0].wait_for_word()
        stack.supervisorctl("stop", "broker")
        stack.until(lambda: stack.http.get("/ready").status_code == 503, "missed")
        stack.supervisorctl("start", "broker")
        all_right(streams)
        assert all(stream.answer.keepalives for stream in streams)
        assert stack.worker_pid() == pid
        stack.check()
