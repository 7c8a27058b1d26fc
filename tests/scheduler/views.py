"""Views for plays: what waits and what runs, in a few words, without MLX."""

from dataclasses import replace
from typing import Any

from shared.callers import Asker
from workers.engine.kv.footprint import OneArray
from workers.engine.memory.cost import Cost, LayerCost
from workers.engine.scheduling import scheduler
from workers.engine.scheduling.plan import Costs, Limits, Memory, Plan, Row, Task, View

COST = Cost((LayerCost(1.0),))  # a byte for each token
COSTS = Costs(fixed=0.01, per_token=0.001)


def task(id: str, tokens: int = 100, caller: str = "", **more: Any) -> Task:
    """Numbered by the order in which ``view`` gets them."""
    return Task(
        id=id, number=0, since=more.pop("since", 0), tokens=tokens, asker=Asker(caller or id, id), **more
    )


def row(id: str, caller: str = "", **more: Any) -> Row:
    return Row(id, Asker(caller or id, id), **more)


def memory(size: int, *lengths: int, cache_bytes: int = 0) -> Memory:
    """For rows of these lengths; each array has 256 tokens more than the longest row."""
    return Memory(COST, size, OneArray(lengths), cache_bytes)


def view(*entries: Task | Row, step: int = 1, **more: Any) -> View:
    tasks = [entry for entry in entries if isinstance(entry, Task)]
    return View(
        step=step,
        waiting=tuple(replace(each, number=number) for number, each in enumerate(tasks)),
        running=tuple(entry for entry in entries if isinstance(entry, Row)),
        memory=more.pop("memory", Memory(COST)),
        costs=more.pop("costs", COSTS),
        limits=more.pop("limits", Limits()),
        **more,
    )


def plan(*entries: Task | Row, now: float = 0.0, **more: Any) -> Plan:
    return scheduler.plan(view(*entries, **more), now)


def read(plan: Plan) -> list[str]:
    return [chunk.task for chunk in plan.prefill]
