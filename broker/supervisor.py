"""Worker processes: starts them, takes over those of an earlier broker, ends them, learns how they ended.

Rule 1: a signal is sent only to a process that is surely ours: a child not reaped yet, or one held by its pidfd.
Rule 2: a worker lives in a session of its own: what ends the broker or its terminal does not end it.
"""

import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from broker.events import WorkerExited
from broker.processes import start_of

_TAIL_BYTES, _TAIL_LINES, _LINE = 8192, 12, 500
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def name_worker(model: str) -> str:
    """A name for a process, a socket's peer and a file; never used before."""
    return f"worker-{_UNSAFE.sub('-', model)[-64:]}-{secrets.token_hex(4)}"


class Process(Protocol):
    pid: int
    code: int | None  # once it has ended; None then: nobody can know

    def ended(self) -> bool: ...

    def signal(self, number: int) -> None: ...


class Child:
    def __init__(self, popen: "subprocess.Popen[bytes]") -> None:
        self._popen = popen
        self.pid = popen.pid
        self.code: int | None = None

    def ended(self) -> bool:
        self.code = self._popen.poll()
        return self.code is not None

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)


class Adopted:
    """Another broker's child: held by a pidfd where there are such, else known by its pid and when it was started."""

    code: int | None = None

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._start = start_of(pid)
        self.fd: int | None = None
        if hasattr(os, "pidfd_open"):
            with suppress(OSError):
                self.fd = os.pidfd_open(pid)

    def ended(self) -> bool:
        gone = self._start is None or start_of(self.pid) != self._start
        if gone and self.fd is not None:
            os.close(self.fd)
            self.fd = None
        return gone

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            if self.fd is not None:
                signal.pidfd_send_signal(self.fd, number)
            elif not self.ended():
                os.kill(self.pid, number)


class Supervisor:
    def __init__(self, command: Sequence[str], log_dir: Path) -> None:
        self._command = list(command)
        self._log_dir = log_dir
        self._processes: dict[str, Process] = {}
        self.watched: list[int] = []  # readable when an adopted process has ended

    def log_of(self, worker: str) -> str:
        return str(self._log_dir / f"{worker}.log")

    def pid_of(self, worker: str) -> int:
        """0: it is none of ours."""
        process = self._processes.get(worker)
        return process.pid if process else 0

    def spawn(self, worker: str, model: str) -> str | None:
        """Returns why it could not be done, if it could not."""
        try:
            with Path(self.log_of(worker)).open("ab") as output:
                child = subprocess.Popen(
                    [*self._command, "--model", model, "--id", worker],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    close_fds=True,
                )
        except OSError as error:
            return str(error)
        self._processes[worker] = Child(child)
        return None

    def adopt(self, worker: str, pid: int) -> None:
        adopted = self._processes[worker] = Adopted(pid)
        if adopted.fd is not None:
            self.watched.append(adopted.fd)

    def reap(self) -> list[WorkerExited]:
        """Those that ended since the last call."""
        ended = [(worker, process) for worker, process in self._processes.items() if process.ended()]
        for worker, _ in ended:
            del self._processes[worker]
        return [
            WorkerExited(worker, process.code, () if process.code == 0 else self._last_lines(worker))
            for worker, process in ended
        ]

    def _last_lines(self, worker: str) -> tuple[str, ...]:
        try:
            with Path(self.log_of(worker)).open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            return ()
        return tuple(line[:_LINE] for line in lines[-_TAIL_LINES:])

    def signal(self, worker: str, number: int) -> None:
        if process := self._processes.get(worker):
            process.signal(number)

    def close(self, patience: float) -> None:
        """Reaps what was killed; the others live on, and belong to init."""
        deadline = time.monotonic() + patience
        while self.reap() or (self._processes and time.monotonic() < deadline):
            time.sleep(0.01)
