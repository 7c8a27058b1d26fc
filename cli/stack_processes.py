"""Finds the processes of a stack: all inherit one environment variable from ``serve``.

Workers run in sessions of their own and outlive the broker, so neither a process group nor the process tree finds all.
"""

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress

import psutil

VARIABLE = "MLX_SERVER_STACK"  # its value is the run directory, which one stack has locked


def find(run_dir: str) -> list[psutil.Process]:
    """All living processes with the variable, except this one."""
    return [process for process in psutil.process_iter() if _belongs(process, run_dir)]


def tree(root: psutil.Process) -> list[psutil.Process]:
    """A process and its descendants; for systems that hide the environment of some processes."""
    try:
        return [root, *root.children(recursive=True)] if root.is_running() else []
    except psutil.NoSuchProcess:
        return []


def send(number: signal.Signals, processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def kill_all(run_dir: str, root: psutil.Process, patience: float = 10.0) -> None:
    """Repeats until no process is left: a process may start another while it is being killed."""
    deadline = time.monotonic() + patience
    while (living := {*find(run_dir), *tree(root)}) and time.monotonic() < deadline:
        send(signal.SIGKILL, living)
        psutil.wait_procs(living, timeout=1)


def _belongs(process: psutil.Process, run_dir: str) -> bool:
    try:
        if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.environ().get(VARIABLE) == run_dir
    except (psutil.Error, OSError):  # it has ended, or belongs to another user
        return False
