"""How fast the engine decodes here, beside the bare loop, and how long the device waits for the host meanwhile."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from workers.job import Job, Served
from workers.self_check.bare_loop import bare_loop
from workers.self_check.parity import requests

ENDLESS = 2000  # tokens: more than any sequence here lives to give


@dataclass(frozen=True)
class Speed:
    """Tokens per second of ``rows`` sequences together.

    ``idle_share``: what a pass of the engine takes beyond the same pass launched without reading anything, as a share
    of the former; None, as ``bare``, where mlx-lm cannot batch the model.
    """

    rows: int
    engine: float
    bare: float | None
    idle_share: float | None


def speed(served: Served[Job], model: Any, rows: int, steps: int) -> Speed:
    jobs = decode_jobs(served, rows)
    seconds, tokens = engine_loop(served, jobs, steps)
    prompts = [job.prompt for job in jobs]
    try:
        bare = bare_loop(model, prompts, steps, warm_up=rows)
        device = bare_loop(model, prompts, steps, warm_up=2, reads=False)
    except AttributeError:
        return Speed(rows, tokens / seconds, None, None)
    return Speed(rows, tokens / seconds, rows * steps / bare, max(0.0, 1 - device / seconds))


def decode_jobs(served: Served[Job], rows: int) -> list[Job]:
    """Without guessed tokens, so that a pass gives each sequence one."""
    some = requests(served, ENDLESS, "speed", scoped=True)
    return [
        replace(some[number % len(some)], request_id=f"speed{number}", speculates=False)
        for number in range(rows)
    ]


def engine_loop(served: Served[Job], jobs: Sequence[Job], steps: int) -> tuple[float, int]:
    """Seconds and tokens of ``steps`` steps: once every sequence decodes, and before any of them ends."""
    begin(served, jobs)
    began = time.perf_counter()
    tokens = sum(len(output.delta.ids) for _ in range(steps) for output in served.engine.step())
    seconds = time.perf_counter() - began
    end(served, jobs)
    return seconds, tokens


def begin(served: Served[Job], jobs: Sequence[Job]) -> None:
    """Steps until every sequence decodes."""
    for job in jobs:
        served.engine.add(job)
    silent = {job.request_id for job in jobs}
    while silent:
        silent -= {output.delta.request_id for output in served.engine.step()}


def end(served: Served[Job], jobs: Sequence[Job]) -> None:
    for job in jobs:
        served.engine.cancel(job.request_id)
    served.engine.step()
