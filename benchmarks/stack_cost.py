"""What a token costs on its way through the stack: 128 streams from a worker without a model.

Twice: as fast as it goes (the worker, the client and the stack share the machine), and paced, as a model would.
"""

import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.costs import Cost
from benchmarks.plans import ClosedLoop
from benchmarks.replies import Figure, Played, figures
from benchmarks.servers import Server, our_server
from benchmarks.usage import Usage, spent

STREAMS = 128
IDLE = 5.0  # seconds


@dataclass(frozen=True)
class Pace:
    title: str
    step: float  # seconds
    tokens: int  # of each stream


PACES = (Pace("full speed", 0.0, 300), Pace("20 tokens/s each", 0.05, 120))


async def stack_cost(folder: Path) -> list[Cost]:
    """Raises Failed."""
    return [cost for pace in PACES for cost in await _paced(pace, folder)]


async def _paced(pace: Pace, folder: Path) -> list[Cost]:
    worker = [sys.executable, "-m", "tests.programs.scripted_worker", "--step", str(pace.step)]
    server = our_server([folder / "scripted"], folder, worker)
    try:
        await server.start()
        await server.play(ClosedLoop(STREAMS, STREAMS, max_tokens=16), "warm-up")
        return await _measure(pace, server)
    finally:
        server.stop()


async def _measure(pace: Pace, server: Server) -> list[Cost]:
    usage = Usage(server.children)
    before = usage.seconds()
    played = await server.play(ClosedLoop(STREAMS, STREAMS, max_tokens=pace.tokens), "measured")
    busy = spent(before, usage.seconds())
    costs = [*_speed(pace, played), *_per_token(pace, played, busy)]
    return costs if pace.step else [*costs, *await _at_rest(usage)]


def _speed(pace: Pace, played: Played) -> list[Cost]:
    found = figures(played)
    return [
        Cost(what=f"{STREAMS} streams, {pace.title}", value=found[Figure.SPEED], unit="tokens/s"),
        Cost(what=f"{STREAMS} streams, {pace.title}, gap p99", value=1000 * found[Figure.GAP], unit="ms"),
    ]


def _per_token(pace: Pace, played: Played, busy: dict[str, float]) -> list[Cost]:
    return [
        Cost(what=f"{name}, {pace.title}", value=1e6 * seconds / played.tokens, unit="µs CPU/token")
        for name, seconds in busy.items()
    ]


async def _at_rest(usage: Usage) -> list[Cost]:
    before, began = usage.seconds(), time.perf_counter()
    await asyncio.sleep(IDLE)
    seconds = time.perf_counter() - began
    idle = spent(before, usage.seconds())
    return [
        *(
            Cost(what=f"{name}, resident", value=size / 2**20, unit="MiB")
            for name, size in usage.memory().items()
        ),
        *(
            Cost(what=f"{name}, at rest", value=100 * idle[name] / seconds, unit="% CPU")
            for name in usage.memory()
        ),
    ]
