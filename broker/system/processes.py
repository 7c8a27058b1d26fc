"""Facts about processes that are not our children, asked of the operating system."""

from pathlib import Path

import psutil

_HAS_PROC = Path("/proc/self/stat").exists()


def start_of(pid: int) -> str | None:
    """Its start time, in a form to compare, because a pid may have been used again. None: it has ended."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        if _HAS_PROC:  # in ticks since the boot; the value of psutil moves with the wall clock
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{process.create_time():.2f}"
    except (psutil.Error, OSError, ValueError):
        return None


def find(worker: str) -> int | None:
    """The process with this worker's name among its arguments."""
    for process in psutil.process_iter(["cmdline"]):
        if worker in (process.info["cmdline"] or ()):
            return process.pid
    return None
