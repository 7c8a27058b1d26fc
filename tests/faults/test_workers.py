"""Workers that die, stop or hang at any point: no client sees it."""

import os
import signal
import time

import pytest

from broker.system.supervisor import LOG_BYTES
from tests.e2e.stack import DEADLINE
from tests.faults.client import Stream
from tests.faults.stack import FaultStack, all_right
from tests.marks import quick_and_slow


def warm(stack: FaultStack, model: str = "a") -> int:
    assert not stack.stream(1, 1, model).result().wrong
    return stack.worker_pid(model)


def warm_child(stack: FaultStack) -> None:
    """One that this broker has started, so that it learns how it ends: another test may have killed the one before."""
    os.kill(warm(stack), signal.SIGKILL)
    stack.until(lambda: not stack.workers("a"), "noticed")
    warm(stack)


@pytest.mark.parametrize("index", quick_and_slow((7,), (*range(7), 15, 16, 17, 31, 32, 33, 40)))
def test_a_worker_killed_at_any_token_loses_and_repeats_none(stack: FaultStack, index: int) -> None:
    victim = warm(stack)
    stack.fault(f"worker.said:{index}+:kill9")  # a step may give several
    stream = stack.stream(index, 50)
    assert not stream.result().wrong
    stack.until_fault()
    assert stack.worker_pid() != victim


@pytest.mark.parametrize("edge", quick_and_slow(("worker.says_end",), ("worker.run", "worker.said_end")))
def test_a_worker_killed_around_the_end_gives_one_end(stack: FaultStack, edge: str) -> None:
    warm(stack)
    stack.fault(f"{edge}::kill9")
    assert not stack.stream(3, 12).result().wrong
    stack.until_fault()


@pytest.mark.slow
@pytest.mark.parametrize("action", ["abort", "exit=70", "raise"])
def test_an_engine_that_breaks_is_replaced(stack: FaultStack, action: str) -> None:
    warm_child(stack)
    stack.expected_tracebacks += action == "raise"
    stack.fault(f"engine.step:#5:{action}")  # there is no step without a stream
    streams = [stack.stream(seed, 60) for seed in range(4)]
    all_right(streams)
    stack.until_fault()
    death = stack.status()["deaths"][0]
    assert (death["in_flight"] and death["last_lines"]) or action == "exit=70"
    assert (death["signal"], death["exit_code"]) == (("SIGABRT", None) if action == "abort" else (None, 70))


@pytest.mark.slow
def test_a_worker_killed_while_it_loads_is_started_again_and_the_request_waits(stack: FaultStack) -> None:
    pid = warm(stack)
    os.kill(pid, signal.SIGKILL)
    stack.until(lambda: not stack.workers("a"), "noticed")
    stack.fault("worker.load::kill9")
    assert not stack.stream(1, 5).result().wrong
    stack.until_fault()


@pytest.mark.slow
def test_a_worker_killed_while_idle_is_started_again_when_asked_for(stack: FaultStack) -> None:
    victim = warm(stack)
    os.kill(victim, signal.SIGKILL)
    stack.until(lambda: not stack.workers("a"), "noticed")
    assert "silent" not in stack.status()["deaths"][0]["how"]
    assert warm(stack) != victim


def test_32_streams_on_a_killed_worker_go_on_and_those_of_others_do_not_notice(stack: FaultStack) -> None:
    victim = warm(stack)
    warm(stack, "b")
    streams = [stack.stream(seed, 80) for seed in range(32)]
    other = stack.stream(99, 150, "b")
    streams[-1].wait_for_word()
    os.kill(victim, signal.SIGKILL)
    all_right([*streams, other])


@pytest.mark.slow
def test_a_killed_worker_that_the_broker_did_not_start_is_missed_before_it_counts_as_silent(
    stack: FaultStack,
) -> None:
    os.kill(warm(stack), signal.SIGKILL)
    stack.until(lambda: not stack.workers("a"), "noticed")
    static = stack.static_worker("--step", "0.02")
    stack.until(lambda: [w["pid"] for w in stack.workers("a")] == [static.pid], "registered")
    streams = [stack.stream(seed, 100) for seed in range(3)]
    for stream in streams:
        stream.wait_for_word()
    static.kill()
    stack.until(lambda: static.pid not in [w["pid"] for w in stack.status()["workers"]], "missed")
    assert "silent" not in stack.status()["deaths"][0]["how"]
    all_right(streams)


def stop_under_a_stream(stack: FaultStack) -> tuple[int, Stream]:
    """Stops a worker that has begun to answer."""
    victim = warm(stack)
    stream = stack.stream(5, 300)
    stream.wait_for_word()
    os.kill(victim, signal.SIGSTOP)
    return victim, stream


@pytest.mark.slow
def test_a_worker_that_is_stopped_for_good_is_replaced(stack: FaultStack) -> None:
    victim, stream = stop_under_a_stream(stack)
    assert not stream.result().wrong
    assert stack.worker_pid() != victim


@pytest.mark.slow
def test_a_worker_that_is_stopped_for_a_moment_goes_on(stack: FaultStack) -> None:
    victim, stream = stop_under_a_stream(stack)
    stopped = time.monotonic()
    stack.until(lambda: time.monotonic() > stopped + 1.0, "a second later")
    os.kill(victim, signal.SIGCONT)
    assert not stream.result().wrong
    assert stack.worker_pid() == victim


@pytest.mark.slow
def test_a_worker_that_wakes_up_after_it_was_replaced_is_not_heard(stack: FaultStack) -> None:
    """Nobody kills it: it is not the broker's child."""
    os.kill(warm(stack), signal.SIGKILL)
    stack.until(lambda: not stack.workers("a"), "noticed")
    late = stack.static_worker("--step", "0.02")
    stack.until(lambda: [w["pid"] for w in stack.workers("a")] == [late.pid], "registered")
    stream = stack.stream(5, 200)
    stream.wait_for_word()
    late.send_signal(signal.SIGSTOP)
    stack.until(lambda: late.pid not in [w["pid"] for w in stack.status()["workers"]], "given up")
    stack.worker_pid()
    late.send_signal(signal.SIGCONT)
    assert not stream.result().wrong
    assert late.wait(DEADLINE) == 0
    assert "told to leave: given up" in stack.log("static")


def test_an_engine_that_hangs_is_ended_with_its_stacks_in_the_log(stack: FaultStack) -> None:
    warm_child(stack)
    stack.fault("engine.step:#3:hang")
    streams = [stack.stream(seed, 60) for seed in range(3)]
    all_right(streams)
    death = stack.status()["deaths"][0]
    assert death["signal"] == "SIGABRT"
    assert "made no step" in death["how"]
    log = stack.log(death["worker"])
    assert "Fatal Python error: Aborted" in log
    assert "failpoints.py" in log


@pytest.mark.slow
def test_a_worker_starts_after_the_token_and_the_logs_were_removed(stack: FaultStack) -> None:
    victim = warm(stack)
    (stack.folder / "worker.token").unlink()
    for log in (stack.folder / "log").iterdir():
        log.unlink()
    (stack.folder / "log").rmdir()
    os.kill(victim, signal.SIGKILL)
    warm(stack)
    assert list((stack.folder / "log").glob("worker-*.log"))


@pytest.mark.slow
def test_the_log_of_a_worker_that_lives_on_and_on_is_cut_by_and_by(stack: FaultStack) -> None:
    warm(stack)
    [worker] = stack.workers("a")
    log = stack.folder / "log" / f"{worker['id']}.log"
    with log.open("ab") as more:
        more.write(b"a line of no use\n" * (LOG_BYTES // 16))
    stack.until(lambda: log.stat().st_size <= LOG_BYTES, "a log that is cut")
