"""``python -m tests.faults.soak --minutes 30 [--seed N]``: random kills under load, and what came of it.

Exit code 1 if a single stream was wrong, or something was left behind.
"""

import argparse
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil

from tests.faults.client import Stream
from tests.faults.stack import FaultStack, fault_stack

STREAMS = 16
OPTIONS = ("--step", "0.005", "--prefill", "0.02")


@dataclass
class Figures:
    streams: int = 0
    tokens: int = 0
    wrong: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    longest_gap: float = 0.0

    def take(self, stream: Stream) -> None:
        answer = stream.result()
        self.streams += 1
        self.tokens += len(answer.text.split())
        self.longest_gap = max(self.longest_gap, answer.gap)
        if answer.wrong:
            self.wrong.append(f"model {answer.model}, seed {answer.seed}: {answer.wrong}")


class Soak:
    def __init__(self, stack: FaultStack, rng: random.Random) -> None:
        self.stack = stack
        self.rng = rng
        self.figures = Figures()
        self.running: list[Stream] = []
        self.started = 0

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        next_fault = time.monotonic() + 3
        while time.monotonic() < end:
            self.refill()
            if time.monotonic() >= next_fault:
                self.harm()
                next_fault = time.monotonic() + self.rng.uniform(0.5, 3.0)
            time.sleep(0.02)  # a pause between looks, not a wait for luck
        for stream in self.running:
            self.figures.take(stream)

    def refill(self) -> None:
        for stream in [stream for stream in self.running if stream.ended]:
            self.running.remove(stream)
            self.figures.take(stream)
        while len(self.running) < STREAMS:
            self.started += 1
            self.running.append(
                self.stack.stream(self.started, self.rng.randint(1, 600), self.rng.choice("ab"))
            )

    def harm(self) -> None:
        faults: list[Callable[[], None]] = [self.kill_worker, self.kill_worker, self.kill_broker]
        faults += [self.stop_worker, self.stop_broker, self.kill_both, self.drain_worker, self.client_leaves]
        fault = self.rng.choice(faults)
        fault()
        self.figures.faults[fault.__name__] += 1

    def worker(self) -> psutil.Process | None:
        alive = self.stack.worker_processes()
        return self.rng.choice(alive) if alive else None

    def signal_worker(self, number: int) -> psutil.Process | None:
        if process := self.worker():
            process.send_signal(number)
        return process

    def kill_worker(self) -> None:
        self.signal_worker(signal.SIGKILL)

    def drain_worker(self) -> None:
        self.signal_worker(signal.SIGTERM)

    def kill_broker(self) -> None:
        self.stack.program("broker").send_signal(signal.SIGKILL)

    def kill_both(self) -> None:
        self.kill_worker()
        self.kill_broker()

    def stop_worker(self) -> None:
        self.pause(self.worker())

    def stop_broker(self) -> None:
        self.pause(self.stack.program("broker"))

    def pause(self, process: psutil.Process | None) -> None:
        if process:
            process.send_signal(signal.SIGSTOP)
            time.sleep(self.rng.uniform(0.1, 3.0))
            if process.is_running():
                process.send_signal(signal.SIGCONT)

    def client_leaves(self) -> None:
        if self.running:
            stream = self.running.pop(self.rng.randrange(len(self.running)))
            stream.leave()


@dataclass
class Size:
    fds: int
    memory: int

    @classmethod
    def of(cls, process: psutil.Process) -> "Size":
        return cls(process.num_fds(), process.memory_info().rss)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.minutes:g} minutes", flush=True)
    with fault_stack(*OPTIONS) as stack:
        soak = Soak(stack, random.Random(options.seed))
        warm = [stack.stream(seed, 50, "ab"[seed % 2]) for seed in range(32)]
        for stream in warm:
            soak.figures.take(stream)
        before = Size.of(stack.program("api"))
        soak.run(options.minutes * 60)
        left_behind = look_for_what_is_left(stack)
        after = Size.of(stack.program("api"))
        refused = [line for line in stack.log("api").splitlines() if "Traceback" in line]
    return report(soak.figures, before, after, [*left_behind, *refused])


def look_for_what_is_left(stack: FaultStack) -> list[str]:
    try:
        stack.check()
    except AssertionError as error:
        return [str(error)]
    return []


def report(figures: Figures, before: Size, after: Size, left_behind: list[str]) -> int:
    print(f"{figures.streams} streams, {figures.tokens} tokens, {len(figures.wrong)} wrong")
    print(f"faults: {dict(figures.faults)}, longest gap {figures.longest_gap:.1f} s")
    print(f"api: fds {before.fds} -> {after.fds}, memory {before.memory >> 20} -> {after.memory >> 20} MB")
    for line in [*figures.wrong[:20], *left_behind]:
        print(f"  {line}")
    return 1 if figures.wrong or left_behind else 0


if __name__ == "__main__":
    sys.exit(main())
