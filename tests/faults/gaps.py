"""``python -m tests.faults.gaps``: how long clients wait when their worker is killed, at each of its first 41 tokens.

Once with another worker of the model beside it, once without: then the next has to load first.
"""

import os
import signal
import sys
import time

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
        wrong += tell("without a replica", stack, 1)
        wrong += tell("with a replica", stack, 2)
    return 1 if wrong else 0


def reload(stack: FaultStack) -> float:
    os.kill(warm(stack), signal.SIGKILL)
    began = time.monotonic()
    stack.until(lambda: not stack.workers("a"), "noticed")
    warm(stack)
    return time.monotonic() - began


def tell(how: str, stack: FaultStack, workers: int) -> int:
    """Gives how many streams were wrong."""
    answers = []
    for index in INDICES:
        staff(stack, workers)
        stack.fault(f"worker.said:{index}:kill9")
        streams = [stack.stream(seed, TOKENS) for seed in range(STREAMS)]
        answers += [stream.result() for stream in streams]
        stack.until_fault()
    gaps = sorted(gap for answer in answers for gap in answer.gaps)
    longest = sorted(answer.gap for answer in answers)
    wrong = [answer.wrong for answer in answers if answer.wrong]
    print(
        f"{how}: {len(answers)} streams, {len(wrong)} wrong; all gaps p99 {gaps[len(gaps) * 99 // 100]:.3f} s;"
        f" the longest of each stream p50 {longest[len(longest) // 2]:.2f} s,"
        f" p99 {longest[len(longest) * 99 // 100]:.2f} s, longest {longest[-1]:.2f} s",
        flush=True,
    )
    return len(wrong)


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
