"""``python -m tests.soak.swaps --minutes 5``: three models under a budget for two, and 8 clients of all three.

Every answer must be whole, no wait may be longer than the longest wait allowed and one turn of each other model, and
the sum of all workers' footprints, measured from outside every 100 ms, must stay in the budget. Exit code 1 otherwise.
"""

import argparse
import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from tests.faults.stack import FaultStack, environ, fault_stack
from workers.footprint import proportional

CLIENTS = 8
BUDGET = 10**9
NEED = 0.45  # GB of each model
MIN_STAY, MAX_WAIT = 2.0, 6.0
LONGEST_LOAD, LONGEST_ANSWER = 12.0, 6.0  # seconds on two cores that do other things too
WAIT = MAX_WAIT + 2 * (MIN_STAY + LONGEST_LOAD + LONGEST_ANSWER)
MODELS = "abc"


def rules(source: str) -> dict[str, object]:
    """Settings of the server."""
    tables = {name: {"source": source, "memory_gb": NEED} for name in MODELS}
    return {
        "models": json.dumps(tables),
        "available_models": ",".join(MODELS),
        "min_stay": MIN_STAY,
        "max_wait": MAX_WAIT,
        "max_cache_size_gb": BUDGET / 10**9,
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
                "POST", "/v1/chat/completions", json=wanted, timeout=2 * WAIT
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
    answers: int
    wrong: list[str]
    longest_wait: float
    swaps: int
    most: int
    looks: int
    deaths: int

    def __str__(self) -> str:
        return (
            f"{self.answers} answers, {len(self.wrong)} wrong, {self.deaths} deaths, {self.swaps} swaps, "
            f"longest wait {self.longest_wait:.1f} s of {WAIT:g}, "
            f"at most {self.most / 1e9:.3f} GB of {BUDGET / 1e9:g} in {self.looks} looks"
        )

    @property
    def right(self) -> bool:
        whole = not self.wrong and not self.deaths and self.answers > 0
        return whole and self.swaps > 0 and self.longest_wait <= WAIT and self.most <= BUDGET


def swaps(stack: FaultStack, seconds: float) -> Outcome:
    watch = Watch(stack)
    crowd = Crowd(stack, seconds)
    crowd.run()
    most = watch.close()
    return Outcome(
        answers=len(crowd.waits),
        wrong=crowd.wrong,
        longest_wait=max(crowd.waits, default=0.0),
        swaps=stack.log("broker").count(" evict "),
        most=most,
        looks=watch.looks,
        deaths=len(stack.status()["deaths"]),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Three embedded models under a budget for two.")
    parser.add_argument("--minutes", type=float, default=5.0)
    options = parser.parse_args()
    command = json.dumps([sys.executable, "-m", "workers"])
    with fault_stack(**{"worker_command": command, **rules("embedded")}) as stack:
        outcome = swaps(stack, options.minutes * 60)
        for decision in reversed(stack.status()["memory"]["decisions"]):
            print(f"{decision['age']:6.1f} s ago: {decision['line']}")
        print(outcome, *outcome.wrong[:5], sep="\n")
    return 0 if outcome.right else 1


if __name__ == "__main__":
    sys.exit(main())
