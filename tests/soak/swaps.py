"""``python -m tests.soak.swaps --minutes 5``: three models under a budget for two, and 8 clients of all three.

Every answer must be whole, no wait may be longer than the longest wait allowed and one turn of each other model, and
the sum of all workers' footprints, measured from outside every 100 ms, must stay in the budget. Exit code 1 otherwise.
"""

import argparse
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import httpx
import psutil

from tests.faults.stack import FaultStack, environ, fault_stack
from workers.footprint import proportional

CLIENTS = 8
MIN_STAY, MAX_WAIT = 2.0, 6.0
MODELS = "abc"
PATIENCE = 300.0  # seconds
UNHURRIED = {"heartbeat_timeout": 5.0, "stall_timeout": 30.0, "context_length": 1024}
_LOAD = re.compile(r"(\S+ \S+) INFO broker: (?:starting (\S+) for|(\S+) is ready)")


def rules(source: str, need: float, budget: float, replicas: str = "1") -> dict[str, object]:
    """Settings of the server; the need of each model and the budget in GB."""
    tables = {name: {"source": source, "memory_gb": need} for name in MODELS}
    return {
        "models": json.dumps(tables),
        "available_models": ",".join(MODELS),
        "min_stay": MIN_STAY,
        "max_wait": MAX_WAIT,
        "max_cache_size_gb": budget,
        "replicas": replicas,
    }


class Watch:
    """The largest sum of what all workers take, as the system counts it."""

    def __init__(self, stack: FaultStack) -> None:
        self._folder = str(stack.folder)
        self._stop = threading.Event()
        self.most = self.looks = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            self.most = max(self.most, sum(map(taken, self._workers())))
            self.looks += 1

    def _workers(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter(["cmdline"]):
            named = "--id" in (process.info["cmdline"] or ())
            if named and environ(process).get("MLX_SERVER_RUN_DIR") == self._folder:
                yield process

    def close(self) -> int:
        self._stop.set()
        self._thread.join(10)
        return self.most


def taken(process: psutil.Process) -> int:
    try:
        return proportional(Path(f"/proc/{process.pid}/smaps_rollup").read_text()) or 0
    except OSError:
        return 0


@dataclass
class Crowd:
    """``CLIENTS`` threads that ask for each model in turn until the time is over."""

    stack: FaultStack
    seconds: float
    tokens: int = 20
    waits: list[float] = field(default_factory=list)  # until the first token of each answer
    took: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def run(self) -> None:
        until = time.monotonic() + self.seconds
        clients = [threading.Thread(target=self._client, args=(number, until)) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()

    def _client(self, number: int, until: float) -> None:
        asked = number
        while time.monotonic() < until:
            self._ask(MODELS[asked % len(MODELS)], asked)
            asked += 1

    def _ask(self, model: str, seed: int) -> None:
        """One answer after another on a connection of its own, with its wait."""
        began = time.monotonic()
        body = {"model": model, "messages": [{"role": "user", "content": f"story {seed}"}], "stream": True}
        wanted = {**body, "max_tokens": self.tokens, "temperature": 0, "ignore_eos": True}
        first = 0.0
        finished = done = False
        try:
            with self.stack.http.stream(
                "POST", "/v1/chat/completions", json=wanted, timeout=PATIENCE
            ) as answer:
                if answer.status_code != 200:
                    self.wrong.append(f"{model}: {answer.status_code} {answer.read()[:200]!r}")
                    return
                for line in answer.iter_lines():
                    first = first or (time.monotonic() if '"content"' in line else 0.0)
                    finished = finished or '"finish_reason":"' in line.replace(" ", "")
                    done = done or line == "data: [DONE]"
        except httpx.HTTPError as error:
            self.wrong.append(f"{model}: {error!r}")
            return
        if not (finished and done):
            self.wrong.append(f"{model}: cut off")
        self.waits.append((first or time.monotonic()) - began)
        self.took.append(time.monotonic() - began)


@dataclass
class Outcome:
    budget: int
    answers: int
    wrong: list[str]
    longest_wait: float
    longest_load: float
    longest_answer: float
    swaps: int
    most: int
    looks: int
    deaths: int

    def __str__(self) -> str:
        return (
            f"{self.answers} answers, {len(self.wrong)} wrong, {self.deaths} deaths, {self.swaps} swaps, "
            f"longest wait {self.longest_wait:.1f} s of {self.wait:.1f}, load {self.longest_load:.1f} s, "
            f"answer {self.longest_answer:.1f} s, "
            f"at most {self.most / 1e9:.3f} GB of {self.budget / 1e9:g} in {self.looks} looks"
        )

    @property
    def wait(self) -> float:
        """The bound: the longest wait for a turn, and one turn of each other model."""
        turn = max(MIN_STAY, self.longest_load) + self.longest_load + self.longest_answer
        return MAX_WAIT + (len(MODELS) - 1) * turn

    @property
    def right(self) -> bool:
        whole = not self.wrong and not self.deaths and self.answers > 0
        return whole and self.swaps > 0 and self.longest_wait <= self.wait and self.most <= self.budget


def loads(log: str) -> Iterator[float]:
    """Seconds from each start of a worker until it was ready."""
    began: dict[str, datetime] = {}
    for at, started, ready in _LOAD.findall(log):
        time_of = datetime.strptime(at, "%Y-%m-%d %H:%M:%S,%f")  # noqa: DTZ007 (only differences are taken)
        if started:
            began[started] = time_of
        elif ready in began:
            yield (time_of - began[ready]).total_seconds()


def swaps(stack: FaultStack, seconds: float) -> Outcome:
    watch = Watch(stack)
    crowd = Crowd(stack, seconds)
    crowd.run()
    most = watch.close()
    return Outcome(
        budget=stack.status()["memory"]["budget"],
        answers=len(crowd.waits),
        wrong=crowd.wrong,
        longest_wait=max(crowd.waits, default=0.0),
        longest_load=max(loads(stack.log("broker")), default=0.0),
        longest_answer=max((t - w for t, w in zip(crowd.took, crowd.waits, strict=True)), default=0.0),
        swaps=stack.log("broker").count(" evict "),
        most=most,
        looks=watch.looks,
        deaths=len(stack.status()["deaths"]),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Three embedded models under a budget for two.")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--replicas", default="1", help="workers of a model, such as 1-2")
    parser.add_argument("--budget", type=float, default=2.7, help="GB for all of them")
    options = parser.parse_args()
    command = json.dumps([sys.executable, "-m", "workers"])
    settings = {
        "worker_command": command,
        **rules("embedded", 1.3, options.budget, options.replicas),
        **UNHURRIED,
    }
    with fault_stack(**settings) as stack:
        outcome = swaps(stack, options.minutes * 60)
        for decision in reversed(stack.status()["memory"]["decisions"]):
            print(f"{decision['age']:6.1f} s ago: {decision['line']}")
        print(outcome, *outcome.wrong[:5], sep="\n")
    return 0 if outcome.right else 1


if __name__ == "__main__":
    sys.exit(main())
