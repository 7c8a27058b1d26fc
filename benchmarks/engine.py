"""Plays a workload on our engine alone, or on a bare loop: no sockets, no HTTP, prompts tokenized beforehand.

``python -m benchmarks.engine FOLDER WORKLOAD SIDE SEED`` is a process of its own, as a worker is, so that OpenBLAS is
opened before mlx; it warms up, plays once and prints seconds and tokens as JSON.
"""

import asyncio
import json
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from benchmarks.client import Failed, Played
from benchmarks.servers import ROOT, environment
from benchmarks.targets import BARE
from benchmarks.workloads import WORKLOADS, Ask, ClosedLoop, Decode, Plan, brief, closed_loop_asks
from shared.protocol import ChatPrompt, Generation, Run, Sampling, Stopping, Submit
from workers.engine.cpu.allocator import keep_freed_memory
from workers.engine.cpu.blas import open_blas
from workers.job import Job, Served

ENDLESS = 2000  # tokens: more than any sequence of a Decode lives to give


class EngineSide:
    """``side``: our engine or the bare loop. ``alive``: each play starts a process of its own."""

    alive = True

    def __init__(self, folder: Path, side: str) -> None:
        self._folder = folder
        self._side = side

    async def start(self) -> None: ...

    def stop(self) -> None: ...

    async def play(self, plan: Plan, seed: str) -> Played:
        """Raises Failed."""
        [name] = [workload.name for workload in WORKLOADS if plan in (workload.plan, brief(workload.plan))][
            :1
        ]
        command = [sys.executable, "-m", "benchmarks.engine", str(self._folder), name, self._side, seed]
        child = await asyncio.create_subprocess_exec(
            *command,
            cwd=ROOT,
            env=environment({}),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            said, complaint = await child.communicate()
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if child.returncode:
            raise Failed(complaint.decode(errors="replace").strip().rpartition("\n")[2])
        return Played(**json.loads(said.splitlines()[-1]))


def main(folder: Path, workload: str, side: str, seed: str) -> Played:
    """mlx is imported from here on."""
    from shared.settings import Settings
    from workers.model.load import inspect, load
    from workers.model.serve_model import serve_model

    [plan] = [each.plan for each in WORKLOADS if each.name == workload]
    loaded = load(folder, inspect(folder), lambda *_: None, trusted=True)
    served = serve_model(loaded, Settings(available_models=(f"bench={folder}",), prompt_disk_gb=0))

    def play(plan: Plan, seed: str) -> Played:
        match plan:
            case Decode() if side == BARE:
                return decode_bare(loaded.model, served, plan, seed)
            case Decode():
                return decode(served, plan, seed)
            case ClosedLoop():
                return close_the_loop(served, plan, seed)
            case _:
                raise Failed(f"{plan} is for servers")

    play(brief(plan), f"{seed} warm-up")
    return play(plan, seed)


def close_the_loop(served: Served[Job], plan: ClosedLoop, seed: str) -> Played:
    """``clients`` requests are in the engine at any time, until all are made."""
    engine, tokens = served.engine, 0
    waiting = deque(served.prepare(run_of(ask, i)) for i, ask in enumerate(closed_loop_asks(plan, seed)))
    began = time.perf_counter()
    while waiting or engine.active:
        while waiting and engine.active < plan.clients:
            engine.add(waiting.popleft())
        tokens += sum(len(output.delta.ids) for output in engine.step())
    return Played(time.perf_counter() - began, tokens)


def decode(served: Served[Job], plan: Decode, seed: str) -> Played:
    """The clock runs once every sequence decodes, and until before any of them ends."""
    from workers.self_check.speed import engine_loop

    return Played(*engine_loop(served, decode_jobs(served, plan, seed), plan.steps))


def decode_bare(model: Any, served: Served[Job], plan: Decode, seed: str) -> Played:
    from workers.self_check.bare_loop import bare_loop

    prompts = [job.prompt for job in decode_jobs(served, plan, seed)]
    warm_up = plan.rows  # our engine decodes about so long until all prompts are read
    return Played(bare_loop(model, prompts, plan.steps, warm_up), plan.rows * plan.steps)


def decode_jobs(served: Served[Job], plan: Decode, seed: str) -> list[Job]:
    asks = closed_loop_asks(ClosedLoop(plan.rows, plan.rows), seed)
    return [served.prepare(run_of(ask, i, endless=True)) for i, ask in enumerate(asks)]


def run_of(ask: Ask, number: int, *, endless: bool = False) -> Run:
    generation = Generation(
        prompt=ChatPrompt(messages=[{"role": role, "content": content} for role, content in ask.messages]),
        sampling=Sampling(seed=ask.seed or 0, temperature=ask.temperature, top_p=ask.top_p),
        stopping=Stopping(max_tokens=ENDLESS if endless else ask.max_tokens, ignore_eos=endless),
    )
    submit = Submit(request_id=str(number), attempt=1, model="bench", task=generation)
    return Run(api="bench", submit=submit)


if __name__ == "__main__":
    keep_freed_memory()
    open_blas()
    played = main(Path(sys.argv[1]), *sys.argv[2:5])
    print(json.dumps({"seconds": played.seconds, "tokens": played.tokens}))
