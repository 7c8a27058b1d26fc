"""What a token costs in each process: 128 streams from a worker without a model, as fast as it goes and paced.

The worker, the client and the stack share the machine: full speed is a lower bound.
"""

import asyncio
import sys
import time
from pathlib import Path

import psutil

from benchmarks.servers import Server, our_server
from benchmarks.targets import Figure, figures
from benchmarks.workloads import ClosedLoop
from cli.bench.figures import number

STREAMS = 128
IDLE = 5.0  # seconds
PACES = (("full speed", 0.0, 300), ("20 tokens/s each", 0.05, 120))  # seconds of a step, tokens of a stream

Row = tuple[str, str, str]  # what, value, unit


async def stack_cost(folder: Path) -> list[Row]:
    """Raises Failed."""
    rows: list[Row] = []
    for title, step, tokens in PACES:
        worker = [sys.executable, "-m", "tests.programs.scripted_worker", "--step", str(step)]
        server = our_server([folder / "scripted"], folder, worker)
        try:
            await server.start()
            await server.play(ClosedLoop(STREAMS, STREAMS, max_tokens=16), "warm-up")
            rows += await _measure(server, title, tokens)
            rows += await _at_rest(server) if not step else []
        finally:
            server.stop()
    return rows


async def _measure(server: Server, title: str, tokens: int) -> list[Row]:
    before = _seconds(server)
    played = await server.play(ClosedLoop(STREAMS, STREAMS, max_tokens=tokens), "measured")
    spent = {name: after - before[name] for name, after in _seconds(server).items()}
    found = figures(played)
    return [
        (f"{STREAMS} streams, {title}", number(found[Figure.SPEED]), "tokens/s"),
        (f"{STREAMS} streams, {title}, gap p99", number(1000 * found[Figure.GAP]), "ms"),
        *(
            (f"{name}, {title}", number(1e6 * seconds / played.tokens), "µs CPU/token")
            for name, seconds in spent.items()
        ),
    ]


async def _at_rest(server: Server) -> list[Row]:
    before, began = _seconds(server), time.perf_counter()
    await asyncio.sleep(IDLE)
    idle = 100 / (time.perf_counter() - began)
    after = _seconds(server)
    return [
        row
        for name, process in parts(server).items()
        for row in (
            (f"{name}, resident", number(process.memory_info().rss / 2**20), "MiB"),
            (f"{name}, at rest", number(idle * (after[name] - before[name])), "% CPU"),
        )
    ]


def parts(server: Server) -> dict[str, psutil.Process]:
    """The broker, the api, and the worker, which is the broker's child."""
    found = {child.module: psutil.Process(child.process.pid) for child in server.children}
    [found["worker"]] = found["broker"].children()
    return found


def _seconds(server: Server) -> dict[str, float]:
    """Of CPU, since each process began; the client's are this one's."""
    processes = parts(server) | {"this client": psutil.Process()}
    return {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}
