"""One run: all that it starts, plays and measures; nothing of it is left running, however it ends."""

import secrets
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.child import ROOT
from benchmarks.costs import Cost, engine_step
from benchmarks.engine_side import EngineSide, Inside
from benchmarks.failures import Failed
from benchmarks.machine import machine, versions
from benchmarks.results import Results
from benchmarks.run import Say, run_workload
from benchmarks.servers import our_server, their_server
from benchmarks.side import Side
from benchmarks.stack_cost import stack_cost
from benchmarks.workloads import BARE, ENGINE, OURS, THEIRS, Workload

NAMES = ("smollm2-f32", "smollm2-f32-b")
COSTS = {
    "engine-step": "one engine step of 32 rows without the model",
    "stack-128": "128 streams from a worker without a model: tokens/s, CPU, memory",
}


class Session:
    """``folder`` is for this run alone."""

    def __init__(self, model: Path, folder: Path, say: Say) -> None:
        models = linked(model, folder)
        self._folder = folder
        self._say = say
        self._inside = Inside(models[0], folder)
        self._sides: dict[str, Side] = {
            OURS: our_server(models, folder),
            THEIRS: their_server(models, folder),
            ENGINE: EngineSide(self._inside, ENGINE),
            BARE: EngineSide(self._inside, BARE),
        }

    async def measure(
        self, workloads: Sequence[Workload], costs: Collection[str], rounds: int, *, ours_only: bool
    ) -> Results:
        results = Results(
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=machine(),
            versions=versions(),
            rounds=rounds,
        )
        sides = {name: side for name, side in self._sides.items() if not (ours_only and name == THEIRS)}
        seed = secrets.token_hex(4)  # no cache that outlives a run has seen these prompts
        for workload in workloads:
            results.workloads[workload.name] = await run_workload(workload, sides, rounds, seed, self._say)
        await self._measure_costs(costs, results)
        return results

    async def _measure_costs(self, names: Collection[str], results: Results) -> None:
        """The servers end first: what is at rest must not share the machine with what is measured."""
        if "engine-step" in names:
            await self._measure_cost("engine-step", engine_step(self._inside), results)
        self.stop()
        if "stack-128" in names:
            await self._measure_cost("stack-128", stack_cost(self._folder), results)

    async def _measure_cost(self, name: str, measured: Awaitable[list[Cost]], results: Results) -> None:
        self._say(f"{name}: {COSTS[name]}")
        try:
            results.costs[name] = await measured
        except Failed as error:
            results.failed[name] = str(error)

    def stop(self) -> None:
        for side in self._sides.values():
            side.stop()


@contextmanager
def session(cache_dir: Path, say: Say) -> Iterator[Session]:
    """Raises Failed if there is no model."""
    model = float32_model(cache_dir)
    with tempfile.TemporaryDirectory(prefix="mlx-bench-") as folder:
        opened = Session(model, Path(folder), say)
        try:
            yield opened
        finally:
            opened.stop()


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
