"""Which processes belong to a stack: every process that ``serve`` starts, and theirs, inherits one mark.

Workers have sessions of their own and outlive the broker, so neither a process group nor the tree finds them all.
"""

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress

import psutil

MARK = "MLX_SERVER_STACK"  # its value is the run directory, of which one stack has the lock


def find(run_dir: str) -> list[psutil.Process]:
    """All that carry the mark and live. Our own process never does."""
    return [process for process in psutil.process_iter() if _carries(process, run_dir)]


def tree(root: psutil.Process) -> list[psutil.Process]:
    """A process and all below it; for systems that do not show the environment of some process."""
    try:
        return [root, *root.children(recursive=True)] if root.is_running() else []
    except psutil.NoSuchProcess:
        return []


def send(number: signal.Signals, processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def kill_all(run_dir: str, root: psutil.Process, patience: float = 10.0) -> None:
    """Again and again until nobody is left: a process may start another while it is being killed."""
    deadline = time.monotonic() + patience
    while (living := {*find(run_dir), *tree(root)}) and time.monotonic() < deadline:
        send(signal.SIGKILL, living)
        psutil.wait_procs(living, timeout=1)


def _carries(process: psutil.Process, run_dir: str) -> bool:
    try:
        if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.environ().get(MARK) == run_dir
    except (psutil.Error, OSError):  # gone, or somebody else's
        return False
