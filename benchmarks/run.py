"""Plays workloads: the sides in turn, round after round, after a brief one that does not count."""

import asyncio
from collections.abc import Callable, Mapping

from benchmarks import words
from benchmarks.failures import Failed
from benchmarks.plans import brief
from benchmarks.replies import Figure, figures
from benchmarks.results import Rounds
from benchmarks.side import Side
from benchmarks.workloads import Workload

PATIENCE = 300.0  # seconds for one play

Say = Callable[[str], None]


async def run_workload(
    workload: Workload, sides: Mapping[str, Side], rounds: int, seed: str, say: Say
) -> dict[str, Rounds]:
    """Only one side is asked at a time. A side that fails is restarted for the next workload.

    Every other round goes the other way, as a machine may be faster behind a side that works less.
    """
    found = {name: Rounds() for name in workload.sides if name in sides}
    for number in range(rounds + 1):
        there = list(found.items())
        for name, kept in there if number % 2 else reversed(there):
            if kept.failed is None:
                play = _play(
                    sides[name], workload, f"{seed} {workload.name} {number}", kept, warm_up=number == 0
                )
                say(f"{workload.name}, {_round(number, rounds)}, {name}: {await play}")
    return found


def _round(number: int, rounds: int) -> str:
    return f"round {number} of {rounds}" if number else "warm-up"


async def _play(side: Side, workload: Workload, seed: str, kept: Rounds, *, warm_up: bool) -> str:
    """Adds to what is kept; gives what is to be said of it."""
    try:
        async with asyncio.timeout(PATIENCE):
            if not side.alive:
                await side.start()
            played = await side.play(brief(workload.plan) if warm_up else workload.plan, seed)
        if not played.tokens:
            raise Failed("it gave no tokens")
    except (Failed, TimeoutError) as error:
        side.stop()
        kept.failed = str(error) or f"no end in {PATIENCE:.0f} s"
        return f"failed: {kept.failed}"
    found = figures(played)
    if not warm_up:
        kept.figures.append(found)
    return ", ".join(f"{words.number(found[figure])} {figure.value}" for figure in Figure if figure in found)
