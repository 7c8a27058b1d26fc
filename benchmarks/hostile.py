"""``python -m benchmarks.hostile``: what 8 streams notice of 500 silent sockets, 200 slow readers and a body of a GiB.

Workers without a model, a token each 20 ms. The crowd is a process of its own, which shares the machine.
"""

import json
import signal
import subprocess
import sys
from dataclasses import dataclass

from cli.bench.figures import percentile
from tests.faults.client import Answer
from tests.faults.stack import FaultStack, fault_stack
from tests.faults.test_workers import warm

STREAMS, TOKENS, STEP = 8, 600, 0.02
TARGET = 1.5  # times of the gap p99 without the crowd


@dataclass(frozen=True)
class Noticed:
    """``gap``: p99 of all gaps, in seconds; ``memory``: bytes that the api took more; ``body``: its answer."""

    answers: list[Answer]
    gap: float
    memory: int = 0
    body: str = ""


def main() -> int:
    with fault_stack("--step", f"{STEP:g}", send_timeout=60, max_in_flight=256) as stack:
        warm(stack)
        warm(stack, "b")
        alone = streams(stack, TOKENS)
        crowded = with_crowd(stack, TOKENS)
    times = crowded.gap / alone.gap
    print(
        f"{STREAMS} streams, gap p99 {alone.gap * 1e3:.1f} ms alone, {crowded.gap * 1e3:.1f} ms with the crowd: "
        f"{times:.2f} times; the api took {crowded.memory >> 20} MiB more; the body: {crowded.body}"
    )
    wrong = sum(bool(answer.wrong) for answer in (*alone.answers, *crowded.answers))
    print(f"{wrong} streams were wrong")
    return 1 if wrong or times > TARGET else 0


def streams(stack: FaultStack, tokens: int) -> Noticed:
    answers = [stream.result() for stream in [stack.stream(seed, tokens) for seed in range(STREAMS)]]
    return Noticed(answers, percentile([gap for answer in answers for gap in answer.gaps], 99))


def with_crowd(stack: FaultStack, tokens: int, *options: str) -> Noticed:
    """The crowd comes while the streams run."""
    api = stack.program("api")
    before = api.memory_info().rss
    running = [stack.stream(seed, tokens) for seed in range(STREAMS)]
    for stream in running:
        stream.wait_for_word()
    crowd = subprocess.Popen(
        [sys.executable, "-m", "tests.programs.hostile_crowd", str(stack.port), *options],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        answers = [stream.result() for stream in running]
        memory = api.memory_info().rss - before
    finally:
        crowd.send_signal(signal.SIGTERM)
        said, _ = crowd.communicate(timeout=60)
    gap = percentile([gap for answer in answers for gap in answer.gaps], 99)
    return Noticed(answers, gap, memory, json.loads(said)["body"])


if __name__ == "__main__":
    sys.exit(main())
