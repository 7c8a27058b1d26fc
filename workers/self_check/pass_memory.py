"""What decode passes take beside the keys and values: as much again means that MLX copies arrays it should write to."""

from dataclasses import dataclass

import mlx.core as mx

from workers.job import Job, Served
from workers.self_check.speed import begin, decode_jobs, end

STEPS = 3


@dataclass(frozen=True)
class PassMemory:
    """Bytes. ``kv``: keys and values of ``rows`` sequences; ``beside``: the most that passes took beside all else."""

    rows: int
    kv: int
    beside: int


def pass_memory(served: Served[Job], rows: int) -> PassMemory:
    """MLX's peak is counted anew from here on."""
    jobs = decode_jobs(served, rows)
    begin(served, jobs)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    for _ in range(STEPS):
        served.engine.step()
    found = PassMemory(rows, int(served.engine.report["kv_bytes"]), max(0, mx.get_peak_memory() - before))
    end(served, jobs)
    return found
