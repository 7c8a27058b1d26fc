"""CPU seconds and memory of the processes of our stack, by part."""

from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.child import Child

Seconds = dict[str, float]


class Usage:
    """``children`` are the broker and the api; the worker is found as the broker's child."""

    def __init__(self, children: list[Child]) -> None:
        self._parts = {child.module: psutil.Process(child.process.pid) for child in children}
        [self._worker] = self._parts["broker"].children()
        self._client = psutil.Process()

    def seconds(self) -> Seconds:
        """Since each process began. The worker's link is its main thread and ZeroMQ's; the rest is its engine."""
        spent = {name: _seconds(process) for name, process in self._parts.items()}
        whole, link = _seconds(self._worker), sum(_link_seconds(self._worker))
        return spent | {
            "worker link": link,
            "worker engine": whole - link,
            "this client": _seconds(self._client),
        }

    def memory(self) -> dict[str, int]:
        """Resident bytes."""
        return {name: process.memory_info().rss for name, process in self._parts.items()}


def spent(before: Seconds, after: Seconds) -> Seconds:
    return {name: after[name] - before[name] for name in after}


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _link_seconds(worker: psutil.Process) -> Iterator[float]:
    """Where the system names no threads (macOS), only the main one counts, if it is known."""
    for thread in worker.threads():
        if thread.id == worker.pid or _thread_name(worker.pid, thread.id).startswith("ZMQ"):
            yield thread.user_time + thread.system_time


def _thread_name(pid: int, thread: int) -> str:
    try:
        return Path(f"/proc/{pid}/task/{thread}/comm").read_text()
    except OSError:
        return ""
