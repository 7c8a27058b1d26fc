"""Processes that the benchmark starts, and ends with all they started."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from shared.settings import PREFIX

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 10.0  # seconds to end in order
INTERRUPTED = 130  # exit code


def end_in_order() -> None:
    """SIGTERM cancels the task that asks for this, so that it ends its children as after Ctrl-C."""
    task = asyncio.current_task()
    assert task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


class Child:
    """``python -m module``, in a session of its own: a terminal's Ctrl-C reaches us alone, and we end things in order.

    With ``talks`` it has pipes for stdin and stdout; what else it says is in ``log``.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        folder: Path,
        settings: Mapping[str, str] | None = None,
        talks: bool = False,
        stop_with: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.module = module
        self.log = folder / f"{module}.log"
        self._stop_with = stop_with
        pipe = subprocess.PIPE if talks else None
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=folder,  # not where a developer's .env is
                env=environment(settings or {}),
                stdin=pipe or subprocess.DEVNULL,
                stdout=pipe or log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def last_words(self, lines: int = 3) -> str:
        return " | ".join(self.log.read_text(errors="replace").strip().splitlines()[-lines:])

    def stop(self) -> None:
        """Ends it and whatever it started; nothing is left when this returns."""
        family = self._family()
        if self.alive:
            self.process.send_signal(self._stop_with)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE)
        _, left = psutil.wait_procs(family, timeout=0.5)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with suppress(OSError):
                    pipe.close()

    def _family(self) -> list[psutil.Process]:
        """Found before the end: afterwards nobody knows whose children they were."""
        try:
            parent = psutil.Process(self.process.pid)
            return [*parent.children(recursive=True), parent]
        except psutil.NoSuchProcess:
            return []


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Ours without the operator's settings of the server, and with these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    given = {PREFIX + name.upper(): value for name, value in settings.items()}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return kept | given | {"PYTHONPATH": path}
