"""What decode passes take beside the keys and values: as much again means that MLX copies arrays it should write to."""

from dataclasses import dataclass

from workers.engine.memory.device_memory import memory_beside
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
    beside = memory_beside(lambda: [served.engine.step() for _ in range(STEPS)])
    found = PassMemory(rows, int(served.engine.report["kv_bytes"]), beside)
    end(served, jobs)
    return found
