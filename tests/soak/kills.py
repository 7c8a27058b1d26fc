"""``python -m tests.soak.kills --minutes 30 [--seed N]``: random kills under load, and what came of it.

Exit code 1 if a single stream was wrong, if something was left behind, or if a process has grown.
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
from typing import NamedTuple

import psutil

from tests.faults.client import Stream
from tests.faults.stack import FaultStack, fault_stack

STREAMS = 16
OPTIONS = ("--step", "0.005", "--prefill", "0.02")
PROGRAMS = ("api", "broker")
KILLS = ("kill", "drain", "restart")
FDS, MEMORY = (
    10,
    32 << 20,
)  # what a process may gain beyond a tenth of its size: sockets on their way, a fuller heap


class Gap(NamedTuple):
    seconds: float
    end: float
    model: str


@dataclass
class Figures:
    streams: int = 0
    tokens: int = 0
    wrong: list[str] = field(default_factory=list)
    faults: list[tuple[float, str]] = field(default_factory=list)  # when, and what
    gaps: list[Gap] = field(default_factory=list)  # the longest of each stream

    def take(self, stream: Stream) -> None:
        answer = stream.result()
        self.streams += 1
        self.tokens += len(answer.text.split())
        if answer.gaps:
            length, end = max(zip(answer.gaps, answer.came[1:], strict=True))
            self.gaps.append(Gap(length, end, answer.model))
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
        faults += [self.stop_worker, self.stop_broker, self.kill_both, self.drain_worker, self.restart_broker]
        faults += [self.client_leaves]
        fault = self.rng.choice(faults)
        self.figures.faults.append((time.monotonic(), fault.__name__))
        fault()

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

    def restart_broker(self) -> None:
        """As supervisord does for an operator: a SIGTERM, and another one."""
        self.stack.program("broker").send_signal(signal.SIGTERM)

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

    def outgrows(self, before: "Size") -> bool:
        return self.fds > 1.1 * before.fds + FDS or self.memory > 1.1 * before.memory + MEMORY

    def __str__(self) -> str:
        return f"{self.fds} fds, {self.memory >> 20} MB"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.minutes:g} minutes", flush=True)
    with fault_stack(*OPTIONS) as stack:
        soak = Soak(stack, random.Random(options.seed))
        warm = [stack.stream(seed, 50, "ab"[seed % 2]) for seed in range(2 * STREAMS)]
        for stream in warm:
            soak.figures.take(stream)
        before = sizes(stack)
        soak.run(options.minutes * 60)
        complaints = look_for_what_is_left(stack)
        complaints += compare(before, sizes(stack))
        stack.stop()
        complaints += [f"outlives the stop: {process}" for process in stack.worker_processes()]
        complaints += [f"outlives the stop: {process}" for process in stack.survivors()]
    return report(soak.figures, complaints)


def sizes(stack: FaultStack) -> dict[str, Size]:
    return {name: Size.of(stack.program(name)) for name in PROGRAMS}


def look_for_what_is_left(stack: FaultStack) -> list[str]:
    """In flight, in the logs, and orphaned workers."""
    try:
        stack.check()
    except AssertionError as error:
        return [str(error)]
    return []


def compare(before: dict[str, Size], after: dict[str, Size]) -> list[str]:
    for name in PROGRAMS:
        print(f"{name}: {before[name]} -> {after[name]}")
    return [f"the {name} has grown" for name in PROGRAMS if after[name].outgrows(before[name])]


def report(figures: Figures, complaints: list[str]) -> int:
    faults = Counter(name for _, name in figures.faults)
    kills = sum(count for fault, count in faults.items() if fault.startswith(KILLS))
    print(f"{figures.streams} streams, {figures.tokens} tokens, {len(figures.wrong)} wrong")
    print(f"{kills} kills and restarts: {dict(faults)}")
    tell_of_gaps(figures)
    for line in [*figures.wrong[:20], *complaints]:
        print(f"  {line}")
    return 1 if figures.wrong or complaints else 0


def tell_of_gaps(figures: Figures) -> None:
    """The longest one with what was done to the server meanwhile."""
    gaps = sorted(figures.gaps)
    longest = gaps[-1]
    print(f"the longest gap of each stream: p50 {gaps[len(gaps) // 2].seconds:.2f} s,", end=" ")
    print(
        f"p99 {gaps[len(gaps) * 99 // 100].seconds:.1f} s, longest {longest.seconds:.1f} s, of model {longest.model}:"
    )
    began = longest.end - longest.seconds
    during = [f"{at - began:.1f} s {name}" for at, name in figures.faults if began - 1 < at < longest.end]
    print(f"  meanwhile: {', '.join(during)}")


if __name__ == "__main__":
    sys.exit(main())
