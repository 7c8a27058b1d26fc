"""Worker processes: spawns them, adopts those of an earlier broker, signals them, reaps them.

Rule 1: a signal is sent only to a process that is surely a worker of ours: a child not reaped yet, or one held by its
pidfd. Rule 2: a worker has a session of its own, so that the end of the broker or its terminal does not end it.
"""

import logging
import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from broker.events import DownloadEnded, DownloadSaid, Inspected, SpareEnded, SpareSaid, WorkerExited
from broker.system.download_processes import DownloadProcesses
from broker.system.log_files import keep_end, keep_newest
from broker.system.processes import start_of
from broker.system.spare_processes import SpareProcesses
from shared.protocol import Inspection

log = logging.getLogger(__name__)

KEPT_LOGS = 20
INSPECTION = 30.0  # seconds
LOG_BYTES = 10 << 20  # of each
_TAIL_BYTES, _TAIL_LINES, _LINE = 8192, 12, 500
_OF_A_WORKER = ("-m", "workers")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def name_worker(model: str) -> str:
    """A new name, for a process, its socket and its log file."""
    return f"worker-{_UNSAFE.sub('-', model)[-64:]}-{secrets.token_hex(4)}"


@dataclass(frozen=True, slots=True)
class _Inspection:
    """``until``: when it is ended. ``python``: the model's own, if it has one."""

    child: "subprocess.Popen[bytes]"
    until: float
    python: str


class Process(Protocol):
    pid: int
    code: int | None  # once it has ended; None then: it was not our child

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
    """A child of an earlier broker, held by a pidfd or, where there are none, known by its pid and start time."""

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
    def __init__(
        self,
        command: Sequence[str],
        log_dir: Path,
        inspection: float = INSPECTION,
        restore: Callable[[], None] = lambda: None,
    ) -> None:
        """``inspection``: seconds that one may take. ``restore`` puts back the files that workers need."""
        self._restore = restore
        self._command = list(command)
        self._log_dir = log_dir
        self._inspection = inspection
        self._processes: dict[str, Process] = {}
        self._replaced: list[Process] = []  # that are not reaped yet, and whose ends are no news
        self._inspections: dict[str, _Inspection] = {}  # by model
        self.downloads = DownloadProcesses()
        self.spares = SpareProcesses(command)
        self.watched: list[int] = []  # readable when an adopted process has ended

    def log_of(self, worker: str) -> str:
        return str(self._log_dir / f"{worker}.log")

    def pid_of(self, worker: str) -> int:
        """0: the worker is not a process of ours."""
        process = self._processes.get(worker)
        return process.pid if process else 0

    def spawn(self, worker: str, model: str, python: str = "") -> str | None:
        """Returns why it failed, if it did. ``python``: the interpreter, if it is not that of the other workers."""
        output, command = self._output(worker), self._command_by(python)
        try:
            child = subprocess.Popen(
                [*command, "--model", model, "--id", worker],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                close_fds=True,
            )
        except OSError as error:
            named = "python" if python else "MLX_SERVER_WORKER_COMMAND"
            log.error("%s: %s cannot be started: %s", named, command[0], error)
            return f"{Path(command[0]).name!r}: {error.strerror}"
        finally:
            os.close(output)
        self._processes[worker] = Child(child)
        return None

    def start_spare(self, spare: str) -> str | None:
        """Returns why it failed, if it did."""
        output = self._output(spare)
        try:
            return self.spares.start(spare, output)
        finally:
            os.close(output)

    def spawn_from(self, spare: str, worker: str) -> bool:
        """Makes the spare process this worker's, which gets its log and its pid; False: the spare has ended.

        ``hand_over`` follows. Between the two the state is written, so that a next broker knows the pid.
        """
        process = self.spares.give(spare, worker)
        if process is None:
            return False
        self._processes[worker] = Child(process)
        with suppress(OSError):
            Path(self.log_of(spare)).rename(self.log_of(worker))  # it writes on to the same file
        return True

    def hand_over(self, worker: str, model: str) -> str | None:
        """Returns why it failed, if it did: then another process was tried."""
        self._restore()
        if self.spares.hand_over(worker, model):
            return None
        silent = self._processes.pop(worker)
        silent.signal(signal.SIGKILL)
        self._replaced.append(silent)
        return self.spawn(worker, model)

    def _command_by(self, python: str) -> list[str]:
        return [python, *_OF_A_WORKER] if python else self._command

    def inspect(self, model: str, python: str = "") -> bool:
        """False: it cannot begin. Else ``reap`` returns what was found."""
        command = [*self._command_by(python), "--model", model, "--inspect"]
        try:
            child = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            log.warning("%s cannot be inspected: %s", model, error)
            return False
        self._inspections[model] = _Inspection(child, time.monotonic() + self._inspection, python)
        return True

    def end_overdue_inspections(self) -> None:
        for inspection in self._inspections.values():
            if time.monotonic() > inspection.until:
                inspection.child.kill()

    def _reap_inspections(self) -> list[Inspected]:
        found = []
        for model, inspection in list(self._inspections.items()):
            if inspection.child.poll() is not None:
                del self._inspections[model]
                found.append(Inspected(model, _read(model, inspection)))
        return found

    def _output(self, worker: str) -> int:
        """A new log file, or /dev/null when it cannot be opened: a worker without a log is better than none."""
        self._restore()
        self.trim_logs(make_room=1)
        path = self.log_of(worker)
        try:
            return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            log.warning("%s runs without a log: %s: %s", worker, path, error.strerror)
            return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)

    def trim_logs(self, make_room: int = 0) -> None:
        """Keeps the newest logs of workers, and the end of each. Logs of living workers are not removed."""
        living = [self.log_of(name) for name in (*self._processes, *self.spares.names)]
        keep_newest(self._log_dir.glob("worker-*.log"), KEPT_LOGS - make_room, living)
        for path in living:
            keep_end(path, LOG_BYTES)

    def adopt(self, worker: str, pid: int) -> None:
        adopted = self._processes[worker] = Adopted(pid)
        if adopted.fd is not None:
            self.watched.append(adopted.fd)

    def read(self) -> list[DownloadSaid | SpareSaid]:
        """What children that are no workers have said since the last call."""
        return [*self.downloads.read(), *self.spares.read()]

    def reap(self) -> list[WorkerExited | Inspected | DownloadSaid | DownloadEnded | SpareEnded]:
        """The workers, the inspections, the downloads and the spares that ended since the last call."""
        self._replaced = [process for process in self._replaced if not process.ended()]
        ended = [(worker, process) for worker, process in self._processes.items() if process.ended()]
        for worker, _ in ended:
            del self._processes[worker]
        exits = [
            WorkerExited(worker, process.code, () if process.code == 0 else self._last_lines(worker))
            for worker, process in ended
        ]
        return [*exits, *self._reap_inspections(), *self.downloads.reap(), *self.spares.reap()]

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
        """Reaps killed workers for ``patience`` seconds; the others live on, as children of init."""
        for inspection in self._inspections.values():
            inspection.child.kill()
        self.downloads.close()
        self.spares.close()
        deadline = time.monotonic() + patience
        while self.reap() or (self._processes and time.monotonic() < deadline):
            time.sleep(0.01)


def _read(model: str, inspection: _Inspection) -> Inspection | None:
    """What it printed is little, so it is in the pipe; a child of its own may hold that open, so none is waited for.

    A Python of an operator's that prints no inspection cannot run a worker, which is said of its model.
    """
    child = inspection.child
    assert child.stdout
    with child.stdout as pipe:
        os.set_blocking(pipe.fileno(), False)
        said = pipe.read(1 << 16) or b""
    try:
        return Inspection.model_validate_json(said)
    except ValueError:
        log.warning("the inspection of %s failed with exit code %s", model, child.returncode)
    if not inspection.python or child.returncode < 0:
        return None
    log.warning(
        "%s, the python of %s, cannot run a worker: is mlx-server installed there?", inspection.python, model
    )
    reason = "the python of its table cannot run a worker: install this mlx-server there, or leave python out"
    return Inspection(reason=reason, permanent=True)
