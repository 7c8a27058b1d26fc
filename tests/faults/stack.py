"""The whole server, what can be done to it, and the oracles that are asked when it is over."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.cli.command import ROOT
from tests.e2e.stack import DEADLINE, Stack
from tests.faults.client import MARKER, Stream

QUICK = {
    "heartbeat_interval": 0.2,
    "heartbeat_timeout": 2.0,
    "stall_timeout": 2.0,
    "keepalive": 0.5,
    "first_token_silence": 2.0,
    "orphan_grace": 20.0,
    "drain_timeout": 10.0,
}


class FaultStack(Stack):
    def __init__(self, *options: str, **settings: object) -> None:
        command = [sys.executable, "-m", "tests.programs.scripted_worker", *options]
        models = {"available_models": "a=/none,b=/none", "worker_command": json.dumps(command)}
        self.fault_file = Path(f"/tmp/mlx-fault-{os.getpid()}-{id(self)}")
        self.static: list[subprocess.Popen[bytes]] = []
        super().__init__({**models, "fault": f"@{self.fault_file}", **QUICK, **settings})
        self.expected_tracebacks = 0

    # -------- its processes

    def program(self, name: str) -> psutil.Process:
        """``broker`` or ``api``, once supervisord has one."""
        found: list[psutil.Process] = []

        def look() -> bool:
            found[:] = [p for p in self.descendants() if f" -m {name}" in " ".join(cmdline(p))]
            return bool(found)

        self.until(look, f"a running {name}")
        return found[0]

    def worker_processes(self) -> list[psutil.Process]:
        """Of any broker: they name this stack's run directory in their environment."""
        return [
            process
            for process in psutil.process_iter()
            if "--id" in cmdline(process)
            and environ(process).get("MLX_SERVER_RUN_DIR") == str(self.folder)
            and process.status() != psutil.STATUS_ZOMBIE
        ]

    def worker_pid(self, model: str = "a") -> int:
        self.until(lambda: len(self.workers(model)) == 1, f"one worker of {model}")
        pid: int = self.workers(model)[0]["pid"]
        return pid

    def workers_in(self, state: str) -> list[dict[str, Any]]:
        """As the broker has them; none while there is no broker."""
        try:
            workers: list[dict[str, Any]] = self.status()["workers"]
        except (httpx.TransportError, KeyError):
            return []
        return [worker for worker in workers if worker["state"] == state]

    # -------- what is done

    def stream(self, seed: int, max_tokens: int, model: str = "a", say: str = "") -> Stream:
        return Stream(self.port, seed, max_tokens, model, say)

    def fault(self, spec: str) -> None:
        beside = self.fault_file.with_suffix(".new")
        beside.write_text(spec)
        self.fault_file.with_suffix(".done").unlink(missing_ok=True)
        beside.rename(self.fault_file)

    def until_fault(self) -> None:
        self.until(self.fault_file.with_suffix(".done").exists, "at the failpoint")

    def supervisorctl(self, *words: str) -> str:
        command = [str(Path(sys.executable).parent / "supervisorctl"), "-c", str(ROOT / "supervisord.conf")]
        known = {"RUN_DIR": self.folder, "HOST": "127.0.0.1", "PORT": self.port}
        exports = {**known, "API_PROCESSES": 1, "PYTHON": sys.executable}
        environment = {**os.environ, **{f"MLX_SERVER_{name}": str(value) for name, value in exports.items()}}
        done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, timeout=90)
        return done.stdout + done.stderr

    def static_worker(self, *options: str) -> "subprocess.Popen[bytes]":
        """One that the broker did not start, of model ``a``; the log of all of them is ``static``."""
        name = f"worker-static-{len(self.static)}"
        program = "tests.programs.scripted_worker"
        with (self.folder / "log" / "static").open("ab") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", program, "--model", "a", "--id", name, *options],
                env=self.environment,
                stderr=log,
            )
        self.static.append(worker)
        return worker

    def kill_broker(self) -> int:
        """Gives the pid it had."""
        broker = self.program("broker")
        broker.send_signal(signal.SIGKILL)
        broker.wait(DEADLINE)
        return broker.pid

    # -------- oracles

    def check(self) -> None:
        """Nothing is left in flight, one worker serves each model, and no log has what it should not."""
        self.until(self._is_quiet, "quiet")
        models = [worker["model"] for worker in self.status()["workers"]]
        assert len(models) == len(set(models)), f"more than one worker of a model: {models}"
        self.until(lambda: len(self.worker_processes()) == len(self.status()["workers"]), "without orphans")
        for name, log in self.logs():
            assert MARKER not in log, f"{name} has a prompt in it"
            assert log.count("Traceback") <= self.expected_tracebacks, (
                f"{name} has a traceback:\n{log[-4000:]}"
            )

    def _is_quiet(self) -> bool:
        try:
            answer = self.http.get("/admin/status")
        except httpx.TransportError:
            return False
        if answer.status_code != 200:
            return False
        report = answer.json()
        return bool(report["in_flight"] == report["queued"] == 0)

    def logs(self) -> Iterator[tuple[str, str]]:
        for path in (self.folder / "log").iterdir():
            yield path.name, path.read_text(errors="replace")

    def log(self, start: str) -> str:
        return "".join(text for name, text in self.logs() if name.startswith(start))

    def close(self) -> None:
        workers = self.worker_processes()
        super().close()
        for worker in self.static:
            worker.kill()
            worker.wait()
        for process in workers:
            if process.is_running():
                process.kill()
        for suffix in ("", ".done", ".new"):
            self.fault_file.with_suffix(suffix).unlink(missing_ok=True)


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def environ(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


@contextmanager
def fault_stack(*options: str, **settings: object) -> Iterator[FaultStack]:
    stack = FaultStack(*options, **settings)
    try:
        yield stack
    finally:
        stack.close()


def all_right(streams: list[Stream]) -> None:
    wrong = [answer.wrong for answer in (stream.result() for stream in streams) if answer.wrong]
    assert not wrong, wrong


__all__ = ["ROOT", "FaultStack", "all_right", "fault_stack"]
