"""Worker processes: starts them, ends them, learns how they ended.

Rule 1: a signal is sent only to a child of ours that is not reaped yet, so never to somebody who got its pid.
Rule 2: a worker lives in a session of its own: what ends the broker or its terminal does not end it.
"""

import re
import secrets
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from broker.events import WorkerExited

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def name_worker(model: str) -> str:
    """A name for a process, a socket's peer and a file; never used before."""
    return f"worker-{_UNSAFE.sub('-', model)[-64:]}-{secrets.token_hex(4)}"


class Supervisor:
    def __init__(self, command: Sequence[str], log_dir: Path) -> None:
        self._command = list(command)
        self._log_dir = log_dir
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def log_of(self, worker: str) -> str:
        return str(self._log_dir / f"{worker}.log")

    def spawn(self, worker: str, model: str) -> str | None:
        """Returns why it could not be done, if it could not."""
        try:
            with Path(self.log_of(worker)).open("ab") as output:
                self._children[worker] = subprocess.Popen(
                    [*self._command, "--model", model, "--id", worker],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    close_fds=True,
                )
        except OSError as error:
            return str(error)
        return None

    def reap(self) -> list[WorkerExited]:
        """Those that ended since the last call."""
        ended = []
        for worker, child in list(self._children.items()):
            code = child.poll()
            if code is not None:
                del self._children[worker]
                ended.append(WorkerExited(worker, code))
        return ended

    def terminate(self, worker: str) -> None:
        if child := self._children.get(worker):
            child.terminate()

    def kill(self, worker: str) -> None:
        if child := self._children.get(worker):
            child.kill()

    def close(self, patience: float) -> None:
        """Reaps what was killed; the others live on, and belong to init."""
        deadline = time.monotonic() + patience
        while self.reap() or (self._children and time.monotonic() < deadline):
            time.sleep(0.01)
