"""``python -m benchmarks``: plays the workloads on all sides in turns, and prints the tables of docs/benchmarks.md."""

import argparse
import asyncio
import platform
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import psutil
import uvloop

from benchmarks.client import Failed, Played
from benchmarks.engine import EngineSide
from benchmarks.servers import ROOT, our_server, their_server
from benchmarks.stack import stack_cost
from benchmarks.targets import (
    BARE,
    ENGINE,
    HEADINGS,
    OURS,
    THEIRS,
    Figure,
    Rounds,
    figures,
    sides_of,
    table,
    verdicts,
)
from benchmarks.workloads import WORKLOADS, Plan, Workload, brief
from cli.bench.figures import number
from shared.settings import load_settings

PATIENCE = 300.0  # seconds for one play
INTERRUPTED = 130  # exit code
STACK = "stack-128"
NAMES = ("smollm2-f32", "smollm2-f32-b")
PACKAGES = ("mlx-server", "mlx", "mlx-lm", "numpy", "pyzmq", "falcon", "uvicorn", "pydantic")

Say = Callable[[str], None]


class Side(Protocol):
    """``start`` until it answers, warm; ``start`` and ``play`` raise Failed; ``stop`` may come at any time."""

    @property
    def alive(self) -> bool: ...

    async def start(self) -> None: ...

    async def play(self, plan: Plan, seed: str) -> Played: ...

    def stop(self) -> None: ...


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.list:
        print("\n".join([*(f"{each.name:12} {each.title}" for each in WORKLOADS), STACK]))
        return 0
    try:
        print(uvloop.run(measure(options)))
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED
    return 0


def parser() -> argparse.ArgumentParser:
    names = [*(workload.name for workload in WORKLOADS), STACK]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds that count (default: 3)")
    parser.add_argument("--only", nargs="+", default=names, choices=names, metavar="NAME", help="these only")
    parser.add_argument("--ours-only", action="store_true", help="leave mlx_lm.server out")
    parser.add_argument("--list", action="store_true", help="name the workloads and end")
    return parser


async def measure(options: argparse.Namespace) -> str:
    """The tables, as Markdown. All that was started is ended, also after Ctrl-C and SIGTERM."""
    end_in_order()
    parts = [f"{datetime.now(UTC):%Y-%m-%d}, {options.rounds} rounds. {machine()}."]
    with tempfile.TemporaryDirectory(prefix="mlx-bench-") as folder, sides_in(Path(folder)) as sides:
        if options.ours_only:
            del sides[THEIRS]
        seed = secrets.token_hex(4)  # no cache that outlives a run has seen these prompts
        results = {
            workload.name: await play_in_turns(workload, sides, options.rounds, seed, say)
            for workload in WORKLOADS
            if workload.name in options.only
        }
        for side in sides.values():
            side.stop()  # what is at rest must not share the machine with what is measured
        if results:
            parts.append(table(HEADINGS, verdicts(results)))
        if STACK in options.only:
            parts.append(table(("what it costs", "value", "unit"), await stack_cost(Path(folder))))
    return "\n\n".join(parts)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def end_in_order() -> None:
    """SIGTERM cancels the task that asks for this, so that it ends its children as after Ctrl-C."""
    task = asyncio.current_task()
    assert task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


@contextmanager
def sides_in(folder: Path) -> Iterator[dict[str, Side]]:
    """Raises Failed where there is no model."""
    models = linked(float32_model(load_settings().cache_dir), folder)
    sides: dict[str, Side] = {
        OURS: our_server(models, folder),
        THEIRS: their_server(models, folder),
        ENGINE: EngineSide(models[0], ENGINE),
        BARE: EngineSide(models[0], BARE),
    }
    servers = list(sides.values())
    try:
        yield sides
    finally:
        for side in servers:
            side.stop()


def float32_model(cache_dir: Path) -> Path:
    """Made in another process: mlx is not for this one. Raises Failed."""
    command = [sys.executable, "-m", "benchmarks.float32_model", str(cache_dir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"the model could not be made: {done.stderr.strip().splitlines()[-1]}")
    return Path(done.stdout.strip())


def linked(model: Path, folder: Path) -> list[Path]:
    """One model under two names: to either server these are two."""
    links = [folder / name for name in NAMES]
    for link in links:
        link.symlink_to(model, target_is_directory=True)
    return links


async def play_in_turns(
    workload: Workload, sides: Mapping[str, Side], rounds: int, seed: str, say: Say
) -> dict[str, Rounds]:
    """Only one side is asked at a time. A side that fails is restarted for the next workload.

    Every other round goes the other way, as a machine may be faster behind a side that works less.
    """
    found = {name: Rounds() for name in sides_of(workload.name) if name in sides}
    for turn in range(rounds + 1):
        there = list(found.items())
        for name, kept in there if turn % 2 else reversed(there):
            if not kept.failed:
                told = await _play(
                    sides[name], workload, f"{seed} {workload.name} {turn}", kept, warm_up=not turn
                )
                say(f"{workload.name}, {f'round {turn} of {rounds}' if turn else 'warm-up'}, {name}: {told}")
    return found


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
    return ", ".join(f"{number(found[figure])} {figure.value}" for figure in Figure if figure in found)


def machine() -> str:
    """As far as it changes figures."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    memory, load = psutil.virtual_memory().total / 2**30, psutil.getloadavg()[0]
    return (
        f"{platform.system()} {platform.machine()}, {processor()}, {psutil.cpu_count()} cores, {memory:.0f} GiB, "
        f"load before {load:.1f}, Python {platform.python_version()}, {packages}"
    )


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


if __name__ == "__main__":
    raise SystemExit(main())
