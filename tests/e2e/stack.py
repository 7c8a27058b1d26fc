"""The whole server as an operator starts it, with a port and a run directory of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import psutil
from openai import OpenAI

from tests.cli.command import COMMAND, ROOT
from tests.ports import free_port

DEADLINE = 60.0  # seconds, on a busy machine


class Stack:
    command = [*COMMAND, "serve"]

    def __init__(self, settings: Mapping[str, object], ready: float = 60.0) -> None:
        self.folder = self.make_folder()
        (self.folder / "log").mkdir(mode=0o700)
        self.port = free_port()
        quiet = {"spare_workers": 0}  # whose imports would slow down what runs beside them
        wanted = {"port": self.port, "run_dir": self.folder, **quiet, **settings}
        ours = {f"MLX_SERVER_{name.upper()}": str(value) for name, value in wanted.items()}
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), **ours}
        self.process = subprocess.Popen(
            self.command,
            env=self.environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=DEADLINE)
        self.family = [psutil.Process(self.process.pid)]
        try:
            self.until(self._is_ready, "ready", ready)
        except BaseException:  # also at an interrupt: no caller could close it yet
            self.close()
            raise
        self.family += self.descendants()

    def make_folder(self) -> Path:
        """The run directory; its path is short, as Unix sockets need."""
        return Path(tempfile.mkdtemp(prefix="mlx", dir="/tmp"))

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.process.stdout and self.process.stdout.read()
        try:
            return self.http.get("/ready").status_code == 200
        except httpx.TransportError:
            return False

    @cached_property
    def openai(self) -> OpenAI:
        return OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0, timeout=60)

    def status(self) -> dict[str, Any]:
        report: dict[str, Any] = self.http.get("/admin/status").json()
        return report

    def workers(self, model: str) -> list[dict[str, Any]]:
        return [w for w in self.status()["workers"] if w["model"] == model and w["state"] == "ready"]

    def in_flight(self) -> int:
        count: int = self.status()["in_flight"]
        return count

    def until(self, condition: Callable[[], object], what: str, deadline: float = DEADLINE) -> float:
        """Waits for the condition and returns how long that took, in seconds."""
        began, pause = time.monotonic(), 0.01
        while not condition():
            assert time.monotonic() < began + deadline, f"not {what} within {deadline} s"
            time.sleep(pause)
            pause = min(1.2 * pause, 0.05)  # most conditions ask the server, whose answers cost it time
        return time.monotonic() - began

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, number: int = signal.SIGINT) -> int:
        """Sends a signal and returns the exit code."""
        self.family += [process for process in self.descendants() if process not in self.family]
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)

    def survivors(self) -> list[psutil.Process]:
        return [p for p in self.family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    def close(self) -> None:
        self.http.close()
        if "openai" in vars(self):
            self.openai.close()
        if self.process.poll() is None:
            self.stop(signal.SIGTERM)
        for process in self.survivors():
            process.kill()
        if self.process.stdout:
            self.process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def scripted_stack(*options: str, **settings: object) -> Iterator[Stack]:
    """Serves models ``a`` and ``b`` with scripted workers, which take ``options``."""
    command = [sys.executable, "-m", "tests.programs.scripted_worker", *options]
    stack = Stack({"available_models": "a=/none,b=/none", "worker_command": json.dumps(command), **settings})
    try:
        yield stack
    finally:
        stack.close()
