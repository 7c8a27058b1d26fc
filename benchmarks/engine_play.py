"""Plays plans on our engine itself: no sockets, no processes, no HTTP; the prompts are tokenized beforehand."""

import time
from collections import deque

from benchmarks.plans import Ask, ClosedLoop, Decode, closed_loop_asks, decode_asks
from benchmarks.replies import Played, Reply
from shared.protocol import ChatPrompt, Generation, Run, Sampling, Stopping, Submit
from workers.job import Engine, Job, Output, Prepare, Served

ENDLESS = 2000  # tokens: more than any row of a Decode lives to give


def close_the_loop(served: Served, plan: ClosedLoop, seed: str) -> Played:
    """``clients`` requests are in the engine at any time, until all are made."""
    engine = served.engine
    waiting = deque(
        served.prepare(run_of(ask, f"{seed} {i}")) for i, ask in enumerate(closed_loop_asks(plan, seed))
    )
    replies: dict[str, Reply] = {}
    began = time.perf_counter()
    while waiting or engine.active:
        while waiting and engine.active < plan.clients:
            replies[waiting[0].request_id] = Reply(
                sent=time.perf_counter(), prompt_tokens=len(waiting[0].prompt)
            )
            engine.add(waiting.popleft())
        _note(engine.step(), replies)
    seconds = time.perf_counter() - began
    return Played(seconds, sum(reply.completion_tokens for reply in replies.values()), list(replies.values()))


def decode(served: Served, plan: Decode, seed: str) -> Played:
    """The clock runs once every row decodes, and until before any row ends."""
    jobs = decode_jobs(served.prepare, plan, seed)
    for job in jobs:
        served.engine.add(job)
    try:
        _wait_for_all(served.engine, jobs)
        began = time.perf_counter()
        tokens = sum(len(output.delta.ids) for _ in range(plan.steps) for output in served.engine.step())
        return Played(time.perf_counter() - began, tokens)
    finally:
        for job in jobs:
            served.engine.cancel(job.request_id)
        served.engine.step()  # lets the rows go


def decode_jobs(prepare: Prepare, plan: Decode, seed: str) -> list[Job]:
    runs = [run_of(ask, f"{seed} {i}", endless=True) for i, ask in enumerate(decode_asks(plan, seed))]
    return [prepare(run) for run in runs]


def run_of(ask: Ask, request_id: str, *, endless: bool = False) -> Run:
    messages = [{"role": role, "content": content} for role, content in ask.messages]
    generation = Generation(
        prompt=ChatPrompt(messages=messages),
        sampling=Sampling(seed=ask.seed or 0, temperature=ask.temperature, top_p=ask.top_p),
        stopping=Stopping(max_tokens=ENDLESS if endless else ask.max_tokens, ignore_eos=endless),
    )
    return Run(
        api="bench", submit=Submit(request_id=request_id, attempt=1, model="bench", generation=generation)
    )


def _note(outputs: list[Output], replies: dict[str, Reply]) -> None:
    now = time.perf_counter()
    for output in outputs:
        reply = replies[output.delta.request_id]
        reply.completion_tokens += len(output.delta.ids)
        if output.delta.text:
            reply.arrivals.append(now)


def _wait_for_all(engine: Engine, jobs: list[Job]) -> None:
    silent = {job.request_id for job in jobs}
    while silent:
        silent -= {output.delta.request_id for output in engine.step()}
