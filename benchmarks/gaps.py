"""``python -m benchmarks.gaps``: how long clients wait when something is killed under their streams.

The worker, at each of its first 41 tokens: once with another worker of the model beside it, once without, so that the
next has to load first. And the broker, which supervisord starts again.
"""

import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator

from tests.faults.client import Answer
from tests.faults.stack import FaultStack, fault_stack
from tests.faults.test_workers import warm

STREAMS = 8
TOKENS = 60
INDICES = range(41)
LOAD = 2.0  # seconds


def main() -> int:
    wrong = 0
    with fault_stack("--step", "0.01", "--load", f"{LOAD:g}") as stack:
        print(
            f"from a killed worker to its next one, ready: {reload(stack):.2f} s ({LOAD:g} s of them loading)"
        )
        wrong += tell("workers killed, without a replica", kill_workers(stack, 1))
        wrong += tell("workers killed, with a replica", kill_workers(stack, 2))
        wrong += tell("brokers killed", kill_brokers(stack))
    return 1 if wrong else 0


def reload(stack: FaultStack) -> float:
    os.kill(warm(stack), signal.SIGKILL)
    began = time.monotonic()
    stack.until(lambda: not stack.workers("a"), "noticed")
    warm(stack)
    return time.monotonic() - began


def kill_workers(stack: FaultStack, workers: int) -> Iterator[Answer]:
    for index in INDICES:
        staff(stack, workers)
        stack.fault(f"worker.said:{index}:kill9")
        yield from answers(stack, STREAMS)
        stack.until_fault()


def kill_brokers(stack: FaultStack) -> Iterator[Answer]:
    for number in range(10):
        warm(stack)
        stack.until(
            lambda: "RUNNING" in stack.supervisorctl("status", "broker"), "past supervisord's back-off"
        )
        stack.fault(f"broker.did:#{100 + 7 * number}:kill9")
        yield from answers(stack, 20)
        stack.until_fault()


def answers(stack: FaultStack, streams: int) -> list[Answer]:
    return [stream.result() for stream in [stack.stream(seed, TOKENS) for seed in range(streams)]]


def tell(how: str, answers: Iterable[Answer]) -> int:
    """Gives how many streams were wrong."""
    found = list(answers)
    gaps = sorted(gap for answer in found for gap in answer.gaps)
    longest = sorted(answer.gap for answer in found)
    wrong = sum(bool(answer.wrong) for answer in found)
    print(
        f"{how}: {len(found)} streams, {wrong} wrong; all gaps p99 {gaps[len(gaps) * 99 // 100]:.3f} s;"
        f" the longest of each stream p50 {longest[len(longest) // 2]:.2f} s,"
        f" p99 {longest[len(longest) * 99 // 100]:.2f} s, longest {longest[-1]:.2f} s",
        flush=True,
    )
    return wrong


def staff(stack: FaultStack, workers: int) -> None:
    """The broker starts the first, when it is asked."""
    if not stack.workers("a"):
        warm(stack)
    while len(stack.workers("a")) < workers:
        before = len(stack.workers("a"))
        stack.static_worker("--step", "0.01")
        stack.until(lambda before=before: len(stack.workers("a")) > before, "registered")  # type: ignore[misc]


if __name__ == "__main__":
    sys.exit(main())
