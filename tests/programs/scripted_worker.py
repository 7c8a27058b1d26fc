"""A worker with a ScriptedEngine instead of a model: the real link, loop and text path, no mlx.

``MLX_SERVER_WORKER_COMMAND='["python", "-m", "tests.programs.scripted_worker", "--step", "0.01"]'``
"""

import argparse
import mmap
import os
import sys
import time
from pathlib import Path
from typing import Any

from shared import failpoints, logs
from shared.protocol import Run
from shared.settings import load_settings
from workers.job import Job, Served
from workers.model.load_error import Progress
from workers.scripted.engine import CONTEXT_LENGTH, Script, ScriptedEngine, prepare_scripted
from workers.serve import serve


def take(size: int) -> mmap.mmap:
    """So many bytes of memory that is really there, and at no moment more."""
    taken = mmap.mmap(-1, max(1, size))
    for at in range(0, size, mmap.PAGESIZE):
        taken[at] = 1
    return taken


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--id")
    parser.add_argument("--step", type=float, default=0.0, help="seconds a step takes")
    parser.add_argument("--prefill", type=float, default=0.0, help="seconds a prompt takes")
    parser.add_argument(
        "--prepare", type=float, default=0.0, help="seconds a prompt that says 'slow' is prepared"
    )
    parser.add_argument("--load", type=float, default=0.0, help="seconds the model takes to load")
    parser.add_argument("--poison", help="a prompt with this in it ends the process")
    parser.add_argument("--exit-if", type=Path, help="exits 1 if this file is there and names the model")
    parser.add_argument("--weights", type=int, default=0, help="bytes that the process takes besides")
    parser.add_argument("--tokens", type=int, help="length of every completion; without it, max_tokens")
    options = parser.parse_args()
    if options.exit_if and options.exit_if.exists() and options.model in options.exit_if.read_text().split():
        print("the weights are made of cheese", file=sys.stderr)
        return 1
    failpoints.arm(os.environ.get(failpoints.VARIABLE))
    settings = load_settings()
    logs.configure(f"scripted worker {options.model}", settings.log_level)
    weights: list[mmap.mmap] = []  # as long as the process lives
    script = Script(options.tokens, options.step, options.prefill, options.poison)

    def prepare(run: Run) -> Job:
        job = prepare_scripted(run)
        if b"slow" in bytes(job.prompt):
            time.sleep(options.prepare)  # like a library that never looks up
        return job

    def load(progress: Progress) -> Served[Any]:
        progress("script", 0, 1)
        time.sleep(options.load)
        weights.append(take(options.weights))
        progress("script", 1, 1)
        return Served(ScriptedEngine(script), prepare, "scripted", CONTEXT_LENGTH)

    return serve(settings, options.model, options.id, load)


if __name__ == "__main__":
    sys.exit(main())
